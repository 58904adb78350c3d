//! The idempotency window: which request ids were stored, with which receipt and content (P5). They may
//! come in any order: kept are those stored last, and of each principal its share.
//! Never: durable; what an engine stores is.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::record::{Batch, Offset, Scope, UnixMicros};

#[cfg(test)]
mod tests;

/// What was stored under a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Records in the batch.
    pub count: u32,
    /// Checksum of what they say. Not looked at where the owner is [`Owner::UNKNOWN`].
    pub content: u32,
    /// Whose it is.
    pub owner: Owner,
    /// When it was stored.
    pub time: UnixMicros,
    /// The same on the steady clock, which ages are measured by.
    pub at: UnixMicros,
}

impl Stored {
    /// Whether a batch repeats it. Of what was stored without a checksum anything does.
    #[must_use]
    pub fn is_repeated_by(&self, batch: &Batch) -> bool {
        self.owner == Owner::UNKNOWN || (self.count == batch.count() && self.content == batch.content())
    }
}

/// What is stored beside a request id: whose it is, and the checksum of what was stored under it. Ids that
/// earlier programs stored have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub scope: Scope,
    /// As [`Batch::content`].
    pub content: u32,
}

/// Who an id is counted for: a part of its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(u64);

impl Owner {
    /// Of ids stored by an earlier program, which noted neither scope nor content.
    pub const UNKNOWN: Self = Self(u64::MAX);

    /// Of a scope.
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        let mut half = [0; 8];
        half.copy_from_slice(&scope.bytes()[..8]);
        Self(u64::from_be_bytes(half).min(u64::MAX - 1))
    }
}

/// A topic, a scope and a request id, as 128 bits of a keyed hash: a million ids collide with a chance of
/// 2^-88, and nobody outside knows the key, so that no client can choose ids that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64, u64);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Takes half of a [`Key`], which is a hash already, for the hash.
#[derive(Debug, Default)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key writes one u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A collection of so many entries is not worth shrinking.
const SMALL: usize = 64;

/// What was stored, by key.
pub type Map = HashMap<Key, Stored, BuildHasherDefault<Taken>>;

/// The newest request ids. One takes about 145 bytes of memory where there are a million.
#[derive(Debug)]
pub struct Window {
    stored: Map,
    order: Order,
    hasher: SipHasher13,
    age: u64,
    count_max: usize,
    started: UnixMicros,
}

