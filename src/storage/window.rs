//! The idempotency window: the request ids that were stored, each with its receipt and the checksum of its content
//! (P5). Ids may arrive in any order. The window keeps the ids that were stored last and gives every principal its
//! share. It lives in memory only; a storage engine makes the ids durable.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};

pub use self::entry::{Key, Map, Mark, Owner, Stored};
use self::order::Order;
use self::slots::{Place, Slots};
use crate::record::{Scope, UnixMicros};

mod entry;
mod order;
mod slots;
#[cfg(test)]
mod tests;

/// Number of ids below which the window does not release memory.
const SMALL: usize = 64;

/// The newest request ids. With a million of them, each takes about 100 bytes of memory.
///
/// Stored batches are kept in order of arrival, which is nearly the order in which they are forgotten. The table by key
/// holds 8 bytes for each id, so that a lookup seldom waits for memory.
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
    /// Makes a window that remembers at most `count_max` ids, none longer than `age`. `started` is the current time of
    /// the steady clock.
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

    /// Adds all ids of another window that was made by [`Self::empty`].
    pub fn absorb(&mut self, other: Self, now: UnixMicros) {
        // In order of time, most of the ids can be appended.
        let mut ids: Vec<_> = other.ids().collect();
        ids.sort_unstable_by_key(|(_, stored)| stored.at);
        for (key, stored) in ids {
            self.insert(key, stored, now);
        }
    }

    /// Returns the key of an id within its scope.
    #[must_use]
    pub fn key(&self, topic: u64, scope: Scope, id: &[u8]) -> Key {
        self.hash(topic, id.len() as u64, scope.bytes(), id)
    }

    /// Returns the key of an id, and the owner that it is counted for. An id without a mark belongs to
    /// [`Owner::UNKNOWN`].
    #[must_use]
    pub fn marked(&self, topic: u64, id: &[u8], mark: Option<Mark>) -> (Key, Owner) {
        match mark {
            Some(mark) => (self.key(topic, mark.scope, id), Owner::of(mark.scope)),
            None => (self.unmarked(topic, id), Owner::UNKNOWN),
        }
    }

    fn unmarked(&self, topic: u64, id: &[u8]) -> Key {
        // No id is this long, so an id without a scope never hashes the same bytes as an id with one.
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

    /// Converts a wall-clock time of an earlier run to the steady clock. The result is never in the future, even if
    /// that run's wall clock was ahead.
    #[must_use]
    pub fn at(&self, time: UnixMicros) -> UnixMicros {
        time.min(self.started)
    }

    /// Returns the key of an id, and the batch that was stored under it within the window. The batch may have been
    /// stored by an earlier version of the program, which recorded no scope.
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

    /// Adds an id, then removes the ids that are too old at `now` or exceed the maximum count. Of two batches under one
    /// id, the one stored later counts.
    pub fn insert(&mut self, key: Key, stored: Stored, now: UnixMicros) {
        self.extend([(key, stored)], now);
    }

    /// Adds several ids as [`Self::insert`] does.
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

    /// Returns the number of ids.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Removes ids until at most `count` are left. Each time, the owner with the most ids loses its oldest one.
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

    /// Releases the memory of forgotten ids, which the collections would keep.
    fn give_back(&mut self) {
        let all = std::mem::replace(self, self.empty());
        let now = self.started;
        self.table.reserve(2 * all.count(), Place::hash);
        self.absorb(all, now);
    }

    /// Removes the ids that are too old at `now`.
    fn forget_old(&mut self, now: UnixMicros) {
        while let Some((time, owner)) = self.order.stalest()
            && self.is_old(time, now)
        {
            if self.order.file_by_age(owner).is_some_and(|oldest| self.is_old(oldest, now)) {
                self.forget(owner);
            }
        }
    }

    /// Removes the oldest entry of an owner. If its id was stored again later, only the old entry is removed, and the
    /// id stays.
    fn forget(&mut self, owner: u32) {
        let Some(oldest) = self.order.pop(owner) else { return };
        self.slots.free(oldest.slot);
        if let Ok(place) = self.table.find_entry(oldest.hash(), |place| *place == oldest) {
            place.remove();
            self.order.discount(owner, &mut self.slots);
        }
    }

    /// Returns the earliest time that is still within the window at `now`. Ids stored before it are too old.
    #[must_use]
    pub const fn oldest(&self, now: UnixMicros) -> UnixMicros {
        UnixMicros(now.0.saturating_sub(self.age))
    }

    /// Returns the time at which the oldest remembered id was stored, or an earlier time if ids were stored again
    /// since. Returns `None` if the window is empty.
    pub fn oldest_kept(&mut self) -> Option<UnixMicros> {
        loop {
            let (time, owner) = self.order.stalest()?;
            if self.order.file_by_age(owner)? == time {
                return Some(time);
            }
        }
    }
}
