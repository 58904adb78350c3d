//! Records that were read from storage lately. An owner reads records to lease them, and its members need the same ones a
//! moment later; a member's read may hold those of its next leases.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::record::block::Blocks;
use crate::record::walk::Malformed;
use crate::record::{Epoch, Offset};
use crate::storage::Chunk;

/// Most bytes kept, for all groups of the server: those of some owners' next leases.
const BYTES_MAX: usize = 4 << 20;
/// Time after which records are not kept any more. Those that are leased at once are needed within milliseconds.
const AGE_MAX: Duration = Duration::from_secs(2);

/// A place in a topic: its incarnation, and an offset.
type Place = (u64, u64);

/// The records, for all groups of a server.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// By the place of the first record.
    parts: BTreeMap<Place, Part>,
    /// The parts in the order in which they were read, and when.
    order: VecDeque<(Instant, Place)>,
    bytes: usize,
}

/// Records without a gap.
#[derive(Debug)]
struct Part {
    /// The offset after the last record.
    end: u64,
    /// Runs of blocks, each with the offset of its first record.
    runs: Vec<(u64, Bytes)>,
}

impl Part {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.len()).sum()
    }
}

/// Consecutive runs of blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Runs {
    pub runs: Vec<Bytes>,
    /// Offset of the first record.
    pub first: u64,
    /// The offset after the last record.
    pub next: u64,
}

impl From<Chunk> for Runs {
    fn from(chunk: Chunk) -> Self {
        Self { first: chunk.first.get(), next: chunk.next.get(), runs: chunk.runs }
    }
}

impl Recent {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps records of a topic that were read.
    ///
    /// # Errors
    /// A run is not made of blocks.
    pub(super) fn keep(&self, topic: Epoch, chunk: &Chunk) -> Result<(), Malformed> {
        let mut runs = Vec::with_capacity(chunk.runs.len());
        for run in &chunk.runs {
            let Some(block) = Blocks::new(run).next().transpose()? else { continue };
            runs.push((block.first.get(), run.clone()));
        }
        let Some(&(first, _)) = runs.first() else { return Ok(()) };
        self.parts().insert((topic.get(), first), Part { end: chunk.next.get(), runs });
        Ok(())
    }

    /// Returns the kept records of a topic from the one at `from` on, up to about `to`: whole runs, the first of which
    /// holds `from`.
    pub(super) fn find(&self, topic: Epoch, from: Offset, to: u64) -> Option<Runs> {
        let (from, parts) = (from.get(), self.parts());
        let part = parts.before((topic.get(), from)).filter(|part| from < part.end)?;
        let at = part.runs.partition_point(|(first, _)| *first <= from).checked_sub(1)?;
        let end = part.runs.partition_point(|(first, _)| *first < to).max(at + 1);
        let runs = part.runs.get(at..end)?;
        Some(Runs {
            first: runs.first()?.0,
            next: part.runs.get(end).map_or(part.end, |(first, _)| *first),
            runs: runs.iter().map(|(_, run)| run.clone()).collect(),
        })
    }

    /// Returns true if a read ended just before `at`, so that one from there on goes on with it.
    pub(super) fn ends_at(&self, topic: Epoch, at: Offset) -> bool {
        let before = (topic.get(), at.get().saturating_sub(1));
        self.parts().before(before).is_some_and(|part| part.end == at.get())
    }

    /// Forgets what was read long ago.
    pub(super) fn expire(&self) {
        let mut parts = self.parts();
        while parts.order.front().is_some_and(|(read, _)| read.elapsed() > AGE_MAX) {
            parts.drop_oldest();
        }
    }
}

