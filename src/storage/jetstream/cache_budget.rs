//! Limit on the memory of all tail caches together. When it is exceeded, the oldest chunk of any topic is evicted
//! first, so a topic that is no longer busy loses its part of the cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::storage::tail::{Evicted, Run, TailCache};
use crate::storage::topic_state::TopicState;

/// Memory that all tail caches share.
#[derive(Debug)]
pub struct CacheBudget {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes held by all caches. An eviction may be subtracted before the addition that caused it is counted.
    held: i64,
    next: u64,
    /// Topic of each chunk, by the number of the chunk. Smaller numbers are older.
    chunks: BTreeMap<u64, Weak<TopicState>>,
}

impl CacheBudget {
    /// Creates a budget of at most `bytes_max` bytes. The newest chunk is stored even if it alone exceeds them.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Adds a topic's newest run, then evicts chunks until the budget is met.
    pub fn push(&self, topic: &Arc<TopicState>, run: Run) {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        let pushed = topic.cache.push(run, number);
        let mut state = self.lock();
        state.held += pushed.bytes as i64;
        if pushed.began {
            state.chunks.insert(number, Arc::downgrade(topic));
        }
        drop(state);
        let newest = topic.cache.newest();
        while let Some((number, topic)) = self.too_much(newest) {
            let evicted = topic.upgrade().map(|topic| topic.cache.evict_through(number));
            self.forget(number, &evicted.unwrap_or_default());
        }
    }

    /// Returns the oldest chunk except `newest` if the budget is exceeded.
    fn too_much(&self, newest: Option<u64>) -> Option<(u64, Weak<TopicState>)> {
        let state = self.lock();
        if state.held <= self.bytes_max as i64 {
            return None;
        }
        let mut chunks = state.chunks.iter();
        chunks.find(|(number, _)| Some(**number) != newest).map(|(number, topic)| (*number, topic.clone()))
    }

    fn forget(&self, number: u64, evicted: &Evicted) {
        let mut state = self.lock();
        state.held -= evicted.bytes as i64;
        state.chunks.remove(&number);
        for number in &evicted.numbers {
            state.chunks.remove(number);
        }
    }

    /// Empties a topic's cache.
    pub fn clear(&self, cache: &TailCache) {
        self.forget(0, &cache.clear());
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        usize::try_from(self.lock().held).expect("not less than nothing")
    }
}
