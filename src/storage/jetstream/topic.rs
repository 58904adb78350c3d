//! One incarnation of a topic: what readers, publishers and its follower share.
//! The follower changes it; it has no task of its own.

mod handle;

pub use self::handle::Handle;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_nats::jetstream::stream::Info;
use tokio::sync::Notify;

use super::cursor::Cursors;
use super::follower;
use super::message::{end_of, sequence_of, start_of};
use super::names::{self, Meta};
use super::nats::Nats;
use super::queue::{Append, Queue};
use crate::record::block::{Blocks, starting_at};
use crate::record::walk::Malformed;
use crate::record::{Epoch, Offset, TopicName, UnixMicros};
use crate::storage::tail::TailCache;
use crate::storage::{Chunk, Error, Retention, TopicInfo};

/// Ends of messages remembered of one topic: 8 bytes each.
const ENDS_MAX: usize = 1024;

/// What can be changed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long records are kept.
    pub retention: Retention,
    /// When that changed.
    pub updated: UnixMicros,
}

/// One incarnation of a topic.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its incarnation.
    pub epoch: Epoch,
    /// When it was created.
    pub created: UnixMicros,
    /// The stream that keeps it.
    pub stream: String,
    /// Subject that its messages are published to.
    pub subject: String,
    /// What can be changed.
    pub settings: ArcSwap<Settings>,
    /// State that all topics share.
    pub nats: Arc<Nats>,
    /// The newest messages. Only the follower adds to it.
    pub cache: TailCache,
    /// Readers that lag.
    pub cursors: Cursors,
    /// Wakes the follower.
    pub work: Notify,
    tail: AtomicU64,
    floor: AtomicU64,
    last_publish: AtomicU64,
    stored_bytes: AtomicU64,
    deleted: AtomicBool,
    /// Just after the last record of each of the newest messages, oldest first: of what is trimmed nobody
    /// else knows where it ended.
    ends: Mutex<VecDeque<Offset>>,
    /// Wakes those who wait for the tail or the end.
    moved: Notify,
    /// Time and answer of the last shared request for the stream's state. Locked while the request is under way.
    pub fetched_end: tokio::sync::Mutex<Option<(Instant, Result<Offset, Error>)>>,
    queue: Mutex<Queue>,
    waiting: AtomicUsize,
    /// Times of the last use and of the last request for the stream's state, in milliseconds of the engine.
    used_ms: AtomicU64,
    fetched_ms: AtomicU64,
}

/// A time of NATS's.
#[must_use]
pub fn micros(time: async_nats::datetime::DateTime) -> UnixMicros {
    UnixMicros(u64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or_default())
}

/// All there is to know about a stream of ours.
#[must_use]
pub fn info_of(meta: Meta, info: &Info) -> TopicInfo {
    let state = &info.state;
    let floor = state.first_sequence.clamp(1, state.last_sequence + 1);
    TopicInfo {
        name: meta.topic,
        epoch: meta.epoch,
        created: micros(info.created),
        updated: meta.updated,
        retention: meta.retention,
        earliest: start_of(floor),
        tail: end_of(state.last_sequence),
        stored_bytes: state.bytes,
        last_publish: (state.last_sequence > 0).then(|| micros(state.last_timestamp)),
    }
}

impl Topic {
    /// The topic of a stream.
    #[must_use]
    pub fn new(nats: Arc<Nats>, meta: Meta, info: &Info) -> Self {
        let now = nats.now_ms();
        let known = info_of(meta, info);
        Self {
            stream: names::stream(&known.name),
            subject: names::subject(&known.name, known.epoch),
            name: known.name,
            epoch: known.epoch,
            created: known.created,
            settings: ArcSwap::from_pointee(Settings { retention: known.retention, updated: known.updated }),
            nats,
            cache: TailCache::default(),
            cursors: Cursors::default(),
            work: Notify::new(),
            tail: AtomicU64::new(known.tail.get()),
            floor: AtomicU64::new(known.earliest.get()),
            last_publish: AtomicU64::new(known.last_publish.map_or(0, |time| time.0)),
            stored_bytes: AtomicU64::new(known.stored_bytes),
            deleted: AtomicBool::new(false),
            ends: Mutex::default(),
            moved: Notify::new(),
            fetched_end: tokio::sync::Mutex::default(),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            used_ms: AtomicU64::new(now),
            fetched_ms: AtomicU64::new(now),
        }
    }

