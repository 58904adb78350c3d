//! One topic of the embedded log: what the committer publishes and readers see. Implements the
//! reading half of the contract.
//! Never: assigns an offset, or takes a lock the committer needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::reader::{self, Files};
use super::segment::Segment;
use crate::record::{Epoch, Offset, TopicName, UnixMicros, block};
use crate::storage::tail::{Run, TailCache};
use crate::storage::{Appender, BoxFuture, Chunk, Error, Retention, Start, TopicInfo, TopicLog};

/// What can be changed about a topic.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long records are kept.
    pub retention: Retention,
    /// When that last changed.
    pub updated: UnixMicros,
}

/// The state of one topic.
#[derive(Debug)]
pub struct TopicState {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: TopicName,
    /// Its incarnation.
    pub epoch: Epoch,
    /// When it was created.
    pub created: UnixMicros,
    /// What can be changed.
    pub settings: ArcSwap<Settings>,
    /// Everything before it is durable. Written by the committer only.
    tail: AtomicU64,
    /// Everything before it is forgotten. Written by the committer only.
    earliest: AtomicU64,
    /// When the newest batch was stored; 0 where there never was one.
    last_publish: AtomicU64,
    /// Bytes of blocks not in a segment yet.
    pub unflushed: AtomicUsize,
    deleted: AtomicBool,
    moved: Notify,
    /// The newest blocks: at least those not in a segment yet.
    pub cache: TailCache,
    /// Segments in order. Written by the checkpointer only, before it evicts what it wrote.
    pub segments: ArcSwap<Vec<Segment>>,
}

impl TopicState {
    /// A topic as the catalog or a change describes it.
    #[must_use]
    pub fn new(id: u64, name: TopicName, epoch: Epoch, created: UnixMicros, settings: Settings) -> Self {
        Self {
            id,
            name,
            epoch,
            created,
            settings: ArcSwap::from_pointee(settings),
            tail: AtomicU64::new(0),
            earliest: AtomicU64::new(0),
            last_publish: AtomicU64::new(0),
            unflushed: AtomicUsize::new(0),
            deleted: AtomicBool::new(false),
            moved: Notify::new(),
            cache: TailCache::default(),
            segments: ArcSwap::default(),
        }
    }

    /// The durable tail.
    #[must_use]
    pub fn tail(&self) -> Offset {
        Offset::new(self.tail.load(Ordering::Acquire))
    }

    /// The oldest offset kept.
    #[must_use]
    pub fn earliest(&self) -> Offset {
        Offset::new(self.earliest.load(Ordering::Acquire))
    }

    /// When the newest batch was stored; 0 where there never was one.
    #[must_use]
    pub fn last_publish(&self) -> UnixMicros {
        UnixMicros(self.last_publish.load(Ordering::Acquire))
    }

    /// Whether the topic is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Whether the topic is there, and a segment that begins at `base` is its.
    #[must_use]
    pub fn has_segment(&self, base: Offset) -> bool {
        !self.is_deleted() && self.segments.load().binary_search_by_key(&base, |segment| segment.base).is_ok()
    }

    /// Sets what recovery found.
    pub fn restore(&self, earliest: Offset, tail: Offset, last_publish: UnixMicros) {
        self.earliest.store(earliest.get(), Ordering::Release);
        self.last_publish.store(last_publish.0, Ordering::Release);
        self.tail.store(tail.get(), Ordering::Release);
    }

    /// Makes a durable run visible. Subscribers are woken by [`Self::wake`].
    pub fn publish(&self, run: Run) {
        let (end, time) = (run.end, run.last_time);
        self.unflushed.fetch_add(run.blocks.len(), Ordering::Relaxed);
        self.cache.push(run, 0);
        self.last_publish.store(time.0, Ordering::Release);
        self.tail.store(end.get(), Ordering::Release);
    }

    /// Wakes everyone who waits for the tail or the end of this topic.
    pub fn wake(&self) {
        self.moved.notify_waiters();
    }

    /// Forgets what is before `earliest`.
    pub fn trim(&self, earliest: Offset) {
        self.earliest.store(earliest.get(), Ordering::Release);
    }

