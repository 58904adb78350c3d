//! What a topic has in its tail cache, counted against the bound that all topics share.
//! Never: reads; subscribers do, from the cache itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::topic::Topic;
use crate::record::Offset;
use crate::storage::tail::Run;

/// What the cache holds, oldest first: where it ends, its bytes. Dropping it empties the cache.
pub struct Cached {
    topic: Arc<Topic>,
    runs: VecDeque<(Offset, usize)>,
}

impl Cached {
    /// Nothing yet.
    #[must_use]
    pub const fn new(topic: Arc<Topic>) -> Self {
        Self { topic, runs: VecDeque::new() }
    }

    /// Adds the newest run. Keeps all caches together to their bound, and each topic its newest run.
    pub fn push(&mut self, run: Run) {
        let nats = &self.topic.nats;
        self.runs.push_back((run.end, run.blocks.len()));
        nats.cached_bytes.fetch_add(run.blocks.len(), Ordering::Relaxed);
        self.topic.cache.push(run);
        let mut upto = None;
        while self.runs.len() > 1 && nats.cached_bytes.load(Ordering::Relaxed) > nats.storage.cache_bytes {
            let Some((end, bytes)) = self.runs.pop_front() else { break };
            nats.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
            upto = Some(end);
        }
        if let Some(upto) = upto {
            self.topic.cache.evict(upto);
        }
    }

    /// Empties the cache.
    pub fn clear(&mut self) {
        let bytes: usize = self.runs.drain(..).map(|(_, bytes)| bytes).sum();
        self.topic.nats.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.topic.cache.clear();
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.clear();
    }
}
