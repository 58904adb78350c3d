//! The options of a publisher.

use std::fmt;
use std::sync::Arc;

use crate::client::retry::RetryPolicy;
use crate::record::Receipt;

/// A batch that became durable.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Index of the batch among those of this publisher, from 0.
    pub batch: u64,
    /// Number of its records.
    pub records: u32,
    /// Receipt of the batch.
    pub receipt: Receipt,
}

/// A callback for every batch that became durable, in order. It runs in the publisher's task and must not block.
pub type OnStored = Arc<dyn Fn(&Stored) + Send + Sync>;

/// The options of a publisher.
#[derive(Clone)]
pub struct PublisherOptions {
    /// Largest number of records in one batch; the server's default limit is 1000. Batches that a server refuses as too
    /// large are split to its limits, unless they were given as batches.
    pub records_per_batch: u32,
    /// Largest size of the records of one batch, in bytes; a larger record is sent alone. What exceeds 4032 KiB does not
    /// count, so that a batch fits into one gRPC message.
    pub bytes_per_batch: usize,
    /// Largest number of unacknowledged batches; publishing more waits.
    pub window: u32,
    /// Largest size of unacknowledged batches, in bytes; publishing more waits.
    pub bytes_max: usize,
    /// Sends a `request_id` with every batch. Without it, batches that were sent and not acknowledged fail when a
    /// connection breaks, as they must not be sent twice.
    pub idempotent: bool,
    /// Limits on the resumption of a broken connection.
    pub retry: RetryPolicy,
    /// A callback for every batch that became durable.
    pub on_stored: Option<OnStored>,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            records_per_batch: 1000,
            bytes_per_batch: 256 << 10,
            window: 4096,
            bytes_max: 32 << 20,
            idempotent: true,
            retry: RetryPolicy::default(),
            on_stored: None,
        }
    }
}

impl fmt::Debug for PublisherOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherOptions")
            .field("records_per_batch", &self.records_per_batch)
            .field("window", &self.window)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}
