//! The tail cache of one topic: the newest blocks in memory, shared by reference count. The engine appends, and decides
//! what is evicted; readers take no lock that it needs.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

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
    /// Number of batches.
    pub batches: u32,
    /// Offset of the first record.
    pub first: Offset,
    /// The offset after the last record.
    pub end: Offset,
    /// Time at which the first batch was stored.
    pub first_time: UnixMicros,
    /// Time at which the last batch was stored.
    pub last_time: UnixMicros,
}

/// Slots of a topic's first chunk. Later chunks have twice as many as the one before, up to [`SLOTS_MAX`], so that ten
/// thousand quiet topics cost little and the list of a busy topic's chunks is copied rarely.
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = 64;
/// Whole chunks are evicted, so a chunk is limited to this fraction of what its topic holds: a quiet topic loses little
/// at once, and a busy one does not have too many chunks.
const CHUNKS: usize = 16;
/// A chunk of a quiet topic ends at about this many bytes of blocks.
const CHUNK_BYTES_MIN: usize = 32 << 10;
/// A chunk of a busy topic ends at this many.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Memory of a run besides its slot and its blocks: the reference count, and the allocator's overhead.
const RUN_BYTES: usize = 64;

/// Append-only slots: a filled one never changes.
#[derive(Debug)]
struct Chunk {
    number: u64,
    first: Offset,
    slots: Box<[OnceLock<Run>]>,
}

impl Chunk {
    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.slots.iter().map_while(OnceLock::get)
    }

    fn end(&self) -> Offset {
        self.runs().last().map_or(self.first, |run| run.end)
    }

    /// Bytes of memory without those of its runs.
    fn frame_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.slots)
    }

    fn bytes(&self) -> usize {
        self.frame_bytes() + self.runs().map(|run| run.blocks.len() + RUN_BYTES).sum::<usize>()
    }
}

type View = Vec<Arc<Chunk>>;

#[derive(Debug, Default)]
struct Writer {
    /// Slots of the last chunk that are filled.
    filled: usize,
    /// Bytes of blocks in the last chunk.
    bytes: usize,
    /// True if the last chunk takes no more runs.
    sealed: bool,
    /// Bytes of memory of all chunks.
    held: usize,
}

/// The newest runs of one topic, without a gap.
#[derive(Debug, Default)]
pub struct TailCache {
    view: ArcSwap<View>,
    // Taken by those who append and evict only.
    writer: Mutex<Writer>,
}

/// Effect of adding a run.
#[derive(Clone, Copy, Debug)]
pub struct Pushed {
    /// True if the run began a chunk, which has the number that was given.
    pub began: bool,
    /// Bytes of memory that were added.
    pub bytes: usize,
}

/// Chunks that were evicted.
#[derive(Clone, Debug, Default)]
pub struct Evicted {
    /// Their numbers.
    pub numbers: Vec<u64>,
    /// Bytes of memory.
    pub bytes: usize,
}

/// Description of a chunk for those who decide about eviction.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The offset after its last record.
    pub end: Offset,
    /// Time at which its last batch was stored.
    pub last_time: UnixMicros,
    /// Bytes of memory.
    pub bytes: usize,
}