    /// Takes over what NATS says. While the topic is followed only the follower moves the tail, as
    /// what it has not read is in no cache.
    pub fn refresh(&self, meta: Meta, info: &Info) {
        let known = info_of(meta, info);
        self.settings.store(Arc::new(Settings { retention: known.retention, updated: known.updated }));
        self.stored_bytes.store(known.stored_bytes, Ordering::Relaxed);
        self.floor.fetch_max(known.earliest.get(), Ordering::AcqRel);
        self.fetched_ms.store(self.nats.now_ms(), Ordering::Relaxed);
        let queue = self.queue();
        if !queue.followed {
            self.last_publish.fetch_max(known.last_publish.map_or(0, |time| time.0), Ordering::Relaxed);
            self.tail.fetch_max(known.tail.get(), Ordering::AcqRel);
        }
    }

    /// Appends that wait.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while it is held")
    }

    /// Hands an append to the follower, which is started where there is none.
    pub fn push(self: &Arc<Self>, mut append: Append) {
        self.touch();
        let mut queue = self.queue();
        if self.is_deleted() || self.nats.closed.load(Ordering::Acquire) {
            drop(queue);
            let error = if self.is_deleted() { Error::TopicNotFound } else { Error::Closing };
            return append.answer(Some(error));
        }
        append.serial = queue.count;
        queue.count += 1;
        queue.appends.push_back(append);
        self.follow_with(&mut queue);
        drop(queue);
        self.work.notify_one();
    }

    /// Starts to follow the stream, where nobody does.
    pub fn follow(self: &Arc<Self>) {
        self.touch();
        self.follow_with(&mut self.queue());
    }

    fn follow_with(self: &Arc<Self>, queue: &mut Queue) {
        if !queue.followed && !self.nats.closed.load(Ordering::Acquire) && !self.is_deleted() {
            queue.followed = true;
            self.nats.tasks.spawn(follower::follow(Arc::clone(self)));
        }
    }

    /// Returns true if NATS need not be asked for the stream's state: the topic is followed, or NATS was asked just now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        /// Maximum age of what GetTopic says of another replica's publishes.
        const FRESH_MS: u64 = 100;
        let now = self.nats.now_ms();
        self.queue().followed || now.saturating_sub(self.fetched_ms.load(Ordering::Relaxed)) < FRESH_MS
    }

    /// Somebody uses it.
    pub fn touch(&self) {
        self.used_ms.store(self.nats.now_ms(), Ordering::Relaxed);
    }

    /// Returns true if nobody has used it for so long.
    #[must_use]
    pub fn is_idle(&self, long: Duration) -> bool {
        let unused = self.nats.now_ms().saturating_sub(self.used_ms.load(Ordering::Relaxed));
        self.waiting.load(Ordering::Acquire) == 0 && u128::from(unused) >= long.as_millis()
    }

    /// The durable tail.
    #[must_use]
    pub fn tail(&self) -> Offset {
        Offset::new(self.tail.load(Ordering::Acquire))
    }

    /// The oldest offset kept.
    #[must_use]
    pub fn floor(&self) -> Offset {
        Offset::new(self.floor.load(Ordering::Acquire))
    }

    /// Returns true if the topic was deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Moves the tail and wakes those who wait. The cache holds what is new already.
    pub fn advance(&self, tail: Offset, time: UnixMicros) {
        self.last_publish.fetch_max(time.0, Ordering::Relaxed);
        self.tail.fetch_max(tail.get(), Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    /// Remembers where a message ends.
    pub fn note_end(&self, next: Offset) {
        let mut ends = self.ends.lock().expect("no panic while it is held");
        if ends.len() >= ENDS_MAX {
            ends.pop_front();
        }
        ends.push_back(next);
    }

    /// Sequence of the newest trimmed message, if `from` lies inside its range of offsets, possibly after its last record.
    #[must_use]
    pub fn last_trimmed(&self, from: Offset) -> Option<u64> {
        let sequence = sequence_of(from);
        let is_inside = from > start_of(sequence) && from < end_of(sequence);
        (is_inside && end_of(sequence) == self.floor()).then_some(sequence)
    }

    /// Offset just after the last record of a message, if it is remembered.
    #[must_use]
    pub fn end_in(&self, sequence: u64) -> Option<Offset> {
        let ends = self.ends.lock().expect("no panic while it is held");
        ends.iter().copied().find(|next| *next > start_of(sequence) && *next <= end_of(sequence))
    }

    /// The same place, where `from` lies behind the last record of a message that was trimmed, and nothing
    /// after that was: the oldest offset kept. A receipt may have told of it so.
    #[must_use]
    pub fn place(&self, from: Offset) -> Offset {
        let end = self.last_trimmed(from).and_then(|sequence| self.end_in(sequence));
        if end.is_some_and(|end| end <= from) { self.floor() } else { from }
    }

    /// Forgets what is before `floor`.
    pub fn trim(&self, floor: Offset) {
        self.floor.fetch_max(floor.get(), Ordering::AcqRel);
    }

    /// Ends the topic.
    pub fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.nats.cache.clear(&self.cache);
        self.cursors.clear();
        self.moved.notify_waiters();
        self.work.notify_one();
    }

    /// Whether reading at `from` makes sense.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::Trimmed`], [`Error::BeyondTail`].
    pub fn check_readable(&self, from: Offset) -> Result<(), Error> {
        let (epoch, earliest, tail) = (self.epoch, self.floor(), self.tail());
        match () {
            () if self.is_deleted() => Err(Error::TopicNotFound),
            () if from < earliest => Err(Error::Trimmed { epoch, earliest, tail: tail.max(earliest) }),
            () if from > tail => Err(Error::BeyondTail { epoch, earliest, tail }),
            () => Ok(()),
        }
    }

    /// What the cache holds from `from` on, about `bytes_max` bytes; none where it holds nothing.
    #[must_use]
    pub fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let chunk = self.cached_from(from, bytes_max)?;
        // There may be no record from `from` to its message's end.
        if chunk.runs.is_empty() { self.cached_from(chunk.next, bytes_max) } else { Some(chunk) }
    }

    fn cached_from(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let tail = self.tail();
        if from >= tail || from < self.floor() {
            return None;
        }
        let mut taken = 0;
        let runs = self.cache.runs_from(from, |run| {
            let more = run.end <= tail && (taken == 0 || taken + run.blocks.len() <= bytes_max);
            taken += run.blocks.len();
            more
        });
        let chunk = chunk_of(from, runs.into_iter().map(|run| (run.first, run.end, run.blocks))).ok()?;
        (chunk.next > from).then_some(chunk)
    }

    /// Resolves once the tail is beyond `offset` or the topic is gone.
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

    /// All that is known about it.
    #[must_use]
    pub fn info(&self) -> TopicInfo {
        let settings = **self.settings.load();
        let last = self.last_publish.load(Ordering::Relaxed);
        TopicInfo {
            name: self.name.clone(),
            epoch: self.epoch,
            created: self.created,
            updated: settings.updated,
            retention: settings.retention,
            earliest: self.floor(),
            tail: self.tail(),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            last_publish: (last != 0).then_some(UnixMicros(last)),
        }
    }
}

/// A chunk that begins at `from`, of consecutive runs of which the first holds `from` or ends there.
///
/// # Errors
/// A run is not made of blocks.
pub fn chunk_of(
    from: Offset,
    runs: impl Iterator<Item = (Offset, Offset, bytes::Bytes)>,
) -> Result<Chunk, Malformed> {
    let mut chunk = Chunk::empty(from);
    for (first, end, blocks) in runs {
        if first < from {
            chunk.runs.extend(starting_at(&blocks, from)?);
        } else {
            chunk.runs.push(blocks);
        }
        chunk.next = end;
    }
    for run in &chunk.runs {
        for block in Blocks::new(run) {
            chunk.records += block?.count();
        }
    }
    Ok(chunk)
}
