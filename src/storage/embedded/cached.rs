//! Chunks of records of all topics that are in segments and still in memory. Their total size is bounded: the
//! oldest chunk is evicted first, whichever topic it belongs to. A chunk is evicted only once its records are
//! in a segment.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::commit::Pending;
use super::topic::Topic;
use crate::record::Offset;

/// Chunks of the tail caches that may be evicted, oldest first.
#[derive(Debug)]
pub struct Cached {
    bytes_max: usize,
    bytes: usize,
    /// Each chunk's topic, the offset after its last record, and its size in memory in bytes.
    chunks: VecDeque<(Arc<Topic>, Offset, usize)>,
}

impl Cached {
    /// Creates a list of chunks that hold at most `bytes_max` bytes of memory.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, chunks: VecDeque::new() }
    }

    /// Adds the chunks of runs that are now in segments, and evicts the oldest chunks beyond the limit.
    /// `pending` must be everything published between two snapshots, so that no chunk also holds other runs.
    pub fn add(&mut self, pending: &[Pending]) {
        self.evict_forgotten();
        let mut spans: HashMap<u64, (Arc<Topic>, Offset, Offset)> = HashMap::new();
        for Pending { topic, run, .. } in pending.iter().filter(|item| !item.topic.state.is_deleted()) {
            spans.entry(topic.id).or_insert_with(|| (topic.clone(), run.first, run.end)).2 = run.end;
        }
        let mut fresh: Vec<_> = spans
            .into_values()
            .flat_map(|(topic, first, end)| {
                let held = topic.state.cache.chunks(first, end);
                held.into_iter().map(move |held| (held, topic.clone()))
            })
            .collect();
        fresh.sort_by_key(|(held, topic)| (held.last_time, topic.id, held.end));
        for (held, topic) in fresh {
            self.bytes += held.bytes;
            self.chunks.push_back((topic, held.end, held.bytes));
        }
        while self.bytes > self.bytes_max {
            let Some((topic, end, bytes)) = self.chunks.pop_front() else { break };
            topic.state.cache.evict(end);
            self.bytes -= bytes;
        }
    }

    /// Evicts the chunks of deleted topics and of trimmed records, which nobody can read any more.
    fn evict_forgotten(&mut self) {
        let bytes = &mut self.bytes;
        self.chunks.retain(|(topic, end, held)| {
            let forgotten = topic.state.is_deleted() || *end <= topic.state.earliest();
            if forgotten {
                topic.state.cache.evict(*end);
                *bytes -= held;
            }
            !forgotten
        });
    }
}
