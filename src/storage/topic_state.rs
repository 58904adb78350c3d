//! The state of one incarnation of a topic, as both engines keep it: identity, settings, tail, earliest offset,
//! and the tail cache. An engine adds where the records are stored.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::chunk::{Chunk, Numbering};
use super::error::Error;
use super::lineage::Lineage;
use super::retention::Retention;
use super::tail::TailCache;
use crate::record::{Epoch, Offset, TopicName, UnixMicros};

/// Settings of a topic, which can be changed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Limits of what is kept.
    pub retention: Retention,
    /// Time of their last change.
    pub updated: UnixMicros,
}

/// Description of a topic at one moment.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Name of the topic.
    pub name: TopicName,
    /// The incarnation.
    pub epoch: Epoch,
    /// Time at which this incarnation was created.
    pub created: UnixMicros,
    /// Time at which its settings last changed.
    pub updated: UnixMicros,
    /// Limits of what is kept.
    pub retention: Retention,
    /// The offset of the oldest record kept.
    pub earliest: Offset,
    /// The offset that the next record will get.
    pub tail: Offset,
    /// Bytes of blocks kept, approximately.
    pub stored_bytes: u64,
    /// Time at which the newest batch was stored.
    pub last_publish: Option<UnixMicros>,
    /// Earlier incarnations, if it was restored from a backup.
    pub lineage: Lineage,
    /// Numbering of its records.
    pub numbering: Numbering,
}

/// The state of one incarnation of a topic.
#[derive(Debug)]
pub struct TopicState {
    /// Name of the topic.
    pub name: TopicName,
    /// The incarnation.
    pub epoch: Epoch,
    /// Time at which this incarnation was created.
    pub created: UnixMicros,
    /// Earlier incarnations, if it was restored from a backup.
    pub lineage: Lineage,
    /// The newest blocks.
    pub cache: TailCache,
    numbering: Numbering,
    settings: ArcSwap<Settings>,
    /// Everything before it is durable. It never goes back.
    tail: AtomicU64,
    /// Everything before it is forgotten. It never goes back.
    earliest: AtomicU64,
    /// Time at which the newest batch was stored; 0 if there never was one.
    last_publish: AtomicU64,
    deleted: AtomicBool,
    /// Wakes those who wait for the tail to move or the topic to end.
    moved: Notify,
}

impl TopicState {
    /// Returns the numbering of its records.
    #[must_use]
    pub const fn numbering(&self) -> Numbering {
        self.numbering
    }

    /// Creates the state of the topic that `known` describes, with an empty cache.
    #[must_use]
    pub fn new(known: TopicInfo) -> Self {
        let settings = Settings { retention: known.retention, updated: known.updated };
        Self {
            name: known.name,
            epoch: known.epoch,
            created: known.created,
            lineage: known.lineage,
            cache: TailCache::default(),
            numbering: known.numbering,
            settings: ArcSwap::from_pointee(settings),
            tail: AtomicU64::new(known.tail.get()),
            earliest: AtomicU64::new(known.earliest.get()),
            last_publish: AtomicU64::new(known.last_publish.map_or(0, |time| time.0)),
            deleted: AtomicBool::new(false),
            moved: Notify::new(),
        }
    }

    /// The offset that the next record will get; everything before it is durable.
    #[must_use]
    pub fn tail(&self) -> Offset {
        Offset::new(self.tail.load(Ordering::Acquire))
    }

    /// The offset of the oldest record kept; the tail where there is none.
    #[must_use]
    pub fn earliest(&self) -> Offset {
        Offset::new(self.earliest.load(Ordering::Acquire))
    }

    /// The time at which the newest batch was stored; 0 where there never was one.
    #[must_use]
    pub fn last_publish(&self) -> UnixMicros {
        UnixMicros(self.last_publish.load(Ordering::Acquire))
    }

