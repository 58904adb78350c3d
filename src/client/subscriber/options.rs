//! The options of a subscriber.

use std::time::Duration;

use crate::client::retry::RetryPolicy;
use crate::proto::v1;
use crate::record::{Offset, Position, UnixMicros};

/// The start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record of the topic.
    Earliest,
    /// The tail: only records published from now on.
    Latest,
    /// The first record at or after this offset.
    Offset(Offset),
    /// The first batch stored at or after this time.
    Time(UnixMicros),
    /// This number of records before the tail.
    Last(u64),
    /// The position `next` of an earlier delivery.
    Position(Position),
}

/// The options of a subscriber.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    /// Name of the topic.
    pub topic: String,
    /// The start of the subscription.
    pub start: Start,
    /// Policy for a start, or a position to resume at, that is not in the topic.
    pub out_of_range: v1::OutOfRangePolicy,
    /// Limit at which the subscription ends.
    pub limit: Option<v1::ReadLimit>,
    /// Interval of the server's heartbeats, 1 s to 10 min. After three missing ones the connection counts as broken.
    pub heartbeat_interval: Duration,
    /// Limits on the resumption of a broken connection.
    pub retry: RetryPolicy,
}

impl SubscriberOptions {
    /// The defaults: no limit, a heartbeat every 15 s.
    #[must_use]
    pub fn new(topic: impl Into<String>, start: Start) -> Self {
        Self {
            topic: topic.into(),
            start,
            out_of_range: v1::OutOfRangePolicy::Fail,
            limit: None,
            heartbeat_interval: Duration::from_secs(15),
            retry: RetryPolicy::default(),
        }
    }

    /// All records of the topic, and those published later.
    #[must_use]
    pub fn from_earliest(topic: impl Into<String>) -> Self {
        Self::new(topic, Start::Earliest)
    }
}
