//! The idempotency window: which request ids were stored, with which receipt and content (P5). They may
//! come in any order: kept are those stored last, and of each principal its share.
//! Never: durable; what an engine stores is.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

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

/// A topic, a scope and a request id, as 128 bits of two independently keyed hashes: a million ids collide
/// with a chance of 2^-88, and nobody outside knows the keys.
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

/// A map of so many entries is not worth shrinking.
const SMALL: usize = 64;

/// What was stored, by key.
pub type Map = HashMap<Key, Stored, BuildHasherDefault<Taken>>;

/// The newest request ids. One takes about 175 bytes of memory where there are a million.
#[derive(Debug)]
pub struct Window {
    stored: Map,
    order: Order,
    hashers: (RandomState, RandomState),
    age: u64,
    count_max: usize,
    begun: UnixMicros,
}

impl Window {
    /// Remembers at most `count_max` ids, none longer than `age`. The steady clock says `begun`.
    #[must_use]
    pub fn new(age: Duration, count_max: usize, begun: UnixMicros) -> Self {
        Self {
            stored: Map::default(),
            order: Order::default(),
            hashers: (RandomState::new(), RandomState::new()),
            age: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            count_max,
            begun,
        }
    }

    /// Another one with the same keys and limits, empty.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self { stored: Map::default(), order: Order::default(), hashers: self.hashers.clone(), ..*self }
    }

    /// Takes in everything of another one made by [`Self::empty`].
    pub fn absorb(&mut self, other: Self, now: UnixMicros) {
        for (key, stored) in other.stored {
            self.insert(key, stored, now);
        }
    }

    /// The key of an id within its scope.
    #[must_use]
    pub fn key(&self, topic: u64, scope: Scope, id: &[u8]) -> Key {
        self.hash(&(topic, scope.bytes(), id))
    }

    /// The key of an id, and who it is counted for. One without a mark is anybody's.
    #[must_use]
    pub fn marked(&self, topic: u64, id: &[u8], mark: Option<Mark>) -> (Key, Owner) {
        match mark {
            Some(mark) => (self.key(topic, mark.scope, id), Owner::of(mark.scope)),
            None => (self.hash(&(topic, id)), Owner::UNKNOWN),
        }
    }

    fn hash(&self, id: &impl Hash) -> Key {
        Key(self.hashers.0.hash_one(id), self.hashers.1.hash_one(id))
    }

    /// Where something stored by an earlier run at `time` stands on the steady clock: not in the future,
    /// where that run's wall clock was ahead.
    #[must_use]
    pub fn at(&self, time: UnixMicros) -> UnixMicros {
        time.min(self.begun)
    }

    /// What was stored under an id within the window, be it by an earlier program for whomever; and the id's
    /// key.
    #[must_use]
    pub fn find(&self, topic: u64, scope: Scope, id: &[u8], now: UnixMicros) -> (Key, Option<Stored>) {
        let key = self.key(topic, scope, id);
        let stored = self.get(key, now).or_else(|| {
            self.order.of.contains_key(&Owner::UNKNOWN).then(|| self.get(self.hash(&(topic, id)), now))?
        });
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
        let later = |known: &Stored| (known.at, known.first) >= (stored.at, stored.first);
        if !self.stored.get(&key).is_some_and(later) {
            if let Some(known) = self.stored.insert(key, stored) {
                self.order.change(known.owner, |ids| ids.remove(&(known.at, key)));
            }
            self.order.change(stored.owner, |ids| ids.insert((stored.at, key)));
        }
        while let Some(oldest) = self.order.oldest()
            && self.is_old(oldest.0, now)
        {
            self.forget(oldest.1);
        }
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
        // A map does not give back its memory by itself.
        if self.stored.capacity() > 8 * self.stored.len().max(SMALL) {
            self.stored.shrink_to(2 * self.stored.len());
        }
    }

    /// Forgets the oldest id of an owner.
    fn forget(&mut self, owner: Owner) {
        if let Some((_, key)) = self.order.change(owner, BTreeSet::pop_first) {
            self.stored.remove(&key);
        }
    }

    /// When an id is too old at `now`.
    #[must_use]
    pub const fn oldest(&self, now: UnixMicros) -> UnixMicros {
        UnixMicros(now.0.saturating_sub(self.age))
    }

    /// When the oldest id that is remembered was stored; none where there is none.
    #[must_use]
    pub fn oldest_kept(&self) -> Option<UnixMicros> {
        self.order.oldest().map(|(at, _)| at)
    }
}

/// Ids of one owner, by the time they were stored.
type Ids = BTreeSet<(UnixMicros, Key)>;

/// In which order ids are forgotten.
#[derive(Debug, Default)]
struct Order {
    of: HashMap<Owner, Ids>,
    /// Owners by how many they have,
    by_size: BTreeSet<(usize, Owner)>,
    /// and by their oldest.
    by_age: BTreeSet<(UnixMicros, Owner)>,
}

impl Order {
    fn oldest(&self) -> Option<(UnixMicros, Owner)> {
        self.by_age.first().copied()
    }

    fn largest(&self) -> Option<Owner> {
        self.by_size.last().map(|(_, owner)| *owner)
    }

    /// Changes the ids of one owner.
    fn change<T>(&mut self, owner: Owner, change: impl FnOnce(&mut Ids) -> T) -> T {
        let ids = self.of.entry(owner).or_default();
        let (size, oldest) = (ids.len(), ids.first().map(|(at, _)| *at));
        let result = change(ids);
        let (new_size, new_oldest) = (ids.len(), ids.first().map(|(at, _)| *at));
        if size != new_size {
            self.by_size.remove(&(size, owner));
            self.by_size.insert((new_size, owner));
        }
        if oldest != new_oldest {
            if let Some(oldest) = oldest {
                self.by_age.remove(&(oldest, owner));
            }
            if let Some(oldest) = new_oldest {
                self.by_age.insert((oldest, owner));
            }
        }
        if new_size == 0 {
            self.by_size.remove(&(0, owner));
            self.of.remove(&owner);
        }
        result
    }
}
