//! JWTs that were verified, by their hash, so that a client that sends the same one with every call is not
//! verified every time. There are two generations: entries that are not used while one fills are forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Maximum tokens of a generation: some 150 bytes each.
const GENERATION_MAX: usize = 2048;

/// At most two generations of values.
#[derive(Debug)]
pub(super) struct Cache<V>(Mutex<Generations<V>>);

#[derive(Debug)]
struct Generations<V> {
    young: HashMap<[u8; 32], V>,
    old: HashMap<[u8; 32], V>,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }
}

impl<V: Clone> Cache<V> {
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<V> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = generations.young.get(hash) {
            return Some(value.clone());
        }
        let value = generations.old.remove(hash)?;
        generations.put(*hash, value.clone());
        Some(value)
    }

    pub(super) fn put(&self, hash: [u8; 32], value: V) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(hash, value);
    }
}

impl<V> Generations<V> {
    fn put(&mut self, hash: [u8; 32], value: V) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, value);
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, GENERATION_MAX};

    fn hash(i: usize) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&i.to_le_bytes());
        hash
    }

    #[test]
    fn used_entries_stay_and_the_number_of_others_is_bounded() {
        let cache = Cache::default();
        for i in 0..10 * GENERATION_MAX {
            cache.put(hash(i), i);
            assert_eq!(cache.get(&hash(0)), Some(0));
        }
        let generations = cache.0.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX + 1);
        drop(generations);
        assert_eq!(cache.get(&hash(1)), None);
    }
}
