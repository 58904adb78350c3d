//! What is in segments and still in memory, of all topics, within the bound of the cache: the oldest goes
//! first, whoever has published since.
//! Never: evicts what is in no segment yet.

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
    /// Whose, where it ends, its bytes of memory.
    chunks: VecDeque<(Arc<Topic>, Offset, usize)>,
}

impl Cached {
    /// At most so many bytes of memory.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, chunks: VecDeque::new() }
    }

    /// Takes in what is in segments now: all that was published between two snapshots, so that no chunk holds
    /// anything else besides.
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

    /// Lets go of what nobody can read any more.
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
