//! Tail cache of one topic, as its follower fills it.

use std::sync::Arc;

use super::topic::Topic;
use crate::storage::tail::Run;

/// Handle with which a follower adds to its topic's cache. Dropping the handle empties the cache.
pub struct Cached(Arc<Topic>);

impl Cached {
    /// Creates the handle for a topic whose cache is empty.
    #[must_use]
    pub const fn new(topic: Arc<Topic>) -> Self {
        Self(topic)
    }

    /// Adds a run at the end.
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
