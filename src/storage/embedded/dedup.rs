//! The idempotency window: which request ids were stored, and with which receipt (P5).
//! Never: on disk; the journal and the ids files are.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::hash::{BuildHasher, Hash};
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
}

/// A topic and a request id, as 128 bits of two independently keyed hashes: a million ids collide
/// with a chance of 2^-88, and nobody outside knows the keys.
type Key = (u64, u64);

/// The newest request ids.
#[derive(Debug)]
pub struct Window {
    stored: HashMap<Key, Stored>,
    order: VecDeque<(Key, UnixMicros)>,
    hashers: (RandomState, RandomState),
    age: u64,
    count_max: usize,
}

impl Window {
    /// Remembers at most `count_max` ids, none longer than `age`.
    #[must_use]
    pub fn new(age: Duration, count_max: usize) -> Self {
        Self {
            stored: HashMap::new(),
            order: VecDeque::new(),
            hashers: (RandomState::new(), RandomState::new()),
            age: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            count_max,
        }
    }

    fn key(&self, topic: u64, id: &[u8]) -> Key {
        fn hash(state: &RandomState, value: impl Hash) -> u64 {
            state.hash_one(value)
        }
        (hash(&self.hashers.0, (topic, id)), hash(&self.hashers.1, (topic, id)))
    }

    /// What was stored under this id within the window.
    #[must_use]
    pub fn get(&self, topic: u64, id: &[u8], now: UnixMicros) -> Option<Stored> {
        let stored = self.stored.get(&self.key(topic, id)).copied()?;
        (now.0.saturating_sub(stored.time.0) <= self.age).then_some(stored)
    }

    /// Remembers an id, and forgets those that are too old or too many.
    pub fn insert(&mut self, topic: u64, id: &[u8], stored: Stored) {
        let key = self.key(topic, id);
        self.stored.insert(key, stored);
        self.order.push_back((key, stored.time));
        while let Some(&(key, time)) = self.order.front() {
            let old = stored.time.0.saturating_sub(time.0) > self.age;
            if !old && self.order.len() <= self.count_max {
                break;
            }
            self.order.pop_front();
            // The id may have been stored anew after it fell out of the window.
            if self.stored.get(&key).is_some_and(|kept| kept.time == time) {
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
        Stored { first: Offset::new(n), count: 1, time: UnixMicros(time) }
    }

    /// P5: the window is bounded by age and by count.
    #[test]
    fn ids_are_forgotten_by_age_and_by_count() {
        let mut window = Window::new(Duration::from_micros(100), 3);
        for n in 0..5 {
            window.insert(1, &[n as u8], stored(n, 10 + n));
        }
        let now = UnixMicros(20);
        assert_eq!(window.get(1, &[1], now), None);
        assert_eq!(window.get(1, &[2], now), Some(stored(2, 12)));
        assert_eq!(window.get(2, &[2], now), None, "another topic");
        assert_eq!(window.get(1, &[4], UnixMicros(115)), None, "too old");
        window.insert(1, &[9], stored(9, 113));
        assert_eq!(window.order.len(), 3);
        assert_eq!(window.stored.len(), 3);
        window.insert(1, &[9], stored(10, 300));
        assert_eq!(window.get(1, &[9], UnixMicros(300)), Some(stored(10, 300)));
        assert_eq!(window.stored.len(), 1);
    }
}
