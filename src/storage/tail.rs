//! The tail cache of one topic: the newest blocks in memory, shared by reference count. The engine
//! appends and evicts; readers take no lock it needs.
//! Never: decides how far eviction may go; it is told.

use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::record::{Offset, UnixMicros};

/// Consecutive blocks of one topic, from one frame.
#[derive(Clone, Debug)]
pub struct Run {
    /// The blocks.
    pub blocks: Bytes,
    /// CRC32C of the blocks, taken when they were committed.
    pub crc: u32,
    /// How many batches.
    pub batches: u32,
    /// Offset of the first record.
    pub first: Offset,
    /// The offset after the last record.
    pub end: Offset,
    /// When the first batch was stored.
    pub first_time: UnixMicros,
    /// When the last batch was stored.
    pub last_time: UnixMicros,
}

/// Slots of a topic's first chunk; later ones double up to [`SLOTS_MAX`], so that ten thousand
/// quiet topics cost little and a busy one is copied rarely.
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = 64;
/// A chunk holds about this many bytes at most, so that eviction works in small steps.
const CHUNK_BYTES: usize = 1 << 20;

/// Append-only slots: a filled one never changes.
#[derive(Debug)]
struct Chunk {
    first: Offset,
    slots: Box<[OnceLock<Run>]>,
}

impl Chunk {
    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.slots.iter().map_while(OnceLock::get)
    }
}

type View = Vec<Arc<Chunk>>;

#[derive(Debug, Default)]
struct Writer {
    filled: usize,
    bytes: usize,
}

/// The newest runs of one topic, without a gap.
#[derive(Debug, Default)]
pub struct TailCache {
    view: ArcSwap<View>,
    // Between the committer and the checkpointer only.
    writer: Mutex<Writer>,
}

impl TailCache {
    /// Appends the run that follows the last one.
    pub fn push(&self, run: Run) {
        let mut writer = self.writer.lock().expect("no panic while it is held");
        let view = self.view.load();
        let last = view.last().filter(|last| {
            writer.filled < last.slots.len()
                && writer.bytes + run.blocks.len() <= CHUNK_BYTES.max(run.blocks.len())
        });
        let bytes = run.blocks.len();
        if let Some(last) = last {
            last.slots[writer.filled].set(run).expect("the slot after the filled ones is free");
            writer.filled += 1;
            writer.bytes += bytes;
            return;
        }
        let slots = view.last().map_or(SLOTS_MIN, |last| (last.slots.len() * 2).min(SLOTS_MAX));
        let chunk = Chunk { first: run.first, slots: (0..slots).map(|_| OnceLock::new()).collect() };
        chunk.slots[0].set(run).expect("a new slot is free");
        let mut next: View = View::clone(&view);
        next.push(Arc::new(chunk));
        (writer.filled, writer.bytes) = (1, bytes);
        self.view.store(Arc::new(next));
    }

    /// Forgets chunks that end at or before `upto`.
    pub fn evict(&self, upto: Offset) {
        let _writer = self.writer.lock().expect("no panic while it is held");
        let view = self.view.load();
        let kept: View = view
            .iter()
            .filter(|chunk| chunk.runs().last().is_some_and(|run| run.end > upto))
            .cloned()
            .collect();
        if kept.len() < view.len() {
            self.view.store(Arc::new(kept));
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.evict(Offset::MAX);
    }

    /// The runs from the one that holds `from` on, while `more` says so; none where `from` is
    /// before what is kept or beyond it.
    pub fn runs_from(&self, from: Offset, mut more: impl FnMut(&Run) -> bool) -> Vec<Run> {
        let view = self.view.load();
        let at = view.partition_point(|chunk| chunk.first <= from);
        let mut found = Vec::new();
        let Some(start) = at.checked_sub(1) else { return found };
        for run in view[start..].iter().flat_map(|chunk| chunk.runs()) {
            if run.end <= from {
                continue;
            }
            if !more(run) {
                break;
            }
            found.push(run.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Run, TailCache};
    use crate::record::{Offset, UnixMicros};
    use bytes::Bytes;

    fn run(first: u64, bytes: usize) -> Run {
        Run {
            blocks: Bytes::from(vec![0; bytes]),
            crc: 0,
            batches: 1,
            first: Offset::new(first),
            end: Offset::new(first + 2),
            first_time: UnixMicros(0),
            last_time: UnixMicros(0),
        }
    }

    fn firsts(cache: &TailCache, from: u64) -> Vec<u64> {
        cache.runs_from(Offset::new(from), |_| true).iter().map(|run| run.first.get()).collect()
    }

    #[test]
    fn finds_the_run_that_holds_an_offset() {
        let cache = TailCache::default();
        assert!(firsts(&cache, 0).is_empty());
        for n in 5..205 {
            cache.push(run(n * 2, 10));
        }
        assert!(firsts(&cache, 9).is_empty(), "before what is kept");
        for from in 10..410 {
            let want: Vec<u64> = (from / 2..205).map(|n| n * 2).collect();
            assert_eq!(firsts(&cache, from), want);
        }
        assert!(firsts(&cache, 410).is_empty(), "beyond what is kept");
    }

    #[test]
    fn evicts_whole_chunks_and_only_up_to_the_offset() {
        let cache = TailCache::default();
        for n in 0..200 {
            cache.push(run(n * 2, 100_000));
        }
        cache.evict(Offset::new(100));
        let kept = firsts(&cache, 100);
        assert_eq!(kept.first(), Some(&100));
        assert!(firsts(&cache, 50).is_empty());
        cache.clear();
        assert!(firsts(&cache, 399).is_empty());
        cache.push(run(400, 10));
        assert_eq!(firsts(&cache, 401), [400]);
    }

    #[test]
    fn readers_see_a_growing_prefix_while_it_is_written_and_evicted() {
        let cache = TailCache::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    cache.push(run(n * 2, 5_000));
                    if n % 512 == 0 {
                        cache.evict(Offset::new(n));
                    }
                }
            });
            let mut at = 0;
            while at < 40_000 {
                let found = cache.runs_from(Offset::new(at), |_| true);
                if let Some(first) = found.first() {
                    assert!(first.first.get() <= at);
                }
                for pair in found.windows(2) {
                    assert_eq!(pair[0].end, pair[1].first);
                }
                at = found.last().map_or_else(
                    || firsts(&cache, at).first().copied().unwrap_or(at + 2),
                    |run| run.end.get(),
                );
            }
        });
    }
}
