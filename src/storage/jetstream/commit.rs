//! The next message of a topic, and what becomes of the appends in it. The queue changes only after the message is stored.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::bus::Address;
use super::message::{Head, end_of, sequence_of, start_of};
use super::queue::{Queued, pop_if};
use crate::record::{Epoch, Offset, Position, Receipt, UnixMicros};
use crate::storage::Error;
use crate::storage::window;
use crate::telemetry::trace::Steps;

/// End of a topic as far as this replica has read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Sequence of the newest message; 0 if there never was one.
    pub sequence: u64,
    /// Offset just after its last record, or the tail if that is not known. Every offset from here to the tail names the
    /// next record.
    pub next: Offset,
    /// Number of records stored so far, counted from some starting point.
    pub records: u64,
    /// Publish time of the newest commit.
    pub time: UnixMicros,
}

impl Seen {
    /// Offset of the next record.
    #[must_use]
    pub const fn tail(&self) -> Offset {
        end_of(self.sequence)
    }
}

/// Outcome for a batch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Placed { index: u32, count: u32 },
    Duplicate(window::Stored),
}

/// Outcome of one append in this commit.
#[derive(Debug)]
pub(super) struct Part {
    /// Serial number of the append.
    pub(super) serial: u64,
    /// Number of its batches that were settled by earlier commits.
    pub(super) from: usize,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) refused: Option<Error>,
}

impl Part {
    /// Returns true if it settles a batch.
    pub(super) const fn settles(&self) -> bool {
        !self.verdicts.is_empty() || self.refused.is_some()
    }

    /// Starts the part of an append.
    pub(super) const fn of(append: &Queued) -> Self {
        Self {
            serial: append.serial,
            from: append.appended.receipts.len(),
            verdicts: Vec::new(),
            refused: None,
        }
    }
}

/// Place of a stored commit.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset just after the last record of its message, which may hold commits of other replicas too.
    pub end: Offset,
    /// Publish time.
    pub time: UnixMicros,
}

/// One message with the batches of many appends.
#[derive(Debug)]
pub struct Commit {
    /// Headers of its message.
    pub head: Head,
    /// Payload of its message.
    pub payload: Bytes,
    /// End of the topic that the message must follow.
    pub after: Seen,
    pub(super) epoch: Epoch,
    pub(super) parts: Vec<Part>,
    /// Address and nonce of each handed-over commit that cannot be stored unchanged.
    pub stale: Vec<(Address, u64)>,
}

const fn is_condition(error: &Error) -> bool {
    matches!(error, Error::ExpectedOffset { .. })
}

impl Commit {
    /// Returns true if there is nothing to store, because it holds only duplicates and refusals.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.records == 0
    }

    /// Returns the sequence of the message if it is stored.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.after.sequence + 1
    }

    /// Builds the headers of the message, for a topic with this base.
    #[must_use]
    pub fn headers(&self, base: u64) -> HeaderMap {
        self.head.headers(self.after.sequence - base)
    }

    /// Returns the place of the commit if it is stored with that sequence.
    #[must_use]
    pub const fn place(&self) -> Place {
        let base = start_of(self.sequence());
        Place { base, end: base.plus(self.head.records as u64), time: self.head.time }
    }

    /// Returns the serial number of the newest append with a part in it.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.parts.last().map(|part| part.serial)
    }

    /// Returns true if it holds every waiting batch.
    #[must_use]
    pub fn is_all_of(&self, appends: &VecDeque<Queued>) -> bool {
        let (Some(part), Some(last)) = (self.parts.last(), appends.back()) else { return false };
        part.serial == last.serial && part.verdicts.len() == last.batches.len()
    }

    /// Returns true if it answers no append.
    #[must_use]
    pub fn settles_nothing(&self) -> bool {
        !self.parts.iter().any(Part::settles)
    }

    /// Answers the appends that the commit settles and removes them from the queue. The commit must be stored at
    /// `place`.
    pub fn settle(self, place: Place, queue: &mut VecDeque<Queued>, steps: Option<Steps>) {
        let (epoch, own) = (self.epoch, self.after.tail());
        // Only positions that no unused offset follows are told. If all records before one are removed, it is then the
        // earliest offset.
        let end = end_of(sequence_of(place.base));
        let receipt = |first, offset, time, duplicate| Receipt {
            first,
            next: Position { epoch, offset },
            time,
            duplicate,
        };
        let within = |index: u64, count: u32, duplicate| {
            let first = place.base.plus(index);
            let next = first.plus(u64::from(count));
            receipt(first, if next == place.end { end } else { next }, place.time, duplicate)
        };
        let judged = |verdict| match verdict {
            Verdict::Placed { index, count } => within(u64::from(index), count, false),
            // The batch repeats another one of the same commit.
            Verdict::Duplicate(stored) if stored.first >= own => {
                within(stored.first.get() - own.get(), stored.span, true)
            }
            Verdict::Duplicate(stored) => receipt(stored.first, stored.next(), stored.time, true),
        };
        let told = |refused| match refused {
            Error::RequestIdReused { first } if first >= own => {
                Error::RequestIdReused { first: place.base.plus(first.get() - own.get()) }
            }
            // Other batches of the same commit precede it.
            Error::ExpectedOffset { epoch, tail } if tail > own => Error::ExpectedOffset { epoch, tail: end },
            refused => refused,
        };
        for part in self.parts {
            // An append that was answered in the meantime is no longer in the queue.
            let Some(mut append) = pop_if(queue, |append| append.serial == part.serial) else {
                continue;
            };
            append.appended.steps = steps;
            let settled = append.appended.receipts.len().saturating_sub(part.from);
            let more = part.verdicts.len().saturating_sub(settled);
            append.batches.drain(..more);
            append.appended.receipts.extend(part.verdicts.into_iter().skip(settled).map(judged));
            if part.refused.is_some() || append.batches.is_empty() {
                append.answer(part.refused.map(told));
            } else {
                queue.push_front(append);
            }
        }
    }

    /// Fails every append with a part in it.
    pub fn fail(self, queue: &mut VecDeque<Queued>, error: &Error) {
        for part in self.parts {
            let Some(append) = pop_if(queue, |append| append.serial == part.serial) else { continue };
            // A refusal keeps its reason. Only the refusal of a condition does not, because it depends on the end of
            // the commit.
            append.answer(Some(match part.refused {
                Some(refused) if part.verdicts.is_empty() && !is_condition(&refused) => refused,
                _ => error.clone(),
            }));
        }
    }
}