    /// Ends the topic.
    pub fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.cache.clear();
        self.wake();
    }

    fn trimmed(&self) -> Error {
        Error::Trimmed { epoch: self.epoch, earliest: self.earliest(), tail: self.tail() }
    }

    /// Whether reading at `from` makes sense.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::Trimmed`], [`Error::BeyondTail`].
    pub fn check_readable(&self, from: Offset) -> Result<(), Error> {
        if self.is_deleted() {
            return Err(Error::TopicNotFound);
        }
        if from < self.earliest() {
            return Err(self.trimmed());
        }
        let tail = self.tail();
        if from > tail {
            return Err(Error::BeyondTail { epoch: self.epoch, earliest: self.earliest(), tail });
        }
        Ok(())
    }

    /// What the cache holds from `from` on, about `bytes_max` bytes; none where it holds nothing.
    #[must_use]
    pub fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
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
        chunk_of(from, runs.into_iter().map(|run| (run.first, run.end, run.blocks))).ok().flatten()
    }

    /// The settings and the counts.
    #[must_use]
    pub fn info(&self) -> TopicInfo {
        let settings = **self.settings.load();
        let (earliest, last) = (self.earliest(), self.last_publish());
        let flushed = self.segments.load().iter().filter(|s| s.end > earliest).map(|s| s.len).sum::<u64>();
        TopicInfo {
            name: self.name.clone(),
            epoch: self.epoch,
            created: self.created,
            updated: settings.updated,
            retention: settings.retention,
            earliest,
            tail: self.tail(),
            stored_bytes: flushed + self.unflushed.load(Ordering::Relaxed) as u64,
            last_publish: (last.0 != 0).then_some(last),
        }
    }
}

/// A chunk that begins at `from`, of consecutive runs of which the first holds `from`.
///
/// # Errors
/// The first run is not made of blocks.
pub fn chunk_of(
    from: Offset,
    runs: impl Iterator<Item = (Offset, Offset, bytes::Bytes)>,
) -> Result<Option<Chunk>, crate::record::walk::Malformed> {
    let mut chunk = Chunk::empty(from);
    for (first, end, blocks) in runs {
        if first < from {
            chunk.runs.extend(block::starting_at(&blocks, from)?);
        } else {
            chunk.runs.push(blocks);
        }
        chunk.next = end;
    }
    chunk.records = chunk.next.since(from);
    Ok((!chunk.runs.is_empty()).then_some(chunk))
}

/// A topic together with what reading and appending it takes.
#[derive(Debug)]
pub struct Handle {
    /// The topic.
    pub state: Arc<TopicState>,
    /// Open segments.
    pub files: Arc<Files>,
    /// The committer.
    pub committer: super::queue::Queue,
}

impl TopicLog for Handle {
    fn name(&self) -> &TopicName {
        &self.state.name
    }

    fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    fn info(&self) -> TopicInfo {
        self.state.info()
    }

    fn tail(&self) -> Offset {
        self.state.tail()
    }

    fn earliest(&self) -> Offset {
        self.state.earliest()
    }

    fn is_deleted(&self) -> bool {
        self.state.is_deleted()
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let mut moved = std::pin::pin!(self.state.moved.notified());
                // Registers before looking, so that a move in between is not missed.
                moved.as_mut().enable();
                if self.state.tail() > offset || self.state.is_deleted() {
                    return;
                }
                moved.await;
            }
        })
    }

    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>> {
        Box::pin(async move {
            let (earliest, tail) = (self.state.earliest(), self.state.tail());
            match start {
                Start::Earliest => Ok(earliest),
                Start::Latest => Ok(tail),
                Start::At(offset) => self.state.check_readable(offset).map(|()| offset),
                Start::Last(records) => Ok(earliest.max(Offset::new(tail.get().saturating_sub(records)))),
                Start::Time(time) => {
                    let (state, files) = (self.state.clone(), self.files.clone());
                    blocking(move || reader::offset_at(&state, &files, time)).await
                }
            }
        })
    }

    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        self.state.read_cached(from, bytes_max)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>> {
        Box::pin(async move {
            self.state.check_readable(from)?;
            if let Some(chunk) = self.state.read_cached(from, bytes_max) {
                return Ok(chunk);
            }
            let (state, files) = (self.state.clone(), self.files.clone());
            blocking(move || reader::read(&state, &files, from, bytes_max)).await
        })
    }

    fn appender(&self) -> Box<dyn Appender> {
        Box::new(super::queue::OrderedAppender::new(self.state.clone(), self.committer.clone()))
    }
}

/// Runs a file read off the async workers.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unavailable {
            reason: format!("reading was interrupted: {error}"),
            stored: crate::storage::Stored::Nothing,
        }),
    }
}
