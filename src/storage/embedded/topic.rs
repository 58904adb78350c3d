//! One topic of the embedded log: its state and its segments.

use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::segment::Segment;
use crate::record::Offset;
use crate::storage::TopicInfo;
use crate::storage::chunk::Numbering;
use crate::storage::tail::Run;
use crate::storage::topic_state::TopicState;

/// This engine's numbering of records.
pub const NUMBERING: Numbering = Numbering::Dense;

/// One topic.
#[derive(Debug)]
pub struct Topic {
    /// Number that identifies the topic in the names and contents of files.
    pub id: u64,
    /// State that readers see. Only the committer changes it. The cache holds at least what is not in a segment yet.
    pub state: TopicState,
    /// Bytes of blocks that are not in a segment yet.
    pub unflushed: AtomicUsize,
    /// Segments in order. Written by the checkpointer only, before it evicts what it wrote.
    pub segments: ArcSwap<Vec<Segment>>,
}

impl Topic {
    /// Creates a topic without segments.
    #[must_use]
    pub fn new(id: u64, known: TopicInfo) -> Self {
        let state = TopicState::new(known);
        Self { id, state, unflushed: AtomicUsize::new(0), segments: ArcSwap::default() }
    }

    /// Returns true if the topic is not deleted and one of its segments begins at `base`.
    #[must_use]
    pub fn has_segment(&self, base: Offset) -> bool {
        let segments = self.segments.load();
        !self.state.is_deleted() && segments.binary_search_by_key(&base, |segment| segment.base).is_ok()
    }

    /// Makes a durable run visible. Subscribers are woken by [`TopicState::wake`].
    pub fn publish(&self, run: Run) {
        let (end, time) = (run.end, run.last_time);
        self.unflushed.fetch_add(run.blocks.len(), Ordering::Relaxed);
        self.state.cache.push(run, 0);
        self.state.advance(end, time);
    }

    /// Marks the topic as deleted, and clears its cache.
    pub fn delete(&self) {
        self.state.delete();
        self.state.cache.clear();
    }

    /// Describes the topic.
    #[must_use]
    pub fn info(&self) -> TopicInfo {
        let earliest = self.state.earliest();
        let kept = self.segments.load().iter().filter(|s| s.end > earliest).map(|s| s.len).sum::<u64>();
        self.state.info(kept + self.unflushed.load(Ordering::Relaxed) as u64)
    }
}
