//! The next message of a topic, made of what waits: duplicates found, conditions checked, offsets
//! given on the condition that nothing else is stored first.
//! Never: sends it, or changes the queue before it is stored.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::message::{Head, ID_BYTES, IdEntry, digest, end_of, start_of};
use super::names::RECORDS_MAX;
use super::queue::Append;
use crate::record::{Batch, Epoch, Offset, Position, Receipt, UnixMicros, unplaced};
use crate::storage::Error;
use crate::storage::window::{self, Mark, Owner, Window};
use crate::telemetry::trace::Steps;

/// What is known of the topic's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest message; 0 where there never was one.
    pub sequence: u64,
    /// Just after its last record: every offset from here to the tail names the next record.
    pub next: Offset,
    /// Records stored so far, counted from some point.
    pub records: u64,
    /// When the newest group was stored.
    pub time: UnixMicros,
}

impl Seen {
    /// The offset the next record gets.
    #[must_use]
    pub const fn tail(&self) -> Offset {
        end_of(self.sequence)
    }
}

/// What the group is built on.
#[derive(Debug)]
pub struct Basis<'a> {
    /// The incarnation.
    pub epoch: Epoch,
    /// The end of the topic.
    pub seen: Seen,
    /// Of how many appends, from the first on, a condition that does not hold fails for good: that this
    /// is the end was learnt from NATS after they came. What was acknowledged to anybody before they
    /// were sent is part of it.
    pub certain: usize,
    /// Every `request_id` stored up to there.
    pub window: &'a Window,
    /// The wall clock, for publish times.
    pub wall: UnixMicros,
    /// The steady clock, for the ages of ids.
    pub steady: UnixMicros,
    /// Most bytes of payload and ids.
    pub bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Placed { index: u32, count: u32 },
    Duplicate(window::Stored),
}

/// What becomes of one append in this group.
#[derive(Debug, Default)]
struct Part {
    verdicts: Vec<Verdict>,
    refused: Option<Error>,
}

/// A group that was built.
#[derive(Debug)]
pub struct Group {
    /// What its message says.
    pub head: Head,
    /// The message's bytes.
    pub payload: Bytes,
    /// It must follow this.
    pub after: Seen,
    epoch: Epoch,
    parts: Vec<Part>,
}

/// What was made of the queue.
#[derive(Debug)]
pub enum Built {
    /// This.
    Group(Group),
    /// Nothing yet: a condition does not hold, but another replica may have moved the end.
    Behind,
}

struct Builder<'a> {
    basis: &'a Basis<'a>,
    time: UnixMicros,
    payload: Vec<u8>,
    ids: Vec<IdEntry>,
    fresh: window::Map,
    records: u32,
}

enum Added {
    Verdict(Verdict),
    Refused(Error),
    Full,
    Behind,
}

const fn is_condition(error: &Error) -> bool {
    matches!(error, Error::ExpectedOffset { .. })
}

/// Makes a group of what waits, as much as one message takes.
#[must_use]
pub fn build(queue: &VecDeque<Append>, basis: &Basis<'_>) -> Built {
    let time = basis.wall.max(basis.seen.time);
    let (payload, ids, fresh) = (Vec::new(), Vec::new(), window::Map::default());
    let mut builder = Builder { basis, time, payload, ids, fresh, records: 0 };
    let mut parts = Vec::new();
    'appends: for (append, index) in queue.iter().zip(0..) {
        let mut part = Part::default();
        if append.refused.load(Ordering::Relaxed) {
            part.refused = Some(Error::EarlierFailed);
            parts.push(part);
            continue;
        }
        for batch in &append.batches {
            match builder.add(batch, index < basis.certain) {
                Added::Verdict(verdict) => part.verdicts.push(verdict),
                Added::Refused(error) => {
                    part.refused = Some(error);
                    break;
                }
                // What was settled before it is settled first.
                Added::Behind if parts.is_empty() && part.verdicts.is_empty() => return Built::Behind,
                Added::Behind | Added::Full => {
                    parts.push(part);
                    break 'appends;
                }
            }
        }
        parts.push(part);
    }
    Built::Group(builder.finish(parts))
}

