//! Builder of the next message of a topic. It finds duplicates, checks conditions, and assigns offsets that are correct
//! if no other message is stored first.

use std::collections::VecDeque;

use super::bus::Address;
use super::commit::{Commit, Part, Seen, Verdict};
use super::handover::Parcel;
use super::message::{Digest, HANDED_BYTES, HANDED_MAX, Handed, Head, ID_BYTES, IdEntry, digest};
use super::names::RECORDS_MAX;
use super::queue::Queued;
use crate::record::{Batch, Epoch, Offset, Scope, UnixMicros, offsetless};
use crate::storage::Error;
use crate::storage::window::{self, Mark, Owner, Window};

/// Inputs of a commit.
#[derive(Debug)]
pub struct Basis<'a> {
    /// Incarnation of the topic.
    pub epoch: Epoch,
    /// End of the topic.
    pub seen: Seen,
    /// Number of appends, from the first one on, whose conditions can be decided for good. NATS confirmed this end
    /// after they arrived, so it includes everything that was acknowledged before they were sent.
    pub certain: usize,
    /// Every `request_id` stored up to that end.
    pub window: &'a Window,
    /// Wall clock, for publish times.
    pub wall: UnixMicros,
    /// Steady clock, for the ages of ids.
    pub steady: UnixMicros,
    /// Maximum size of the payload and the ids together, in bytes.
    pub bytes_max: usize,
    /// Address of this follower. None if it accepts no batches of other replicas.
    pub by: Option<Address>,
    /// True if another replica is to store the commit. The commit then holds nothing that depends on its place.
    pub for_other: bool,
    /// Offset before which only batches of the backup that is being restored are stored.
    pub cut: Offset,
    /// Commits that other replicas handed over and that are to be stored too.
    pub held: &'a [Parcel],
    /// True if those commits precede the batches of this replica.
    pub held_first: bool,
}

/// Result of a build.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; most are the large one")]
pub enum Built {
    /// A commit, which may be empty.
    Commit(Commit),
    /// No commit yet, because a condition does not hold and another replica may have moved the end.
    Behind,
}

/// Builds a commit of the waiting appends, as many as one message holds.
#[must_use]
pub fn build(queue: &VecDeque<Queued>, basis: &Basis<'_>) -> Built {
    // No two messages have the same time, because receipts with the same time are merged as parts of one message.
    let time = basis.wall.max(UnixMicros(basis.seen.time.0.saturating_add(1)));
    let (payload, ids, fresh) = (Vec::new(), Vec::new(), window::Map::default());
    let (handed, stale) = (Vec::new(), Vec::new());
    let mut builder = Builder { basis, time, payload, ids, fresh, records: 0, settles: false, handed, stale };
    if basis.held_first {
        builder.add_held();
    }
    let mut parts = Vec::new();
    'appends: for (append, index) in queue.iter().zip(0..) {
        let mut part = Part::of(append);
        if append.is_refused() {
            part.refused = Some(Error::EarlierFailed);
            parts.push(part);
            continue;
        }
        for batch in &append.batches {
            builder.settles = !parts.is_empty() || !part.verdicts.is_empty();
            match builder.add(batch, index < basis.certain) {
                Added::Verdict(verdict) => part.verdicts.push(verdict),
                Added::Refused(error) => {
                    part.refused = Some(error);
                    break;
                }
                // Earlier appends are settled first, by a commit without this batch.
                Added::Behind if parts.is_empty() && part.verdicts.is_empty() && builder.records == 0 => {
                    return Built::Behind;
                }
                Added::Behind | Added::Full => {
                    parts.push(part);
                    break 'appends;
                }
            }
        }
        parts.push(part);
    }
    if !basis.held_first && (builder.records > 0 || !parts.iter().any(Part::settles)) {
        builder.add_held();
    }
    Built::Commit(builder.finish(parts))
}

struct Builder<'a> {
    basis: &'a Basis<'a>,
    time: UnixMicros,
    payload: Vec<u8>,
    ids: Vec<IdEntry>,
    fresh: window::Map,
    records: u32,
    /// True if there are earlier results to report before the next batch is added.
    settles: bool,
    handed: Vec<Handed>,
    stale: Vec<(Address, u64)>,
}

/// Request id under which nothing is stored yet.
struct NewId {
    key: window::Key,
    digest: Digest,
    scope: Scope,
}