impl TailCache {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no panic while it is held")
    }

    /// Appends the run that follows the last one. If it needs another chunk, the chunk gets this number, which must be
    /// higher than those of the chunks before.
    pub fn push(&self, run: Run, number: u64) -> Pushed {
        let mut writer = self.writer();
        let view = self.view.load();
        let len = run.blocks.len();
        let most = (writer.held / CHUNKS).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let last = view
            .last()
            .filter(|last| !writer.sealed && writer.filled < last.slots.len() && writer.bytes + len <= most);
        if let Some(last) = last {
            last.slots[writer.filled].set(run).expect("the slot after the filled ones is free");
            writer.filled += 1;
            writer.bytes += len;
            writer.held += len + RUN_BYTES;
            return Pushed { began: false, bytes: len + RUN_BYTES };
        }
        let slots = (writer.filled * 2).clamp(SLOTS_MIN, SLOTS_MAX);
        let chunk = Chunk { number, first: run.first, slots: (0..slots).map(|_| OnceLock::new()).collect() };
        chunk.slots[0].set(run).expect("a new slot is free");
        let bytes = chunk.bytes();
        let mut next: View = View::clone(&view);
        next.push(Arc::new(chunk));
        self.view.store(Arc::new(next));
        *writer = Writer { filled: 1, bytes: len, sealed: false, held: writer.held + bytes };
        Pushed { began: true, bytes }
    }

    /// Makes the next run begin another chunk, so that everything up to now can be evicted.
    pub fn seal(&self) {
        self.writer().sealed = true;
    }

    /// Evicts the chunks that end at or before `upto`.
    pub fn evict(&self, upto: Offset) -> Evicted {
        self.evict_while(|chunk| chunk.end() <= upto)
    }

    /// Evicts the chunk of this number and those before it.
    pub fn evict_through(&self, number: u64) -> Evicted {
        self.evict_while(|chunk| chunk.number <= number)
    }

    /// Evicts everything.
    pub fn clear(&self) -> Evicted {
        self.evict_while(|_| true)
    }

    fn evict_while(&self, goes: impl Fn(&Chunk) -> bool) -> Evicted {
        let mut writer = self.writer();
        let view = self.view.load();
        let gone = view.iter().take_while(|chunk| goes(chunk)).count();
        if gone == 0 {
            return Evicted::default();
        }
        let (gone, kept) = view.split_at(gone);
        let numbers = gone.iter().map(|chunk| chunk.number).collect();
        let bytes = gone.iter().map(|chunk| chunk.bytes()).sum();
        writer.held -= bytes;
        self.view.store(Arc::new(kept.to_vec()));
        Evicted { numbers, bytes }
    }

    /// Returns the number of the newest chunk.
    pub fn newest(&self) -> Option<u64> {
        self.view.load().last().map(|chunk| chunk.number)
    }

    /// Describes the chunks that lie between `first` and `end`, in order.
    pub fn chunks(&self, first: Offset, end: Offset) -> Vec<Held> {
        let view = self.view.load();
        let inside = view.iter().filter(|chunk| chunk.first >= first && chunk.end() <= end);
        let held = |chunk: &Arc<Chunk>| Held {
            end: chunk.end(),
            last_time: chunk.runs().last().map_or(UnixMicros(0), |run| run.last_time),
            bytes: chunk.bytes(),
        };
        inside.map(held).collect()
    }

    /// Counts the bytes of memory.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let there = self.view.load().iter().map(|chunk| chunk.bytes()).sum();
        assert_eq!(self.writer().held, there, "what is counted is what is there");
        there
    }

    /// Returns the runs from the one that holds `from` on, while `more` is true; none if `from` lies outside the cache.
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
            cache.push(run(n * 2, 10), n);
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
            cache.push(run(n * 2, 100_000), n);
        }
        cache.evict(Offset::new(100));
        let kept = firsts(&cache, 100);
        assert_eq!(kept.first(), Some(&100));
        assert!(firsts(&cache, 50).is_empty());
        cache.clear();
        assert!(firsts(&cache, 399).is_empty());
        cache.push(run(400, 10), 200);
        assert_eq!(firsts(&cache, 401), [400]);
    }

    #[test]
    fn a_quiet_topic_holds_small_chunks_and_what_is_counted_is_what_is_held() {
        let cache = TailCache::default();
        let mut added = 0;
        for n in 0..40 {
            added += cache.push(run(n * 2, 20_000), n).bytes;
        }
        assert_eq!(cache.held(), added);
        assert!(cache.held() > 800_000);
        let evicted = cache.evict_through(10);
        assert!(evicted.bytes <= added / 3, "{} of {added}", evicted.bytes);
        assert_eq!(cache.held(), added - evicted.bytes);
        cache.seal();
        assert!(cache.push(run(80, 10), 40).began && !cache.push(run(82, 10), 41).began);
        assert_eq!(cache.newest(), Some(40));
        assert_eq!(cache.chunks(Offset::new(80), Offset::new(84)).len(), 1);
        assert!(cache.chunks(Offset::new(80), Offset::new(83)).is_empty());
        cache.clear();
        assert_eq!((cache.held(), cache.newest()), (0, None));
    }

    #[test]
    fn readers_see_a_growing_prefix_while_it_is_written_and_evicted() {
        let cache = TailCache::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    cache.push(run(n * 2, 5_000), n);
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
