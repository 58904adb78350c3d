//! State of one incarnation of a topic that its readers, publishers and follower share. The follower is a separate
//! task. While it runs, only the follower moves the tail.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::cursors::Cursors;
use super::message::{end_of, start_of};
use super::names::{self, Meta};
use super::nats::{Nats, micros};
use super::queue::Queue;
use crate::record::{Offset, UnixMicros};
use crate::storage::append::Append;
use crate::storage::chunk::Numbering;
use crate::storage::topic_state::{Settings, TopicState};
use crate::storage::{Appended, Error, TopicInfo};

/// Numbering of records in this engine: the offsets of one message are consecutive, and each message begins at a
/// multiple of [`RECORDS_MAX`](super::names::RECORDS_MAX).
pub const NUMBERING: Numbering = Numbering::Sparse;

/// One incarnation of a topic.
#[derive(Debug)]
pub struct Topic {
    /// State that readers see. Only the follower adds to its cache.
    pub state: Arc<TopicState>,
    /// Name of the stream that stores the topic.
    pub stream: String,
    /// Subject of the topic's messages.
    pub subject: String,
    /// Number that is added to the sequences of NATS ([`Meta::base`]). All sequences in this engine include it, except
    /// in requests to NATS and in its answers.
    pub base: u64,
    /// State that all topics share.
    pub nats: Arc<Nats>,
    /// Consumers for readers that are behind the cache.
    pub cursors: Cursors,
    /// Notification that wakes the follower.
    pub work: Notify,
    stored_bytes: AtomicU64,
    /// Time and result of the last request for the end of the stream. The lock is held during the request.
    pub fetched_end: tokio::sync::Mutex<Option<(Instant, Result<Offset, Error>)>>,
    queue: Mutex<Queue>,
    waiting: AtomicUsize,
    /// Time of the last use of the topic, in milliseconds since the engine started.
    used_ms: AtomicU64,
    /// Time of the last lookup in NATS, in milliseconds since the engine started.
    fetched_ms: AtomicU64,
}

/// Describes the topic that a stream stores.
#[must_use]
pub fn info_of(meta: Meta, info: &Info) -> TopicInfo {
    let state = &info.state;
    let earliest = meta.base + state.first_sequence.clamp(1, state.last_sequence + 1);
    TopicInfo {
        name: meta.topic,
        epoch: meta.epoch,
        created: micros(info.created),
        updated: meta.updated,
        retention: meta.retention,
        earliest: start_of(earliest),
        tail: end_of(meta.base + state.last_sequence),
        stored_bytes: state.bytes,
        last_publish: (state.last_sequence > 0).then(|| micros(state.last_timestamp)),
        lineage: meta.lineage,
        numbering: NUMBERING,
    }
}

/// Guard that keeps the topic's follower running until it is dropped.
pub struct Waiting<'a>(&'a Topic);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Topic {
    /// Creates the topic that the stream stores.
    #[must_use]
    pub fn new(nats: Arc<Nats>, meta: Meta, info: &Info) -> Self {
        let (now, base) = (nats.now_ms(), meta.base);
        let known = info_of(meta, info);
        Self {
            stream: names::stream(&known.name),
            subject: names::subject(&known.name, known.epoch),
            base,
            nats,
            cursors: Cursors::default(),
            work: Notify::new(),
            stored_bytes: AtomicU64::new(known.stored_bytes),
            fetched_end: tokio::sync::Mutex::default(),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            used_ms: AtomicU64::new(now),
            fetched_ms: AtomicU64::new(now),
            state: Arc::new(TopicState::new(known)),
        }
    }

    /// Applies the state that NATS reports. While the topic is followed, only the follower moves the tail, because the
    /// cache does not hold messages that the follower has not read.
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

    /// Queues an append for the follower. If a token is returned, no follower runs and the caller must start one, see
    /// [`Self::claim`].
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

    /// Claims the place of the topic's follower if it is free. The caller then starts the follower. A log that closes
    /// waits until the token is dropped.
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

    /// Keeps the follower running until the returned guard is dropped.
    #[must_use]
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }

    /// Returns true if NATS need not be asked for the state of the stream, because the topic is followed or NATS was
    /// asked just now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        /// Maximum age of the state that GetTopic reports, in milliseconds. It bounds how late publishes of other
        /// replicas show.
        const FRESH_MS: u64 = 100;
        let now = self.nats.now_ms();
        self.queue().followed || now.saturating_sub(self.fetched_ms.load(Ordering::Relaxed)) < FRESH_MS
    }

    /// Records that the topic is used now.
    pub fn touch(&self) {
        self.used_ms.store(self.nats.now_ms(), Ordering::Relaxed);
    }

    /// Returns true if nobody has used the topic for at least `long`.
    #[must_use]
    pub fn is_idle(&self, long: Duration) -> bool {
        let unused = self.nats.now_ms().saturating_sub(self.used_ms.load(Ordering::Relaxed));
        self.waiting.load(Ordering::Acquire) == 0 && u128::from(unused) >= long.as_millis()
    }

    /// Marks the topic as deleted, and drops its cache and its cursors.
    pub fn delete(&self) {
        self.state.delete();
        self.nats.cache.clear(&self.state.cache);
        self.cursors.clear();
        self.work.notify_one();
    }

    /// Logs that stored data is damaged, and returns the error.
    pub fn damaged(&self, what: &str) -> Error {
        let name = &self.state.name;
        tracing::error!(topic = %name, reason = what, "stored data is damaged");
        Error::Damaged(format!("topic {name}: {what}"))
    }

    /// Returns true if batches are handed to other replicas and accepted from them. Not of an internal topic, which has
    /// one writer: a message of it holds nothing of another replica.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.nats.hands_over && !self.state.name.is_internal()
    }

    /// Describes the topic.
    #[must_use]
    pub fn info(&self) -> TopicInfo {
        self.state.info(self.stored_bytes.load(Ordering::Relaxed))
    }
}