impl Window {
    /// Remembers at most `count_max` ids, none longer than `age`. The steady clock says `started`.
    #[must_use]
    pub fn new(age: Duration, count_max: usize, started: UnixMicros) -> Self {
        let random = RandomState::new();
        Self {
            stored: Map::default(),
            order: Order::default(),
            hasher: SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)),
            age: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            count_max,
            started,
        }
    }

    /// Makes an empty window with the same hash key and limits.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self { stored: Map::default(), order: Order::default(), ..*self }
    }

    /// Takes in everything of another window that [`Self::empty`] made.
    pub fn absorb(&mut self, other: Self, now: UnixMicros) {
        // In order of time, which is how most of them can be appended.
        let mut ids: Vec<_> = other.stored.into_iter().collect();
        ids.sort_unstable_by_key(|(_, stored)| stored.at);
        for (key, stored) in ids {
            self.insert(key, stored, now);
        }
    }

    /// The key of an id within its scope.
    #[must_use]
    pub fn key(&self, topic: u64, scope: Scope, id: &[u8]) -> Key {
        self.hash(topic, id.len() as u64, scope.bytes(), id)
    }

    /// The key of an id, and the owner it is counted for. An id without a mark belongs to anybody.
    #[must_use]
    pub fn marked(&self, topic: u64, id: &[u8], mark: Option<Mark>) -> (Key, Owner) {
        match mark {
            Some(mark) => (self.key(topic, mark.scope, id), Owner::of(mark.scope)),
            None => (self.unmarked(topic, id), Owner::UNKNOWN),
        }
    }

    fn unmarked(&self, topic: u64, id: &[u8]) -> Key {
        // No id is so long: what has no scope never hashes the same bytes as what has one.
        self.hash(topic, id.len() as u64 | 1 << 63, [0; 16], id)
    }

    fn hash(&self, topic: u64, len: u64, scope: [u8; 16], id: &[u8]) -> Key {
        let mut head = [0; 32];
        head[..8].copy_from_slice(&topic.to_le_bytes());
        head[8..16].copy_from_slice(&len.to_le_bytes());
        head[16..].copy_from_slice(&scope);
        let mut hasher = self.hasher;
        hasher.write(&head);
        hasher.write(id);
        let hash = hasher.finish128();
        Key(hash.h1, hash.h2)
    }

    /// Where something stored by an earlier run at `time` stands on the steady clock: not in the future,
    /// where that run's wall clock was ahead.
    #[must_use]
    pub fn at(&self, time: UnixMicros) -> UnixMicros {
        time.min(self.started)
    }

    /// The id's key, and what was stored under it within the window, also by an earlier program, which noted
    /// no scope.
    #[must_use]
    pub fn find(&self, topic: u64, scope: Scope, id: &[u8], now: UnixMicros) -> (Key, Option<Stored>) {
        let key = self.key(topic, scope, id);
        let stored = self.get(key, now);
        if stored.is_none() && self.order.holds_unknown {
            return (key, self.get(self.unmarked(topic, id), now));
        }
        (key, stored)
    }

    fn get(&self, key: Key, now: UnixMicros) -> Option<Stored> {
        self.stored.get(&key).copied().filter(|stored| !self.is_old(stored.at, now))
    }

    fn is_old(&self, at: UnixMicros, now: UnixMicros) -> bool {
        now.0.saturating_sub(at.0) > self.age
    }

    /// Remembers an id, and forgets those that are too old at `now`, or too many. Of two batches under one
    /// id the one stored later counts.
    pub fn insert(&mut self, key: Key, stored: Stored, now: UnixMicros) {
        match self.stored.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(stored);
                self.order.add(stored.owner, stored.at, key);
            }
            Entry::Occupied(mut entry) => {
                let known = *entry.get();
                if (known.at, known.first) < (stored.at, stored.first) {
                    entry.insert(stored);
                    self.order.remove(known.owner, known.at, key);
                    self.order.add(stored.owner, stored.at, key);
                    self.order.compact(known.owner, &self.stored);
                }
            }
        }
        self.forget_old(now);
        self.forget_beyond(self.count_max);
    }

    /// Number of ids.
    #[must_use]
    pub fn count(&self) -> usize {
        self.stored.len()
    }

    /// Forgets the oldest ids, of the owner that has the most, until there are no more than `count`.
    pub fn forget_beyond(&mut self, count: usize) {
        while self.stored.len() > count
            && let Some(owner) = self.order.largest()
        {
            self.forget(owner);
        }
        // A map keeps its memory unless it is told to shrink.
        if self.stored.capacity() > 8 * self.stored.len().max(SMALL) {
            self.stored.shrink_to(2 * self.stored.len());
        }
    }

    /// Forgets what is too old at `now`.
    fn forget_old(&mut self, now: UnixMicros) {
        while let Some((time, owner)) = self.order.by_age.first().copied()
            && self.is_old(time, now)
        {
            if self.order.file_by_age(owner).is_some_and(|oldest| self.is_old(oldest, now)) {
                self.forget(owner);
            }
        }
    }

    /// Forgets the oldest id of an owner, or no more than its place where the id was stored anew.
    fn forget(&mut self, owner: Owner) {
        let Some(ids) = self.order.ids.get_mut(&owner) else { return };
        if let Some((at, key)) = ids.pop()
            && let Entry::Occupied(entry) = self.stored.entry(key)
            && (entry.get().at, entry.get().owner) == (at, owner)
        {
            entry.remove();
            ids.count -= 1;
            if ids.count == 0 {
                self.order.forget_owner(owner);
            }
        }
    }

    /// When an id is too old at `now`.
    #[must_use]
    pub const fn oldest(&self, now: UnixMicros) -> UnixMicros {
        UnixMicros(now.0.saturating_sub(self.age))
    }

    /// The time at which the oldest id that is remembered was stored, or an earlier one where ids were stored
    /// anew; none where no id is remembered.
    pub fn oldest_kept(&mut self) -> Option<UnixMicros> {
        loop {
            let (time, owner) = self.order.by_age.first().copied()?;
            if self.order.file_by_age(owner)? == time {
                return Some(time);
            }
        }
    }
}

/// An id of one owner, and when it was stored.
type Timed = (UnixMicros, Key);

/// The ids of one owner, by the time they were stored.
#[derive(Debug, Default)]
struct Ids {
    /// Those that came in order of time. An id that was stored anew stays here as well until its old time
    /// comes to the front.
    in_order: VecDeque<Timed>,
    /// Those that came later than a newer one.
    late: BTreeSet<Timed>,
    /// How many are remembered.
    count: usize,
    /// A count that is not below `count`, under which the owner stands in [`Order::by_size`].
    filed_count: usize,
    /// A time that is not after the oldest, under which the owner stands in [`Order::by_age`].
    filed_time: UnixMicros,
}

