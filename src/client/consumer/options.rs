//! The options of a consumer.

use std::time::Duration;

use crate::client::error::Error;
use crate::client::retry::RetryPolicy;
use crate::proto::v1;

/// Most records that a consumer handles at a time, or holds ahead.
const RECORDS_MAX: usize = 100_000;

/// The options of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Name of the topic.
    pub topic: String,
    /// Name of the group.
    pub group: String,
    /// Name of this member for people, at most 128 bytes.
    pub member: String,
    /// Number of records that are handled at a time. Those of one key are handled one after another in a group that is
    /// ordered by key, and all of them in a group with a total order.
    pub concurrency: usize,
    /// Number of records that are held ahead, so that the next one is there when a handler ends. Others could handle
    /// them, so it should be small where handling is slow.
    pub prefetch: usize,
    /// Size of all records held, in bytes. A single record that is larger comes alone.
    pub held_bytes_max: u64,
    /// Number of deliveries after which the consumer ends; none for no limit.
    pub deliveries_max: Option<u64>,
    /// Settings to create the group with if it does not exist. Without them the server decides.
    pub create: Option<v1::GroupSettings>,
    /// Start of a group that is created; the oldest record if there is none.
    pub start: Option<v1::GroupStart>,
    /// Time that handlers have to end once the consumer was asked to stop. Then they are aborted, and their records given
    /// back.
    pub stop_timeout: Duration,
    /// Limits on the resumption of a broken connection.
    pub retry: RetryPolicy,
}

impl ConsumerOptions {
    /// The defaults: one record at a time and one ahead, at most 64 MiB, and 30 s to stop.
    #[must_use]
    pub fn new(topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            group: group.into(),
            member: String::new(),
            concurrency: 1,
            prefetch: 1,
            held_bytes_max: 64 << 20,
            deliveries_max: None,
            create: None,
            start: None,
            stop_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |message: String| Err(Error::local(tonic::Code::InvalidArgument, message));
        if !(1..=RECORDS_MAX).contains(&self.concurrency) {
            return invalid(format!("concurrency must be 1 to {RECORDS_MAX}"));
        }
        if self.prefetch > RECORDS_MAX {
            return invalid(format!("prefetch must be at most {RECORDS_MAX}"));
        }
        if self.held_bytes_max == 0 {
            return invalid("held_bytes_max must not be 0".to_owned());
        }
        Ok(())
    }
}