impl Builder<'_> {
    fn add(&mut self, batch: &Batch, certain: bool) -> Added {
        let mut unknown = None;
        if let Some(id) = batch.request_id() {
            let (digest, scope) = (digest(id.as_str()), id.scope());
            let (key, known) = self.basis.window.find(0, scope, &digest, self.basis.steady);
            if let Some(stored) = self.fresh.get(&key).copied().or(known) {
                return if stored.is_repeated_by(batch) {
                    Added::Verdict(Verdict::Duplicate(stored))
                } else {
                    Added::Refused(Error::RequestIdReused { first: stored.first })
                };
            }
            unknown = Some((key, digest, scope));
        }
        if crc32c::crc32c(batch.records()) != batch.crc() {
            let what = "the batch changed in memory after it was received";
            return Added::Refused(Error::Damaged(what.into()));
        }
        let bytes = unplaced::encoded_len(self.time, batch) + ID_BYTES;
        let held = self.payload.len() + ID_BYTES * self.ids.len();
        if self.records + batch.count() > RECORDS_MAX
            || (self.records > 0 && held + bytes > self.basis.bytes_max)
        {
            return Added::Full;
        }
        let seen = self.basis.seen;
        if let Some(expected) = batch.expected_offset() {
            let tail = seen.tail().plus(u64::from(self.records));
            // Where nothing precedes it in the group, everything between two records is one place.
            let least = if self.records == 0 { seen.next } else { tail };
            if !(least..=tail).contains(&expected) {
                // Behind others of its group it is told once these are stored, which makes it true.
                let is_known = if self.records == 0 { certain } else { expected < tail };
                if !is_known {
                    return Added::Behind;
                }
                return Added::Refused(Error::ExpectedOffset { epoch: self.basis.epoch, tail });
            }
        }
        let (index, count) = (self.records, batch.count());
        unplaced::encode(self.time, batch, &mut self.payload);
        self.records += count;
        if let Some((key, digest, scope)) = unknown {
            let content = batch.content();
            self.ids.push(IdEntry { index, count, digest, mark: Some(Mark { scope, content }) });
            let (first, owner) = (seen.tail().plus(u64::from(index)), Owner::of(scope));
            let (time, at) = (self.time, self.basis.steady);
            self.fresh.insert(key, window::Stored { first, count, content, owner, time, at });
        }
        Added::Verdict(Verdict::Placed { index, count })
    }

    fn finish(self, parts: Vec<Part>) -> Group {
        let Self { basis, time, payload, ids, records, .. } = self;
        let head = Head {
            nonce: fastrand::u64(..),
            time,
            before: basis.seen.records,
            records,
            crc: crc32c::crc32c(&payload),
            ids,
        };
        Group { head, payload: payload.into(), after: basis.seen, epoch: basis.epoch, parts }
    }
}

impl Group {
    /// Whether there is nothing to store: only duplicates and refusals.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.records == 0
    }

    /// The sequence it gets if it is stored.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.after.sequence + 1
    }

    /// The headers of its message.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        self.head.headers(self.after.sequence)
    }

    /// It is stored: answers those it settles, and takes them off the queue.
    pub fn settle(self, queue: &mut VecDeque<Append>, steps: Option<Steps>) {
        let base = start_of(self.sequence());
        let receipt = |first: Offset, count: u32, time, duplicate| {
            let next = Position { epoch: self.epoch, offset: first.plus(u64::from(count)) };
            Receipt { first, next, time, duplicate }
        };
        for part in self.parts {
            let Some(mut append) = queue.pop_front() else { return };
            append.appended.steps = steps;
            append.batches.drain(..part.verdicts.len());
            append.appended.receipts.extend(part.verdicts.into_iter().map(|verdict| match verdict {
                Verdict::Placed { index, count } => {
                    receipt(base.plus(u64::from(index)), count, self.head.time, false)
                }
                Verdict::Duplicate(stored) => receipt(stored.first, stored.count, stored.time, true),
            }));
            if part.refused.is_some() || append.batches.is_empty() {
                append.answer(part.refused);
            } else {
                queue.push_front(append);
            }
        }
    }

    /// It failed: answers everyone who has a part in it.
    pub fn fail(self, queue: &mut VecDeque<Append>, error: &Error) {
        for part in self.parts {
            let Some(append) = queue.pop_front() else { return };
            // What was to be refused anyway is told why; a condition was judged by the group's own end.
            append.answer(Some(match part.refused {
                Some(refused) if part.verdicts.is_empty() && !is_condition(&refused) => refused,
                _ => error.clone(),
            }));
        }
    }
}