impl Parts {
    fn insert(&mut self, place: Place, part: Part) {
        self.bytes += part.bytes();
        self.order.push_back((Instant::now(), place));
        if let Some(before) = self.parts.insert(place, part) {
            self.bytes -= before.bytes();
            // The older one of the two entries goes, so that each part has one.
            if let Some(at) = self.order.iter().position(|(_, other)| *other == place) {
                self.order.remove(at);
            }
        }
        while self.bytes > BYTES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, place)) = self.order.pop_front()
            && let Some(part) = self.parts.remove(&place)
        {
            self.bytes -= part.bytes();
        }
    }

    /// The last part of a topic that begins at a place or before it.
    fn before(&self, place: Place) -> Option<&Part> {
        self.parts.range((place.0, 0)..=place).next_back().map(|(_, part)| part)
    }
}

#[cfg(test)]
mod tests {
    use super::{AGE_MAX, BYTES_MAX, Recent};
    use crate::record::block::{encode, records_fields};
    use crate::record::{Batch, BatchLimits, Epoch, Offset, UnixMicros};
    use crate::storage::{Chunk, Numbering};
    use bytes::{Bytes, BytesMut};

    const TOPIC: Epoch = Epoch::new(7);

    /// A run of batches of two records, `count` of them.
    fn run(first: u64, count: u64, value: &[u8]) -> Bytes {
        let mut record = Vec::new();
        prost::encoding::bytes::encode(2, &value.to_vec(), &mut record);
        let fields = records_fields([&record[..], &record[..]]);
        let batch = Batch::check(fields, BatchLimits::default()).unwrap();
        let mut out = BytesMut::new();
        (0..count).for_each(|n| encode(Offset::new(first + 2 * n), UnixMicros(1), &batch, &mut out));
        out.freeze()
    }

    fn chunk(first: u64, runs: &[Bytes], records: u64) -> Chunk {
        let end = first + records;
        let each = runs.iter().map(|run| (Offset::new(first), Offset::new(end), run.clone()));
        Chunk::of(Offset::new(first), each, Numbering::Dense).unwrap()
    }

    #[test]
    fn records_are_found_by_the_run_that_holds_them() {
        let (recent, runs) = (Recent::default(), [run(10, 2, b"a"), run(14, 3, b"b"), run(20, 1, b"c")]);
        recent.keep(TOPIC, &chunk(10, &runs, 12)).unwrap();
        let found = recent.find(TOPIC, Offset::new(15), 20).unwrap();
        assert_eq!((found.first, found.next, found.runs), (14, 20, vec![runs[1].clone()]));
        let found = recent.find(TOPIC, Offset::new(21), 1000).unwrap();
        assert_eq!((found.first, found.next, found.runs), (20, 22, vec![runs[2].clone()]));
        for (topic, at) in [(TOPIC, 9), (TOPIC, 22), (Epoch::new(6), 15), (Epoch::new(8), 15)] {
            assert_eq!(recent.find(topic, Offset::new(at), 1000), None, "{topic} {at}");
        }
        assert!(recent.ends_at(TOPIC, Offset::new(22)));
        assert!(!recent.ends_at(TOPIC, Offset::new(21)) && !recent.ends_at(TOPIC, Offset::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_for_a_while() {
        let (recent, long) = (Recent::default(), vec![b'x'; 500_000]);
        for n in 0..40 {
            // The same place again and again, and others.
            recent.keep(TOPIC, &chunk(0, &[run(0, 1, &long)], 2)).unwrap();
            recent.keep(TOPIC, &chunk(100 + 2 * n, &[run(100 + 2 * n, 1, &long)], 2)).unwrap();
        }
        {
            let parts = recent.parts();
            assert!(parts.bytes <= BYTES_MAX && parts.bytes > BYTES_MAX / 2, "{}", parts.bytes);
            assert_eq!(parts.bytes, parts.parts.values().map(super::Part::bytes).sum::<usize>());
            assert_eq!(parts.order.len(), parts.parts.len());
        }
        recent.expire();
        assert!(recent.find(TOPIC, Offset::new(178), 1000).is_some());
        tokio::time::advance(AGE_MAX * 2).await;
        recent.expire();
        let parts = recent.parts();
        assert_eq!((parts.bytes, parts.parts.len(), parts.order.len()), (0, 0, 0));
    }
}
