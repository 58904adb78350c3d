//! The tail cache of one topic as its follower fills it.

use std::sync::Arc;

use super::topic::Topic;
use crate::storage::tail::Run;

/// Handle with which a follower adds to its topic's cache. Dropping it empties the cache.
pub struct Cached(Arc<Topic>);

impl Cached {
    /// Takes the cache of a topic, which is empty.
    #[must_use]
    pub const fn new(topic: Arc<Topic>) -> Self {
        Self(topic)
    }

    /// Adds the newest run.
    pub fn push(&self, run: Run) {
        self.0.nats.cache.push(&self.0.state, run);
    }

    /// Empties the cache.
    pub fn clear(&self) {
        self.0.nats.cache.clear(&self.0.state.cache);
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.clear();
    }
}
