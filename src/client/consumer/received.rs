//! A leased record as a handler gets it, and how its handling can end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::client::damaged::damaged;
use crate::client::error::Error;
use crate::record::block::Blocks;
use crate::record::{Offset, RecordRef, UnixMicros};
use crate::wire::Lease;

/// The result of a handler.
pub type Handled = Result<(), Rejection>;

/// A leased record. It shares the memory of its batch.
#[derive(Clone, Debug)]
pub struct Received {
    encoded: Bytes,
    key: Bytes,
    value: Bytes,
    offset: Offset,
    publish_time: UnixMicros,
    delivery: u32,
    fence: u64,
    traceparent: Bytes,
    group_id: Arc<str>,
    pub(super) lost: CancellationToken,
}

impl Received {
    /// The records of a lease of the group with this id.
    pub(super) fn of(lease: &Lease, group_id: &Arc<str>) -> Result<Vec<Self>, Error> {
        let mut all = Vec::new();
        for run in &lease.batches {
            for block in Blocks::new(run) {
                let block = block.map_err(|why| damaged(Offset::ZERO, why))?;
                for (encoded, index) in block.records().zip(0..) {
                    let at = block.first.plus(index);
                    let record =
                        RecordRef::parse(at, block.time(), encoded).map_err(|why| damaged(at, why))?;
                    let offset = record.offset.get();
                    let again = lease.rest.redeliveries.iter().find(|again| {
                        again.range.is_some_and(|range| (range.start..range.end).contains(&offset))
                    });
                    all.push(Self {
                        encoded: run.slice_ref(encoded),
                        key: shared(run, record.key),
                        value: shared(run, record.value),
                        offset: record.offset,
                        publish_time: record.publish_time,
                        delivery: again.map_or(1, |again| again.delivery),
                        fence: lease.rest.fence,
                        group_id: Arc::clone(group_id),
                        traceparent: shared(run, block.traceparent()),
                        lost: CancellationToken::new(),
                    });
                }
            }
        }
        Ok(all)
    }

    /// The offset of the record.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// The key, which may be empty.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// The payload, which may be empty.
    #[must_use]
    pub const fn value(&self) -> &Bytes {
        &self.value
    }

    /// The number of this delivery: 1 for the first one.
    #[must_use]
    pub const fn delivery(&self) -> u32 {
        self.delivery
    }

    /// The number that rises with every lease of the record. A store that keeps the highest one beside its results, and
    /// refuses lower ones, sees every record's effects once.
    #[must_use]
    pub const fn fence(&self) -> u64 {
        self.fence
    }

    /// The id of the group: another one if the group or its topic was deleted and created again. With the offset it names
    /// the record, over all its deliveries.
    #[must_use]
    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    /// W3C trace context of the publish, for spans of the handling; empty if the publish had none.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        std::str::from_utf8(&self.traceparent).unwrap_or_default()
    }

    /// The whole record, with its headers and times.
    #[must_use]
    pub fn record(&self) -> RecordRef<'_> {
        let (offset, publish_time) = (self.offset, self.publish_time);
        RecordRef::parse(offset, publish_time, &self.encoded).expect("it was parsed when it came")
    }

    /// Waits until the lease is lost: another member may handle the record from then on, and what this handler returns
    /// is dropped.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns true if the lease is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Size of the record in bytes, as the server counts it.
    pub(super) fn size(&self) -> u64 {
        self.encoded.len() as u64
    }
}

/// A part of `run`, or no bytes, which need not be in it.
fn shared(run: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { run.slice_ref(part) }
}

/// The reason why a record was not handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The handling failed: the delivery counts, and the record is leased again.
    Retry {
        /// Delay before the next delivery; that of the group's settings if there is none.
        delay: Option<Duration>,
        /// The reason, of which the group keeps up to 1,024 bytes.
        reason: String,
    },
    /// The handling failed for good: the record is given up.
    DeadLetter {
        /// The reason, for the header of the copy. Up to 1,024 bytes of it are kept.
        reason: String,
    },
    /// The handling has not begun: the record is leased again, and the delivery does not count.
    Return,
}

impl Rejection {
    /// A failure after which the record is leased again, with the delay of the group's settings.
    #[must_use]
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { delay: None, reason: reason.into() }
    }

    /// A failure for good.
    #[must_use]
    pub fn dead_letter(reason: impl Into<String>) -> Self {
        Self::DeadLetter { reason: reason.into() }
    }
}
