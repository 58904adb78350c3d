//! The idempotency window: which request ids were stored, and with which receipt (P5).
//! Never: durable; what an engine stores is.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

use crate::record::{Offset, UnixMicros};

/// What was stored under a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Records in the batch.
    pub count: u32,
    /// When it was stored.
    pub time: UnixMicros,
    /// The same on the steady clock, which ages are measured by.
    pub at: UnixMicros,
}

/// A topic and a request id, as 128 bits of two independently keyed hashes: a million ids collide
/// with a chance of 2^-88, and nobody outside knows the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What was stored, by key.
pub type Map = HashMap<Key, Stored, BuildHasherDefault<Taken>>;

/// The newest request ids.
#[derive(Debug)]
pub struct Window {
    stored: Map,
    order: VecDeque<(Key, UnixMicros)>,
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
            order: VecDeque::new(),
            hashers: (RandomState::new(), RandomState::new()),
            age: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            count_max,
            begun,
        }
    }

    /// The key of an id.
    #[must_use]
    pub fn key(&self, topic: u64, id: &[u8]) -> Key {
        Key(self.hashers.0.hash_one((topic, id)), self.hashers.1.hash_one((topic, id)))
    }

    /// Where something stored by an earlier run at `time` stands on the steady clock: not in the future,
    /// where that run's wall clock was ahead.
    #[must_use]
    pub fn at(&self, time: UnixMicros) -> UnixMicros {
        time.min(self.begun)
    }

    /// What was stored under this key within the window.
    #[must_use]
    pub fn get(&self, key: Key, now: UnixMicros) -> Option<Stored> {
        let stored = self.stored.get(&key).copied()?;
        (now.0.saturating_sub(stored.at.0) <= self.age).then_some(stored)
    }

    /// Remembers an id, and forgets those that are too old or too many.
    pub fn insert(&mut self, key: Key, stored: Stored) {
        self.stored.insert(key, stored);
        self.order.push_back((key, stored.at));
        while let Some(&(key, at)) = self.order.front() {
            let old = stored.at.0.saturating_sub(at.0) > self.age;
            if !old && self.order.len() <= self.count_max {
                break;
            }
            self.order.pop_front();
            // The id may have been stored anew after it fell out of the window.
            if self.stored.get(&key).is_some_and(|kept| kept.at == at) {
                self.stored.remove(&key);
            }
        }
    }

    /// When an id is too old at `now`.
    #[must_use]
    pub const fn oldest(&self, now: UnixMicros) -> UnixMicros {
        UnixMicros(now.0.saturating_sub(self.age))
    }
}

#[cfg(test)]
mod tests {
    use super::{Stored, Window};
    use crate::record::{Offset, UnixMicros};
    use std::time::Duration;

    fn stored(n: u64, time: u64) -> Stored {
        Stored { first: Offset::new(n), count: 1, time: UnixMicros(time), at: UnixMicros(time) }
    }

    /// P5: the window is bounded by age and by count.
    #[test]
    fn ids_are_forgotten_by_age_and_by_count() {
        let mut window = Window::new(Duration::from_micros(100), 3, UnixMicros(0));
        for n in 0..5 {
            window.insert(window.key(1, &[n as u8]), stored(n, 10 + n));
        }
        let now = UnixMicros(20);
        assert_eq!(window.get(window.key(1, &[1]), now), None);
        assert_eq!(window.get(window.key(1, &[2]), now), Some(stored(2, 12)));
        assert_eq!(window.get(window.key(2, &[2]), now), None, "another topic");
        assert_eq!(window.get(window.key(1, &[4]), UnixMicros(115)), None, "too old");
        window.insert(window.key(1, &[9]), stored(9, 113));
        assert_eq!(window.order.len(), 3);
        assert_eq!(window.stored.len(), 3);
        window.insert(window.key(1, &[9]), stored(10, 300));
        assert_eq!(window.get(window.key(1, &[9]), UnixMicros(300)), Some(stored(10, 300)));
        assert_eq!(window.stored.len(), 1);
    }
}
