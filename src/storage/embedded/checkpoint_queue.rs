//! The queue between the committer and the checkpointer: unfinished snapshots, the number of bytes that no
//! segment holds yet, spare journals, and the checkpointer's state. Its size is bounded: at the limit, the
//! committer waits.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use super::commit::{self, Pending};
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::topic_state::Settings;
use crate::storage::{Error, Stored};
use crate::telemetry::METRICS;

/// State of the log at exactly one synced commit, with the runs that only the journals hold at that point.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of the commit.
    pub commit: u64,
    /// Sequence number of the journal that continues after it.
    pub journal: u64,
    /// Id of the next topic to be created.
    pub next_topic: u64,
    /// The newest publish time.
    pub clock: UnixMicros,
    /// Time before which request ids are outside the window.
    pub oldest_id: UnixMicros,
    /// Time at which the oldest remembered request id was stored; none if no id is remembered.
    pub oldest_kept_id: Option<UnixMicros>,
    /// Every topic.
    pub topics: Vec<TopicMark>,
    /// Runs that are not in a segment yet, in the order of their commits.
    pub pending: Vec<Pending>,
}

/// One topic at the snapshot's commit.
#[derive(Debug)]
pub struct TopicMark {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The oldest offset kept.
    pub earliest: Offset,
    /// Offset of the next record to be stored.
    pub tail: Offset,
    /// Time at which the newest batch was stored.
    pub last_publish: UnixMicros,
    /// Settings of the topic.
    pub settings: Settings,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Snapshot>,
    /// Request ids of the snapshot that was taken, by topic.
    taken_ids: Vec<(u64, Bytes)>,
    bytes: usize,
    spares: Vec<PathBuf>,
    full: bool,
    short: bool,
    failure: Option<String>,
    closed: bool,
    synced: Option<u64>,
}

/// Queue between the committer and the checkpointer.
#[derive(Debug)]
pub struct CheckpointQueue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

/// Result of waiting for work.
#[derive(Debug)]
pub enum Work {
    /// A snapshot to make durable.
    Snapshot(Snapshot),
    /// Nothing came within the time.
    Quiet,
    /// The log closes. Holds the newest synced commit if the committer ended normally.
    Closed(Option<u64>),
}

impl CheckpointQueue {
    /// Creates a queue that holds at most about `bytes_max` bytes of runs.
    #[must_use]
    pub fn new(bytes_max: usize, spares: Vec<PathBuf>) -> Self {
        let state = State { spares, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Adds to the number of bytes that are in no segment yet.
    pub fn add(&self, bytes: usize) {
        self.lock().bytes += bytes;
        METRICS.storage.unflushed.add(bytes as i64);
    }

    /// Hands a snapshot to the checkpointer.
    pub fn push(&self, snapshot: Snapshot) {
        let mut state = self.lock();
        state.short = false;
        state.waiting.push_back(snapshot);
        drop(state);
        self.changed.notify_all();
    }

    /// Reports that there is no space for a new journal: the checkpointer frees what it can until one is
    /// created. Returns true if this was not known before.
    pub fn run_short(&self) -> bool {
        let was = std::mem::replace(&mut self.lock().short, true);
        if !was {
            self.changed.notify_all();
        }
        !was
    }

    /// Returns true if there is no space for a new journal.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.lock().short
    }

    /// Returns true if a snapshot is not in segments yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Reports a trim or a deletion: if the disk is full, it wakes the checkpointer to free space at once.
    pub fn wake_if_full(&self) {
        let state = self.lock();
        if state.full || state.short {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Takes an old journal whose space can be reused.
    #[must_use]
    pub fn take_spare(&self) -> Option<PathBuf> {
        self.lock().spares.pop()
    }

    /// Returns true if one more old journal is useful for [`Self::take_spare`].
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        /// While one journal is written and one is flushed, a third file waits as a spare.
        const SPARES_MAX: usize = 1;
        self.lock().spares.len() < SPARES_MAX
    }

    /// Stores an old journal for reuse.
    pub fn add_spare(&self, path: PathBuf) {
        self.lock().spares.push(path);
    }

    /// Waits while more bytes than the limit are in no segment yet.
    ///
    /// # Errors
    /// Returns [`Error::DiskFull`] if a full disk is the reason to wait, or the checkpointer's failure.
    pub fn wait_for_room(&self) -> Result<(), Error> {
        let mut state = self.lock();
        // Waiting frees nothing of what has not been handed over yet.
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

    /// Returns the reason for which the checkpointer ended, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Waits at most `wait` for the next work of the checkpointer. A snapshot counts as waiting until
    /// [`Self::finish`].
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
            Some(front) => {
                let snapshot = Snapshot {
                    topics: std::mem::take(&mut front.topics),
                    pending: std::mem::take(&mut front.pending),
                    ..*front
                };
                let with_ids = snapshot.pending.iter().filter(|item| !item.ids.is_empty());
                state.taken_ids.extend(with_ids.map(|item| (item.topic.id, item.ids.clone())));
                Work::Snapshot(snapshot)
            }
        }
    }

    /// Returns the ids sections of a topic in the snapshots whose ids may be in no file yet.
    pub fn ids(&self, topic: u64) -> Vec<Bytes> {
        let state = self.lock();
        let taken = state.taken_ids.iter().filter(|(of, _)| *of == topic).map(|(_, ids)| ids.clone());
        let waiting = state.waiting.iter().flat_map(|snapshot| commit::ids_of(&snapshot.pending, topic));
        taken.chain(waiting).collect()
    }

    /// Removes the snapshot that was taken, which is now in segments and in the catalog, and its `bytes`.
    pub fn finish(&self, bytes: usize) {
        let mut state = self.lock();
        state.waiting.pop_front();
        state.taken_ids = Vec::new();
        METRICS.storage.unflushed.add(-(bytes.min(state.bytes) as i64));
        state.bytes = state.bytes.saturating_sub(bytes);
        state.full = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Reports a full disk and waits at most `wait`. Returns true if the log closes.
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

    /// Reports that the checkpointer ends for good.
    pub fn fail(&self, reason: &str) {
        self.lock().failure = Some(reason.to_owned());
        self.changed.notify_all();
    }

    /// Closes the queue; `synced` is the newest synced commit, if it is known.
    pub fn close(&self, synced: Option<u64>) {
        let mut state = self.lock();
        state.closed = true;
        state.synced = state.synced.or(synced);
        drop(state);
        self.changed.notify_all();
    }
}