impl Ids {
    fn oldest(&self) -> Option<Timed> {
        match (self.in_order.front(), self.late.first()) {
            (Some(a), Some(b)) => Some(*a.min(b)),
            (a, b) => a.or(b).copied(),
        }
    }

    /// Takes out the oldest id, which may have been stored anew.
    fn pop(&mut self) -> Option<Timed> {
        let oldest = self.oldest()?;
        if self.in_order.front() != Some(&oldest) {
            return self.late.pop_first();
        }
        if self.in_order.capacity() > 8 * self.in_order.len().max(SMALL) {
            self.in_order.shrink_to(2 * self.in_order.len());
        }
        self.in_order.pop_front()
    }
}

/// The order in which ids are forgotten. An owner moves within the two sets only when its place there is
/// looked at or would be wrong in the other direction, not with every id.
#[derive(Debug, Default)]
struct Order {
    ids: HashMap<Owner, Ids>,
    /// Owners by how many ids they have at most.
    by_size: BTreeSet<(usize, Owner)>,
    /// Owners by a time that none of their ids is older than.
    by_age: BTreeSet<(UnixMicros, Owner)>,
    /// Whether there are ids of [`Owner::UNKNOWN`].
    holds_unknown: bool,
}

impl Order {
    /// Adds an id.
    fn add(&mut self, owner: Owner, at: UnixMicros, key: Key) {
        let ids = self.ids.entry(owner).or_default();
        let is_first = ids.count == 0;
        ids.count += 1;
        if ids.in_order.back().is_none_or(|newest| newest.0 <= at) {
            ids.in_order.push_back((at, key));
        } else {
            ids.late.insert((at, key));
        }
        if ids.count > ids.filed_count {
            let filed = ids.count + ids.count / 8;
            self.by_size.insert((filed, owner));
            self.by_size.remove(&(ids.filed_count, owner));
            ids.filed_count = filed;
        }
        if is_first || at < ids.filed_time {
            self.by_age.insert((at, owner));
            if !is_first {
                self.by_age.remove(&(ids.filed_time, owner));
            }
            ids.filed_time = at;
        }
        self.holds_unknown |= owner == Owner::UNKNOWN;
    }

    /// Takes out an id that is stored anew.
    fn remove(&mut self, owner: Owner, at: UnixMicros, key: Key) {
        let Some(ids) = self.ids.get_mut(&owner) else { return };
        ids.late.remove(&(at, key));
        ids.count -= 1;
        if ids.count == 0 {
            self.forget_owner(owner);
        }
    }

    fn forget_owner(&mut self, owner: Owner) {
        if let Some(ids) = self.ids.remove(&owner) {
            self.by_size.remove(&(ids.filed_count, owner));
            self.by_age.remove(&(ids.filed_time, owner));
            self.holds_unknown &= owner != Owner::UNKNOWN;
        }
    }

    /// Drops the old places of ids that were stored anew, once they are most of what an owner has.
    fn compact(&mut self, owner: Owner, stored: &Map) {
        if let Some(ids) = self.ids.get_mut(&owner)
            && ids.in_order.len() > 64 + 2 * ids.count
        {
            ids.in_order.retain(|(at, key)| {
                stored.get(key).is_some_and(|stored| (stored.at, stored.owner) == (*at, owner))
            });
        }
    }

    /// The owner with the most ids.
    fn largest(&mut self) -> Option<Owner> {
        loop {
            let mut largest = self.by_size.iter().rev();
            let (filed, owner) = *largest.next()?;
            let second = largest.next().map_or(0, |(count, _)| *count);
            let ids = self.ids.get_mut(&owner)?;
            if ids.count >= second || ids.count == filed {
                return Some(owner);
            }
            ids.filed_count = ids.count;
            self.by_size.insert((ids.count, owner));
            self.by_size.remove(&(filed, owner));
        }
    }

    /// Moves an owner to where its oldest id belongs, which it answers.
    fn file_by_age(&mut self, owner: Owner) -> Option<UnixMicros> {
        let ids = self.ids.get_mut(&owner)?;
        let (oldest, _) = ids.oldest()?;
        if oldest != ids.filed_time {
            self.by_age.insert((oldest, owner));
            self.by_age.remove(&(ids.filed_time, owner));
            ids.filed_time = oldest;
        }
        Some(oldest)
    }
}
