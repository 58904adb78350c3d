//! The idempotency window: which request ids were stored, with which receipt and content (P5). They may
//! come in any order: kept are those stored last, and of each principal its share.
//! Never: durable; what an engine stores is.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};

use self::order::Order;
use self::slots::{Place, Slots};
use crate::record::{Batch, Offset, Scope, UnixMicros};

mod order;
mod slots;
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

/// Memory of so few ids is not worth giving back.
const SMALL: usize = 64;

/// What was stored, by key.
pub type Map = HashMap<Key, Stored, BuildHasherDefault<Taken>>;

/// The newest request ids. One takes about 100 bytes of memory where there are a million.
///
/// What was stored lies in the order in which it came, which is nearly that in which it is forgotten; the table
/// by key holds 8 bytes an id, so that a look into it seldom waits for memory.
#[derive(Debug)]
pub struct Window {
    table: HashTable<Place>,
    slots: Slots,
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
            table: HashTable::new(),
            slots: Slots::default(),
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
        Self { table: HashTable::new(), slots: Slots::default(), order: Order::default(), ..*self }
    }

    /// Takes in everything of another window that [`Self::empty`] made.
    pub fn absorb(&mut self, other: Self, now: UnixMicros) {
        // In order of time, which is how most of them can be appended.
        let mut ids: Vec<_> = other.ids().collect();
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
        if stored.is_none() && self.order.holds(Owner::UNKNOWN) {
            return (key, self.get(self.unmarked(topic, id), now));
        }
        (key, stored)
    }

    fn get(&self, key: Key, now: UnixMicros) -> Option<Stored> {
        self.stored(key).filter(|stored| !self.is_old(stored.at, now))
    }

    fn ids(&self) -> impl Iterator<Item = (Key, Stored)> {
        self.table.iter().map(|place| self.slots.id(place.slot))
    }

    fn stored(&self, key: Key) -> Option<Stored> {
        let place = self.table.find(Place::hash_of(key), |place| self.slots.is_at(place, key))?;
        Some(self.slots.stored(place.slot))
    }

    fn is_old(&self, at: UnixMicros, now: UnixMicros) -> bool {
        now.0.saturating_sub(at.0) > self.age
    }

    /// Remembers an id, and forgets those that are too old at `now`, or too many. Of two batches under one
    /// id the one stored later counts.
    pub fn insert(&mut self, key: Key, stored: Stored, now: UnixMicros) {
        self.extend([(key, stored)], now);
    }

    /// The same for several ids at once.
    pub fn extend(&mut self, ids: impl IntoIterator<Item = (Key, Stored)>, now: UnixMicros) {
        for (key, stored) in ids {
            self.put(key, stored);
        }
        self.forget_old(now);
        self.forget_beyond(self.count_max);
    }

    fn put(&mut self, key: Key, stored: Stored) {
        let hash = Place::hash_of(key);
        if let Some(place) = self.table.find_mut(hash, |place| self.slots.is_at(place, key)) {
            let known = self.slots.stored(place.slot);
            if (known.at, known.first) < (stored.at, stored.first) {
                *place = Place::new(key, self.slots.add(key, stored));
                self.order.add(stored.owner, stored.at, *place);
                self.order.discount_replaced(known.owner, &mut self.slots, &self.table);
            }
        } else {
            let place = Place::new(key, self.slots.add(key, stored));
            self.table.insert_unique(hash, place, Place::hash);
            self.order.add(stored.owner, stored.at, place);
        }
    }

    /// Number of ids.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Forgets the oldest ids, of the owner that has the most, until there are no more than `count`.
    pub fn forget_beyond(&mut self, count: usize) {
        while self.table.len() > count
            && let Some(owner) = self.order.largest()
        {
            self.forget(owner);
        }
        if self.slots.capacity() > 8 * self.table.len().max(SMALL) {
            self.give_back();
        }
    }

    /// Gives back the memory of ids that were forgotten, which collections keep.
    fn give_back(&mut self) {
        let all = std::mem::replace(self, self.empty());
        let now = self.started;
        self.table.reserve(2 * all.count(), Place::hash);
        self.absorb(all, now);
    }

    /// Forgets what is too old at `now`.
    fn forget_old(&mut self, now: UnixMicros) {
        while let Some((time, owner)) = self.order.stalest()
            && self.is_old(time, now)
        {
            if self.order.file_by_age(owner).is_some_and(|oldest| self.is_old(oldest, now)) {
                self.forget(owner);
            }
        }
    }

    /// Forgets the oldest id of an owner, or no more than its place where the id was stored anew.
    fn forget(&mut self, owner: u32) {
        let Some(oldest) = self.order.pop(owner) else { return };
        self.slots.free(oldest.slot);
        if let Ok(place) = self.table.find_entry(oldest.hash(), |place| *place == oldest) {
            place.remove();
            self.order.discount(owner, &mut self.slots);
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
            let (time, owner) = self.order.stalest()?;
            if self.order.file_by_age(owner)? == time {
                return Some(time);
            }
        }
    }
}
