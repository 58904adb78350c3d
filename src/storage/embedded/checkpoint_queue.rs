//! What the committer handed over and the checkpointer has not finished: snapshots, their bytes,
//! spare journals, and how the checkpointer fares.
//! Never: grows past its limit; the committer waits.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::commit::Pending;
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::topic_state::Settings;
use crate::storage::{Error, Stored};
use crate::telemetry::METRICS;

/// The state at exactly one synced commit, and what the journals before it hold.
#[derive(Debug)]
pub struct Snapshot {
    /// The commit.
    pub commit: u64,
    /// The journal that goes on after it.
    pub journal: u64,
    /// The id the next topic gets.
    pub next_topic: u64,
    /// The newest publish time.
    pub clock: UnixMicros,
    /// Request ids stored before this are out of the window.
    pub oldest_id: UnixMicros,
    /// When the oldest that is remembered was stored; none where there is none.
    pub oldest_kept_id: Option<UnixMicros>,
    /// Every topic.
    pub topics: Vec<TopicMark>,
    /// Runs not in a segment yet, in the order they were committed.
    pub pending: Vec<Pending>,
}

/// One topic at the snapshot's commit.
#[derive(Debug)]
pub struct TopicMark {
    /// Which.
    pub topic: Arc<Topic>,
    /// The oldest offset kept.
    pub earliest: Offset,
    /// The offset the next record gets.
    pub tail: Offset,
    /// When the newest batch was stored.
    pub last_publish: UnixMicros,
    /// Its settings.
    pub settings: Settings,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Snapshot>,
    bytes: usize,
    spares: Vec<PathBuf>,
    full: bool,
    short: bool,
    failure: Option<String>,
    closed: bool,
    synced: Option<u64>,
}

/// Between the committer and the checkpointer.
#[derive(Debug)]
pub struct CheckpointQueue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

/// What the checkpointer found.
#[derive(Debug)]
pub enum Work {
    /// A snapshot to make durable.
    Snapshot(Snapshot),
    /// Nothing within the time.
    Quiet,
    /// The log closes; the newest commit that was synced, where the committer ended in order.
    Closed(Option<u64>),
}

impl CheckpointQueue {
    /// Holds at most about `bytes_max` bytes of runs.
    #[must_use]
    pub fn new(bytes_max: usize, spares: Vec<PathBuf>) -> Self {
        let state = State { spares, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Counts bytes that are in no segment yet.
    pub fn add(&self, bytes: usize) {
        self.lock().bytes += bytes;
        METRICS.storage.unflushed.add(bytes as i64);
    }

    /// Hands a snapshot over.
    pub fn push(&self, snapshot: Snapshot) {
        let mut state = self.lock();
        state.short = false;
        state.waiting.push_back(snapshot);
        drop(state);
        self.changed.notify_all();
    }

    /// No journal could be begun for want of space: the checkpointer frees what it can, until one is.
    /// Answers whether that is new.
    pub fn run_short(&self) -> bool {
        let was = std::mem::replace(&mut self.lock().short, true);
        if !was {
            self.changed.notify_all();
        }
        !was
    }

    /// Whether space is wanting for a journal.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.lock().short
    }

    /// Whether a snapshot is not in segments yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Something was forgotten: where the disk is full, the checkpointer looks at once what that frees.
    pub fn look_again(&self) {
        let state = self.lock();
        if state.full || state.short {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// An old journal whose space can be written again.
    #[must_use]
    pub fn take_spare(&self) -> Option<PathBuf> {
        self.lock().spares.pop()
    }

    /// Keeps an old journal for [`Self::take_spare`], if there is use for it.
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        /// One is being written and one flushed; a third file waits.
        const SPARES_MAX: usize = 1;
        self.lock().spares.len() < SPARES_MAX
    }

    /// Keeps an old journal.
    pub fn add_spare(&self, path: PathBuf) {
        self.lock().spares.push(path);
    }

    /// Waits while too much is in no segment yet.
    ///
    /// # Errors
    /// [`Error::DiskFull`] where that is why; the checkpointer's failure.
    pub fn wait_for_room(&self) -> Result<(), Error> {
        let mut state = self.lock();
        // What is not handed over yet cannot shrink by waiting.
        while state.bytes > self.bytes_max && !state.waiting.is_empty() {
            if let Some(reason) = &state.failure {
                return Err(Error::Unavailable { reason: reason.clone(), stored: Stored::Nothing });
            }
            if state.full {
                return Err(Error::DiskFull);
            }
            state = self.changed.wait(state).expect("no panic while it is held");
        }
        Ok(())
    }

    /// Why the checkpointer ended, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// The next thing for the checkpointer, within `wait`. The snapshot stays counted as waiting
    /// until [`Self::finish`].
    #[must_use]
    pub fn take(&self, wait: Duration) -> Work {
        let mut state = self.lock();
        if state.waiting.is_empty() && !state.closed {
            (state, _) = self.changed.wait_timeout(state, wait).expect("no panic while it is held");
        }
        if state.closed {
            return Work::Closed(state.synced);
        }
        match state.waiting.front_mut() {
            None => Work::Quiet,
            Some(front) => Work::Snapshot(Snapshot {
                topics: std::mem::take(&mut front.topics),
                pending: std::mem::take(&mut front.pending),
                ..*front
            }),
        }
    }

    /// The snapshot taken is in segments and catalog: `bytes` less are waiting.
    pub fn finish(&self, bytes: usize) {
        let mut state = self.lock();
        state.waiting.pop_front();
        METRICS.storage.unflushed.add(-(bytes.min(state.bytes) as i64));
        state.bytes = state.bytes.saturating_sub(bytes);
        state.full = false;
        drop(state);
        self.changed.notify_all();
    }

    /// The disk was full; answers whether the log closes meanwhile, after at most `wait`.
    #[must_use]
    pub fn wait_full(&self, wait: Duration) -> bool {
        let mut state = self.lock();
        state.full = true;
        self.changed.notify_all();
        if !state.closed {
            (state, _) = self.changed.wait_timeout(state, wait).expect("no panic while it is held");
        }
        state.closed
    }

    /// The checkpointer ends, for good.
    pub fn fail(&self, reason: &str) {
        self.lock().failure = Some(reason.to_owned());
        self.changed.notify_all();
    }

    /// The log closes; `synced` is its newest commit, where that is known.
    pub fn close(&self, synced: Option<u64>) {
        let mut state = self.lock();
        state.closed = true;
        state.synced = state.synced.or(synced);
        drop(state);
        self.changed.notify_all();
    }
}