/// State of the condition of a batch.
enum Condition {
    /// The condition holds, or there is none.
    Holds,
    /// The condition does not hold at this tail.
    Fails { tail: Offset },
    /// The condition does not hold at the end that was read, and may hold at a newer one.
    MayHold,
    /// The commit is for another replica, but conditions must be checked by this one.
    ForOther,
}

enum Added {
    Verdict(Verdict),
    Refused(Error),
    Full,
    Behind,
}

impl Builder<'_> {
    /// Adds a batch. The first row of this table that applies decides:
    ///
    /// | `request_id`      | records | room | condition            | to answer first | becomes             |
    /// |-------------------|---------|------|----------------------|-----------------|---------------------|
    /// | repeated          |         |      |                      |                 | a duplicate         |
    /// | of other content  |         |      |                      |                 | refused             |
    /// | new, or none      | damaged |      |                      |                 | refused             |
    /// | new, or none      | intact  | (a batch that is not of the backup that is being restored) | refused |
    /// | new, or none      | intact  | no   |                      |                 | part of a later one |
    /// | new, or none      | intact  | yes  | for another replica  |                 | part of a later one |
    /// | new, or none      | intact  | yes  | fails for good       |                 | refused             |
    /// | new, or none      | intact  | yes  | fails, perhaps       |                 | behind              |
    /// | new, or none      | intact  | yes  | holds, or none       | only            | part of a later one |
    /// | new, or none      | intact  | yes  | holds, or none       | no, or records  | stored              |
    fn add(&mut self, batch: &Batch, certain: bool) -> Added {
        let (id, known) = self.find(batch).map_or((None, None), |(id, known)| (Some(id), known));
        match known {
            Some(stored) if stored.is_repeated_by(batch) => {
                return Added::Verdict(Verdict::Duplicate(stored));
            }
            Some(stored) => return Added::Refused(Error::RequestIdReused { first: stored.first }),
            None if crc32c::crc32c(batch.records()) != batch.crc() => {
                let what = "the batch changed in memory after it was received";
                return Added::Refused(Error::Damaged(what.into()));
            }
            None if !batch.is_restored() && self.tail() < self.basis.cut => {
                return Added::Refused(Error::Restoring { cut: self.basis.cut });
            }
            None if !self.has_room_for(batch) => return Added::Full,
            None => {}
        }
        match self.condition(batch, certain) {
            Condition::ForOther => Added::Full,
            Condition::Fails { tail } => {
                Added::Refused(Error::ExpectedOffset { epoch: self.basis.epoch, tail })
            }
            Condition::MayHold => Added::Behind,
            // Appends that need no write are answered first, in a commit of their own. They do not wait, however often
            // a commit with records loses its place.
            Condition::Holds if self.records == 0 && self.settles => Added::Full,
            Condition::Holds => Added::Verdict(self.place(batch, id)),
        }
    }

    /// Looks up the `request_id` of a batch and the batch that is stored under it.
    fn find(&self, batch: &Batch) -> Option<(NewId, Option<window::Stored>)> {
        let id = batch.request_id()?;
        let (digest, scope) = (digest(id), id.scope());
        let (key, known) = self.basis.window.find(0, scope, &digest, self.basis.steady);
        // A batch of a backup was stored once, whatever else has its id.
        let known = self.fresh.get(&key).copied().or(known).filter(|_| !batch.is_restored());
        Some((NewId { key, digest, scope }, known))
    }

    /// Returns true if the message has room for a batch.
    fn has_room_for(&self, batch: &Batch) -> bool {
        let bytes = offsetless::encoded_len(self.time, batch) + ID_BYTES;
        self.records + batch.count() <= RECORDS_MAX
            && (self.records == 0 || self.bytes() + bytes <= self.basis.bytes_max)
    }

    /// Checks the condition of a batch at the place where it would be stored.
    fn condition(&self, batch: &Batch, certain: bool) -> Condition {
        let Some(expected) = batch.expected_offset() else { return Condition::Holds };
        let tail = self.tail();
        // For the first batch of the commit, all offsets between the last record and the tail name the same place. A
        // batch of a backup must get exactly the offset that it had.
        let is_range = self.records == 0 && !batch.is_restored();
        let first = if is_range { self.basis.seen.next } else { tail };
        // After other batches of the commit, the refusal is reported only when these are stored, and it is true by
        // then.
        let is_certain = if self.records == 0 { certain } else { expected < tail };
        match () {
            () if self.basis.for_other => Condition::ForOther,
            () if (first..=tail).contains(&expected) => Condition::Holds,
            () if is_certain => Condition::Fails { tail },
            () => Condition::MayHold,
        }
    }

    /// Offset that the next batch would get.
    fn tail(&self) -> Offset {
        self.basis.seen.tail().plus(u64::from(self.records))
    }

    /// Adds a batch after the others, and returns its place.
    fn place(&mut self, batch: &Batch, id: Option<NewId>) -> Verdict {
        let (index, count) = (self.records, batch.count());
        offsetless::encode(self.time, batch, &mut self.payload);
        self.records += count;
        if let Some(NewId { key, digest, scope }) = id {
            let content = batch.content();
            self.ids.push(IdEntry { index, count, digest, mark: Some(Mark { scope, content }) });
            let (first, owner) = (self.basis.seen.tail().plus(u64::from(index)), Owner::of(scope));
            let (time, at) = (self.time, self.basis.steady);
            self.fresh.insert(key, window::Stored { first, span: count, content, owner, time, at });
        }
        Verdict::Placed { index, count }
    }

    fn bytes(&self) -> usize {
        self.payload.len() + ID_BYTES * self.ids.len() + HANDED_BYTES * self.handed.len()
    }

    /// Adds commits of other replicas, as many as fit.
    fn add_held(&mut self) {
        for parcel in self.basis.held {
            if self.handed.len() >= HANDED_MAX {
                return;
            }
            match self.add_parcel(parcel) {
                Some(true) => {}
                Some(false) => return,
                None => self.stale.push((parcel.from, parcel.head.nonce)),
            }
        }
    }

    /// Adds a whole commit of another replica. Returns `Some(false)` if it does not fit, and none if it cannot be
    /// stored unchanged.
    fn add_parcel(&mut self, Parcel { from, head, payload, .. }: &Parcel) -> Option<bool> {
        let Head { nonce, records, ids, .. } = head;
        if self.records + records > RECORDS_MAX
            || (self.records > 0 && self.bytes() + payload.len() > self.basis.bytes_max)
        {
            return Some(false);
        }
        let window = self.basis.window;
        let scope = |id: &IdEntry| id.mark.map_or(Scope::NONE, |mark| mark.scope);
        let is_known = |id: &IdEntry| {
            let (key, known) = window.find(0, scope(id), &id.digest, self.basis.steady);
            known.is_some() || self.fresh.contains_key(&key)
        };
        if ids.iter().any(is_known) || crc32c::crc32c(payload) != head.crc {
            return None;
        }
        let before = self.payload.len();
        let restamped = offsetless::restamp(payload, self.time, &mut self.payload);
        let bytes = self.bytes() + ID_BYTES * ids.len() + HANDED_BYTES;
        let fits = self.records == 0 || bytes <= self.basis.bytes_max;
        if !fits || restamped != Ok(u64::from(*records)) {
            self.payload.truncate(before);
            return if fits { None } else { Some(false) };
        }
        let index = self.records;
        for id in ids {
            let id = IdEntry { index: index + id.index, ..*id };
            let first = self.basis.seen.tail().plus(u64::from(id.index));
            let (content, owner) = (id.mark.map_or(0, |mark| mark.content), Owner::of(scope(&id)));
            let (span, time, at) = (id.count, self.time, self.basis.steady);
            let stored = window::Stored { first, span, content, owner, time, at };
            self.fresh.insert(window.key(0, scope(&id), &id.digest), stored);
            self.ids.push(id);
        }
        self.handed.push(Handed { from: *from, nonce: *nonce, index });
        self.records += records;
        Some(true)
    }

    fn finish(self, parts: Vec<Part>) -> Commit {
        let Self { basis, time, payload, ids, records, handed, stale, .. } = self;
        let head = Head {
            nonce: fastrand::u64(..),
            time,
            before: basis.seen.records,
            records,
            crc: crc32c::crc32c(&payload),
            ids,
            by: basis.by,
            handed,
        };
        Commit { head, payload: payload.into(), after: basis.seen, epoch: basis.epoch, parts, stale }
    }
}

#[cfg(test)]
mod tests;