    /// The settings as they are now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        **self.settings.load()
    }

    /// Returns true if this incarnation was deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Checks that what a topic with this tail holds is complete, and not the beginning of a restored backup.
    ///
    /// # Errors
    /// [`Error::Restoring`].
    pub fn check_complete(&self, tail: Offset) -> Result<(), Error> {
        let cut = self.lineage.cut();
        if tail < cut { Err(Error::Restoring { cut }) } else { Ok(()) }
    }

    /// Replaces the settings.
    pub(super) fn set_settings(&self, settings: Settings) {
        self.settings.store(settings.into());
    }

    /// Moves the tail over batches that are durable, of which the newest was stored at `time`; the cache holds
    /// them by then, or nothing that lies before them. Those who wait are woken by [`Self::wake`].
    pub(super) fn advance(&self, tail: Offset, time: UnixMicros) {
        self.last_publish.fetch_max(time.0, Ordering::AcqRel);
        self.tail.fetch_max(tail.get(), Ordering::AcqRel);
    }

    /// Wakes everyone who waits for the tail to move or the topic to end.
    pub(super) fn wake(&self) {
        self.moved.notify_waiters();
    }

    /// Forgets everything before `earliest`.
    pub(super) fn trim(&self, earliest: Offset) {
        self.earliest.fetch_max(earliest.get(), Ordering::AcqRel);
    }

    /// Ends this incarnation. The engine then empties the cache.
    pub(super) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.wake();
    }

    /// Checks that there is something to read at `from`, or will be next.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::Trimmed`], [`Error::BeyondTail`].
    pub fn check_readable(&self, from: Offset) -> Result<(), Error> {
        let (epoch, earliest, tail) = (self.epoch, self.earliest(), self.tail());
        match () {
            () if self.is_deleted() => Err(Error::TopicNotFound),
            // A trim may be known before the batches that it reaches to.
            () if from < earliest => Err(Error::Trimmed { epoch, earliest, tail: tail.max(earliest) }),
            () if from > tail => Err(Error::BeyondTail { epoch, earliest, tail }),
            () => Ok(()),
        }
    }

    /// Reads from the cache, from `from` on: at most about `bytes_max` bytes, at least one run. None where the
    /// cache does not hold `from`.
    #[must_use]
    pub fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let chunk = self.cached_from(from, bytes_max)?;
        // There may be no record from `from` to the end of its run.
        if chunk.runs.is_empty() { self.cached_from(chunk.next, bytes_max) } else { Some(chunk) }
    }

    fn cached_from(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        // The tail bounds what is visible: a run is in the cache a moment before it is.
        let tail = self.tail();
        if from >= tail || from < self.earliest() {
            return None;
        }
        let mut taken = 0;
        let runs = self.cache.runs_from(from, |run| {
            let more = run.end <= tail && (taken == 0 || taken + run.blocks.len() <= bytes_max);
            taken += run.blocks.len();
            more
        });
        let runs = runs.into_iter().map(|run| (run.first, run.end, run.blocks));
        Chunk::of(from, runs, self.numbering).ok().filter(|chunk| chunk.next > from)
    }

    /// Resolves once the tail is beyond `offset` or the topic is deleted. Cancel-safe.
    pub async fn wait_beyond(&self, offset: Offset) {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // Registers before looking, so that a move in between is not missed.
            moved.as_mut().enable();
            if self.tail() > offset || self.is_deleted() {
                return;
            }
            moved.await;
        }
    }

    /// Describes the topic, which takes `stored_bytes` in its engine.
    #[must_use]
    pub fn info(&self, stored_bytes: u64) -> TopicInfo {
        let (settings, last) = (self.settings(), self.last_publish());
        TopicInfo {
            name: self.name.clone(),
            epoch: self.epoch,
            created: self.created,
            updated: settings.updated,
            retention: settings.retention,
            earliest: self.earliest(),
            tail: self.tail(),
            stored_bytes,
            last_publish: (last.0 != 0).then_some(last),
            lineage: self.lineage.clone(),
            numbering: self.numbering,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Numbering, TopicInfo, TopicState};
    use crate::record::testing::batch_of;
    use crate::record::{Epoch, Offset, TopicName, UnixMicros, block};
    use crate::storage::tail::Run;
    use crate::storage::{Error, Lineage, Retention};

    fn state(numbering: Numbering) -> TopicState {
        let known = TopicInfo {
            name: TopicName::parse("t").unwrap(),
            epoch: Epoch::new(7),
            created: UnixMicros(1),
            updated: UnixMicros(1),
            retention: Retention::default(),
            earliest: Offset::ZERO,
            tail: Offset::ZERO,
            stored_bytes: 0,
            last_publish: None,
            lineage: Lineage::default(),
            numbering,
        };
        TopicState::new(known)
    }

    /// Stores three records in a run that ends at `end`.
    fn store(state: &TopicState, first: u64, end: u64) {
        let mut blocks = Vec::new();
        let (first, time) = (Offset::new(first), UnixMicros(5));
        block::encode(first, time, &batch_of(&["a", "b", "c"]), &mut blocks);
        let (end, blocks) = (Offset::new(end), blocks.into());
        state
            .cache
            .push(Run { blocks, crc: 0, batches: 1, first, end, first_time: time, last_time: time }, 0);
        state.advance(end, time);
    }

    #[test]
    fn records_between_which_offsets_are_missing_are_counted_and_found() {
        let state = state(Numbering::Sparse);
        (0..3).for_each(|n| store(&state, n * 1024, (n + 1) * 1024));
        let read =
            |from| state.read_cached(Offset::new(from), 1).map(|chunk| (chunk.records, chunk.next.get()));
        assert_eq!(read(0), Some((3, 1024)));
        assert_eq!(read(2), Some((1, 1024)), "the rest of a run");
        assert_eq!(read(3), Some((3, 2048)), "no record is left in the first run");
        assert_eq!(read(2051), None, "no record is left at all");
        assert_eq!(read(3072), None);
        let dense = self::state(Numbering::Dense);
        store(&dense, 0, 3);
        assert_eq!(dense.read_cached(Offset::new(1), 1).map(|chunk| chunk.records), Some(2));
    }

    #[test]
    fn the_tail_and_the_earliest_offset_never_go_back_and_bound_what_is_read() {
        let state = state(Numbering::Dense);
        store(&state, 0, 3);
        state.advance(Offset::new(1), UnixMicros(2));
        assert_eq!((state.tail().get(), state.last_publish()), (3, UnixMicros(5)));
        state.trim(Offset::new(2));
        state.trim(Offset::new(1));
        let (epoch, tail) = (Epoch::new(7), Offset::new(3));
        let trimmed = Error::Trimmed { epoch, earliest: Offset::new(2), tail };
        assert_eq!(state.check_readable(Offset::new(1)), Err(trimmed));
        assert_eq!(state.read_cached(Offset::new(1), 1).map(|chunk| chunk.next), None);
        assert_eq!(state.check_readable(tail), Ok(()));
        let beyond = Error::BeyondTail { epoch, earliest: Offset::new(2), tail };
        assert_eq!(state.check_readable(Offset::new(4)), Err(beyond));
        // A trim may be known before what it reaches to.
        state.trim(Offset::new(9));
        let trimmed = Error::Trimmed { epoch, earliest: Offset::new(9), tail: Offset::new(9) };
        assert_eq!(state.check_readable(Offset::new(3)), Err(trimmed));
        state.delete();
        assert_eq!(state.check_readable(Offset::new(9)), Err(Error::TopicNotFound));
    }
}
