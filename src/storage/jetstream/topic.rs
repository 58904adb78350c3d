//! One incarnation of a topic: what readers, publishers and its follower share. The follower is a task of its own, and
//! alone moves the tail while it runs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::cursors::Cursors;
use super::message::{end_of, sequence_of, start_of};
use super::names::{self, Meta};
use super::nats::{Nats, micros};
use super::queue::Queue;
use crate::record::{Offset, UnixMicros};
use crate::storage::append::Append;
use crate::storage::chunk::Numbering;
use crate::storage::topic_state::{Settings, TopicState};
use crate::storage::{Appended, Error, TopicInfo};

/// This engine's numbering of records: those of one message follow each other, and each message begins at a multiple of
/// its maximum.
pub const NUMBERING: Numbering = Numbering::Sparse;

/// Ends of messages remembered of one topic: 8 bytes each.
const ENDS_MAX: usize = 1024;

/// One incarnation of a topic.
#[derive(Debug)]
pub struct Topic {
    /// State that readers see. Only the follower adds to the cache.
    pub state: Arc<TopicState>,
    /// Name of the stream that stores it.
    pub stream: String,
    /// Subject of its messages.
    pub subject: String,
    /// State that all topics share.
    pub nats: Arc<Nats>,
    /// Readers that lag.
    pub cursors: Cursors,
    /// Wakes the follower.
    pub work: Notify,
    stored_bytes: AtomicU64,
    /// Offsets just after the last record of each of the newest messages, oldest first. Of a message that was trimmed
    /// nothing else says where it ended.
    ends: Mutex<VecDeque<Offset>>,
    /// When NATS was last asked where the stream ends, and its answer. Held while it is asked.
    pub fetched_end: tokio::sync::Mutex<Option<(Instant, Result<Offset, Error>)>>,
    queue: Mutex<Queue>,
    waiting: AtomicUsize,
    /// When it was last used, and last looked up in NATS, in milliseconds of the engine.
    used_ms: AtomicU64,
    fetched_ms: AtomicU64,
}

/// Describes the topic that a stream stores.
#[must_use]
pub fn info_of(meta: Meta, info: &Info) -> TopicInfo {
    let state = &info.state;
    let earliest = state.first_sequence.clamp(1, state.last_sequence + 1);
    TopicInfo {
        name: meta.topic,
        epoch: meta.epoch,
        created: micros(info.created),
        updated: meta.updated,
        retention: meta.retention,
        earliest: start_of(earliest),
        tail: end_of(state.last_sequence),
        stored_bytes: state.bytes,
        last_publish: (state.last_sequence > 0).then(|| micros(state.last_timestamp)),
    }
}

/// Keeps the follower of a topic going for as long as somebody waits for the topic.
pub struct Waiting<'a>(&'a Topic);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Topic {
    /// Creates the topic of a stream.
    #[must_use]
    pub fn new(nats: Arc<Nats>, meta: Meta, info: &Info) -> Self {
        let now = nats.now_ms();
        let known = info_of(meta, info);
        Self {
            stream: names::stream(&known.name),
            subject: names::subject(&known.name, known.epoch),
            nats,
            cursors: Cursors::default(),
            work: Notify::new(),
            stored_bytes: AtomicU64::new(known.stored_bytes),
            ends: Mutex::default(),
            fetched_end: tokio::sync::Mutex::default(),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            used_ms: AtomicU64::new(now),
            fetched_ms: AtomicU64::new(now),
            state: Arc::new(TopicState::new(known, NUMBERING)),
        }
    }

    /// Takes over what NATS says. While the topic is followed only the follower moves the tail, because the cache does
    /// not hold what the follower has not read.
    pub fn refresh(&self, meta: Meta, info: &Info) {
        let known = info_of(meta, info);
        self.state.set_settings(Settings { retention: known.retention, updated: known.updated });
        self.stored_bytes.store(known.stored_bytes, Ordering::Relaxed);
        self.state.trim(known.earliest);
        self.fetched_ms.store(self.nats.now_ms(), Ordering::Relaxed);
        let queue = self.queue();
        if !queue.followed {
            self.state.advance(known.tail, known.last_publish.unwrap_or(UnixMicros(0)));
        }
    }

    /// Locks the queue of appends.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while it is held")
    }

    /// Queues an append for the follower. Where there is no follower, the caller must start one, see [`Self::claim`].
    #[must_use]
    pub fn push(&self, append: Append) -> Option<TaskTrackerToken> {
        self.touch();
        let mut queue = self.queue();
        if self.state.is_deleted() || self.nats.closed.load(Ordering::Acquire) {
            drop(queue);
            let error = if self.state.is_deleted() { Error::TopicNotFound } else { Error::Closing };
            append.reply.send(Appended::failed(error));
            return None;
        }
        queue.push(append);
        let claimed = self.claim_with(&mut queue);
        drop(queue);
        self.work.notify_one();
        claimed
    }

    /// Claims the place of the topic's follower, where it is free. The caller then starts the follower, for which a log
    /// that closes waits as long as the token is held.
    #[must_use]
    pub fn claim(&self) -> Option<TaskTrackerToken> {
        self.touch();
        self.claim_with(&mut self.queue())
    }

    fn claim_with(&self, queue: &mut Queue) -> Option<TaskTrackerToken> {
        let is_free =
            !queue.followed && !self.nats.closed.load(Ordering::Acquire) && !self.state.is_deleted();
        queue.followed |= is_free;
        is_free.then(|| self.nats.tasks.token())
    }

    /// Keeps the follower going until the answer is dropped.
    #[must_use]
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
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
        (is_inside && end_of(sequence) == self.state.earliest()).then_some(sequence)
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
        if end.is_some_and(|end| end <= from) { self.state.earliest() } else { from }
    }

    /// Ends the topic.
    pub fn delete(&self) {
        self.state.delete();
        self.nats.cache.clear(&self.state.cache);
        self.cursors.clear();
        self.work.notify_one();
    }

    /// Reports stored data that is not what was stored.
    pub fn damaged(&self, what: &str) -> Error {
        let name = &self.state.name;
        tracing::error!(topic = %name, reason = what, "stored data is damaged");
        Error::Damaged(format!("topic {name}: {what}"))
    }

    /// Describes the topic.
    #[must_use]
    pub fn info(&self) -> TopicInfo {
        self.state.info(self.stored_bytes.load(Ordering::Relaxed))
    }
}
