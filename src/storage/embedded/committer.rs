//! The committer: one thread that takes all waiting operations, builds a commit of them, writes and syncs it
//! once, publishes it and answers. It owns the journal, the window of request ids and the offsets not yet
//! assigned. A commit is acknowledged only after its sync, and written only after the previous one was
//! synced.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;

use super::catalog::{self, AncestorEntry, ChangeKind, RetentionEntry, TopicEntry};
use super::checkpoint_queue::{CheckpointQueue, Snapshot, TopicMark};
use super::commit::{Built, CommitBuilder, Pending, ids_of};
use super::disk::{Disk, is_full, is_too_many_files};
use super::frame::{Header, Kind};
use super::health::Monitor;
use super::journal::{self, CommitBuf, Synced};
use super::queue::{Change, Op, Queue, Taken, TopicAppend};
use super::registry::{Registry, topic_of};
use super::reserve;
use super::topic::Topic;
use crate::record::{Offset, TopicName, UnixMicros};
use crate::storage::clock::Clock;
use crate::storage::window::Window;
use crate::storage::{Appended, Error, Stored};
use crate::telemetry::METRICS;
use crate::telemetry::trace::Steps;

/// Approximate size in bytes at which a commit takes no more appends: a write of some milliseconds, so that
/// nobody waits long for the previous commit.
const COMMIT_TARGET: u64 = 2 << 20;
/// Part of a journal that is reserved for changes of the catalog: one part in this many.
const CHANGES_SHARE: u64 = 16;
/// Minimum number of changes for which a journal reserves room.
const CHANGES_MIN: u64 = 6;
/// Idle time after which an empty commit seals the newest one, so that damage to it can be distinguished from
/// a torn tail.
const SEAL_AFTER: Duration = Duration::from_millis(50);

/// Disk, directory and limits with which the committer writes.
#[derive(Debug)]
pub struct Store {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// Size of one journal file, in bytes.
    pub journal_bytes: u64,
    /// Maximum number of topics.
    pub topics_max: usize,
}

/// Purpose of a new journal, which decides what is tried on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Appends.
    Appends,
    /// A checkpoint of what the old journal holds.
    Checkpoint,
    /// A change of the catalog.
    Change,
    /// A trim or a deletion, which frees space later.
    Forgetting,
}

/// The committer's state.
#[derive(Debug)]
pub struct Committer {
    /// Disk, directory and limits with which it writes.
    pub store: Store,
    /// Queue of operations.
    pub queue: Queue,
    /// Registry of all topics.
    pub registry: Arc<Registry>,
    /// Journal that is being written.
    pub journal: journal::Writer,
    /// Window of remembered request ids.
    pub window: Window,
    /// Newest publish time; publish times never decrease.
    pub clock: UnixMicros,
    /// Wall clock and steady clock.
    pub time: Clock,
    /// Id of the next topic to be created.
    pub next_topic: u64,
    /// Runs published since the last rotation, which are in no segment yet.
    pub pending: Vec<Pending>,
    /// Queue of snapshots to the checkpointer.
    pub checkpoint_queue: Arc<CheckpointQueue>,
    /// Health monitor to which failures are reported.
    pub health: Monitor,
    /// Bytes of the commit being written; the buffer is kept to reuse its memory.
    pub buffer: CommitBuf,
    /// True if the newest commit is empty, so that the ones before it are known to be acknowledged.
    pub sealed: bool,
    /// Sequence number of the first journal that is still needed while no checkpoint is under way.
    pub first_journal: u64,
    /// Reason for which nothing is written any more, if writing has failed.
    pub failed: Option<String>,
}

impl Committer {
    /// Runs until the queue is closed and empty.
    pub fn run(mut self) {
        let _guard = PanicGuard {
            checkpoint_queue: self.checkpoint_queue.clone(),
            queue: self.queue.clone(),
            health: self.health.clone(),
        };
        loop {
            let wait = (!self.sealed && self.failed.is_none()).then_some(SEAL_AFTER);
            match self.queue.take(wait) {
                Taken::Ops(ops) => self.work(ops),
                Taken::Quiet => self.seal(),
                Taken::Closed => break,
            }
        }
        if !self.sealed {
            self.seal();
        }
        self.checkpoint_queue.close(Some(self.journal.next_commit - 1));
    }

    fn work(&mut self, mut ops: VecDeque<Op>) {
        while let Some(op) = ops.pop_front() {
            match op {
                Op::Append(append) => self.append(append, &mut ops),
                Op::Change(change, reply) => {
                    let _ = reply.send(self.change(change));
                }
                Op::Rotate => self.try_rotate(),
                Op::Ids(topic, reply) => {
                    let mut ids = self.checkpoint_queue.ids(topic);
                    ids.extend(ids_of(&self.pending, topic));
                    let _ = reply.send(ids);
                }
            }
        }
    }

    /// Commits `first` and the appends that directly follow it in `ops` as one commit.
    // This is never inlined, which costs one call per commit, because benches/instructions counts the work
    // done here by this name.
    #[inline(never)]
    fn append(&mut self, first: TopicAppend, ops: &mut VecDeque<Op>) {
        let mut bound = CommitBuilder::bound(&first);
        let mut appends = vec![first];
        while bound < COMMIT_TARGET {
            let Some(Op::Append(_)) = ops.front() else { break };
            let Some(Op::Append(append)) = ops.pop_front() else { break };
            bound += CommitBuilder::bound(&append);
            appends.push(append);
        }
        if let Err(error) = self.make_room(bound) {
            return refuse(appends, &error);
        }
        let taken = Instant::now();
        let mut commit = CommitBuilder::new(self.now(), self.time.steady(), appends.len(), bound);
        for append in appends {
            commit.add(append, &self.window);
        }
        let built = commit.finish(&mut self.buffer);
        if built.runs.is_empty() {
            return built.publish(&mut self.window, &mut self.pending, None);
        }
        METRICS.storage.group_bytes.record(self.buffer.len());
        METRICS.storage.group_batches.record(built.runs.iter().map(|item| u64::from(item.run.batches)).sum());
        match self.write() {
            Ok(Synced { written, synced }) => {
                self.publish(built, Steps { taken, written: Some(written), durable: synced });
            }
            Err(error) => built.refuse(&error),
        }
    }

    fn publish(&mut self, built: Built, steps: Steps) {
        self.checkpoint_queue.add(built.runs.iter().map(Pending::bytes).sum());
        built.publish(&mut self.window, &mut self.pending, Some(steps));
    }

    fn now(&mut self) -> UnixMicros {
        self.clock = self.clock.max(self.time.wall());
        self.clock
    }

    /// Makes sure that a commit of at most `bound` bytes can be written without running out of disk space.
    fn make_room(&mut self, bound: u64) -> Result<(), Error> {
        self.check_failed()?;
        self.checkpoint_queue.wait_for_room()?;
        // Changes have room even if appends have none, because a trim or a deletion is what frees a full
        // disk.
        let reserve = (self.store.journal_bytes / CHANGES_SHARE).max(CHANGES_MIN * journal::ALIGN);
        self.make_journal(bound + 2 * journal::ALIGN + reserve, For::Appends)
    }

    /// Makes sure that `len` bytes fit in this journal, and starts a new one if they do not.
    fn make_journal(&mut self, len: u64, what: For) -> Result<(), Error> {
        if self.journal.has_room(len) {
            return Ok(());
        }
        self.rotate(len, what).map_err(|error| self.failure(&error))
    }

    fn check_failed(&mut self) -> Result<(), Error> {
        if self.failed.is_none() {
            self.failed = self.checkpoint_queue.failure();
        }
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(Error::Unavailable { reason: reason.clone(), stored: Stored::Nothing }),
        }
    }

    /// Converts a disk error. Any error but a full disk or too many open files ends writing for good.
    fn failure(&mut self, error: &io::Error) -> Error {
        if is_full(error) {
            return Error::DiskFull;
        }
        if is_too_many_files(error) {
            return Error::Unavailable { reason: error.to_string(), stored: Stored::Nothing };
        }
        let reason = format!("journal: {error}");
        self.health.fail(&reason);
        self.failed = Some(reason.clone());
        Error::Unavailable { reason, stored: Stored::Unknown }
    }

    /// Writes and syncs the commit in the buffer.
    fn write(&mut self) -> Result<Synced, Error> {
        let synced = self.journal.append(&mut self.buffer).map_err(|error| self.failure(&error))?;
        self.sealed = false;
        Ok(synced)
    }

    fn seal(&mut self) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.clear();
        // The last part of the room is reserved for changes.
        if self.journal.has_room(self.buffer.len() + CHANGES_MIN * journal::ALIGN) {
            // The health monitor reports a failure, and nobody waits for an answer.
            let _ = self.write();
        }
        self.sealed = true;
    }

    /// Starts a new journal for a checkpoint, if that is possible.
    fn try_rotate(&mut self) {
        if self.failed.is_none()
            && let Err(error) = self.rotate(0, For::Checkpoint)
        {
            let error = self.failure(&error);
            if error != Error::DiskFull {
                tracing::warn!(%error, "journal was not rotated");
            }
        }
    }

    /// Starts a new journal with room for `len` bytes, and hands what the old ones hold to the checkpointer.
    fn rotate(&mut self, len: u64, what: For) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        let capacity = self.store.journal_bytes.max(len + 2 * journal::ALIGN);
        let spare = self.checkpoint_queue.take_spare();
        let made = match self.begin_journal(capacity, spare.as_deref()) {
            // The journals before this one can be removed even without a new one.
            Err(full) if is_full(&full) && what == For::Checkpoint && self.has_older_journals() => {
                self.hand_over();
                return Ok(());
            }
            Err(full) if is_full(&full) => self.begin_small_journal(len, what, full),
            made => made,
        };
        self.journal = made.inspect_err(|error| {
            if is_full(error) && self.checkpoint_queue.run_short() {
                tracing::warn!(%error, "no room for a journal: trim or delete topics, or free space");
            }
        })?;
        self.hand_over();
        self.sealed = true;
        Ok(())
    }

    /// Hands what is in no segment yet to the checkpointer, which then removes the journals before this one.
    fn hand_over(&mut self) {
        let snapshot = self.snapshot();
        self.first_journal = snapshot.journal;
        self.checkpoint_queue.push(snapshot);
    }

    fn has_older_journals(&self) -> bool {
        self.first_journal < self.journal.seq && !self.checkpoint_queue.is_waiting()
    }

    fn begin_journal(&self, capacity: u64, spare: Option<&Path>) -> io::Result<journal::Writer> {
        let (seq, first_commit) = (self.journal.seq + 1, self.journal.next_commit);
        let spec = journal::Spec { seq, capacity, first_commit };
        journal::Writer::create(&*self.store.disk, &self.store.dir, spec, spare, None)
    }

    /// Starts a smaller journal on a disk that is too full for a whole one. For an operation that can free
    /// space, it also uses the reserve.
    fn begin_small_journal(&self, len: u64, what: For, full: io::Error) -> io::Result<journal::Writer> {
        let (is_waiting, frees) = (self.checkpoint_queue.is_waiting(), self.holds_garbage());
        let (small, reserve) = match what {
            // While a checkpoint waits for space, appends would only use more of it.
            For::Appends => (!is_waiting, false),
            For::Checkpoint => (!is_waiting, !is_waiting && frees),
            For::Change => (true, false),
            For::Forgetting => (true, true),
        };
        let least = ((CHANGES_MIN + 2) * journal::ALIGN).max(len + 2 * journal::ALIGN);
        let mut made = Err(full);
        for part in [4, CHANGES_SHARE] {
            if small && made.as_ref().is_err_and(is_full) {
                made = self.begin_journal((self.store.journal_bytes / part).max(least), None);
            }
        }
        match made {
            Err(full) if reserve && is_full(&full) => {
                let found = reserve::find(&*self.store.disk, &self.store.dir, least);
                let (path, size) = found.ok_or(full)?;
                self.begin_journal(size, Some(&path))
            }
            made => made,
        }
    }

    /// Returns true if the journals hold records that were trimmed or deleted.
    fn holds_garbage(&self) -> bool {
        self.pending
            .iter()
            .any(|item| item.topic.state.is_deleted() || item.run.end <= item.topic.state.earliest())
    }

    /// Starts to free a full disk of records that were just trimmed or deleted.
    fn free_space(&mut self) {
        if self.checkpoint_queue.is_short() && !self.checkpoint_queue.is_waiting() && self.holds_garbage() {
            self.try_rotate();
        }
        self.checkpoint_queue.wake_if_full();
    }

    fn snapshot(&mut self) -> Snapshot {
        let mark = |topic: Arc<Topic>| {
            // Runs published from now on start another chunk, which stays in memory when those of this
            // snapshot are evicted.
            topic.state.cache.seal();
            TopicMark {
                earliest: topic.state.earliest(),
                tail: topic.state.tail(),
                last_publish: topic.state.last_publish(),
                settings: topic.state.settings(),
                topic,
            }
        };
        Snapshot {
            commit: self.journal.next_commit - 1,
            journal: self.journal.seq,
            next_topic: self.next_topic,
            clock: self.clock,
            oldest_id: self.window.oldest(self.time.steady()),
            oldest_kept_id: self.window.oldest_kept(),
            topics: self.registry.all().into_iter().map(mark).collect(),
            pending: std::mem::take(&mut self.pending),
        }
    }

    fn change(&mut self, change: Change) -> Result<Arc<Topic>, Error> {
        let (topic, kind) = self.plan(change)?;
        let body = catalog::Change { kind: Some(kind.clone()) }.encode_to_vec();
        self.check_failed()?;
        self.buffer.clear();
        let (zero, time) = (Offset::ZERO, self.clock);
        let header = Header {
            kind: Kind::Change,
            body_crc: crc32c::crc32c(&body),
            blocks_len: body.len() as u32,
            ids_len: 0,
            batches: 0,
            topic: topic.id,
            first: zero,
            end: zero,
            first_time: time,
            last_time: time,
        };
        self.buffer.push(&header, &[&body]);
        let forgets = matches!(kind, ChangeKind::Delete(_) | ChangeKind::Trim(_));
        self.make_journal(self.buffer.len(), if forgets { For::Forgetting } else { For::Change })?;
        self.write()?;
        if let ChangeKind::Create(entry) = &kind {
            self.next_topic = entry.id + 1;
        }
        self.registry.apply(&kind, Some(&topic));
        if forgets {
            self.free_space();
        }
        Ok(topic)
    }

    /// Checks that a topic may be created. Returns the topic and the change to write.
    fn plan_topic(
        &mut self,
        name: TopicName,
        described: TopicEntry,
    ) -> Result<(Arc<Topic>, ChangeKind), Error> {
        if self.registry.get(&name).is_some() {
            return Err(Error::TopicExists);
        }
        if !name.is_internal() && self.registry.count() >= self.store.topics_max {
            return Err(Error::TopicLimit { limit: self.store.topics_max });
        }
        let now = self.now().0;
        let entry = TopicEntry {
            id: self.next_topic,
            name: name.to_string(),
            epoch: random_epoch()?,
            created: now,
            updated: now,
            ..described
        };
        let topic = topic_of(&entry, name);
        Ok((Arc::new(topic), ChangeKind::Create(entry)))
    }

    /// Checks that a change may be made. Returns its topic and the change to write.
    fn plan(&mut self, change: Change) -> Result<(Arc<Topic>, ChangeKind), Error> {
        let now = self.now();
        match change {
            Change::Create(name, retention) => self
                .plan_topic(name, TopicEntry { retention: Some(retention.into()), ..TopicEntry::default() }),
            Change::Restore(name, first, lineage) => {
                let restored_from = lineage.ancestors().iter().map(AncestorEntry::from).collect();
                let (earliest, tail) = (first.get(), first.get());
                let retention = Some(RetentionEntry::default());
                self.plan_topic(
                    name,
                    TopicEntry { earliest, tail, retention, restored_from, ..TopicEntry::default() },
                )
            }
            Change::Update(name, retention) => {
                let topic = self.registry.get(&name).ok_or(Error::TopicNotFound)?;
                let (id, updated) = (topic.id, now.0);
                let entry =
                    TopicEntry { id, updated, retention: Some(retention.into()), ..TopicEntry::default() };
                Ok((topic, ChangeKind::Update(entry)))
            }
            Change::Delete(name, epoch) => {
                let topic = self.registry.get(&name).ok_or(Error::TopicNotFound)?;
                if epoch.is_some_and(|epoch| epoch != topic.state.epoch) {
                    return Err(Error::EpochChanged { current: topic.state.epoch, resume: Offset::ZERO });
                }
                let id = topic.id;
                Ok((topic, ChangeKind::Delete(id)))
            }
            Change::Trim(topic, earliest) => {
                if topic.state.is_deleted() {
                    return Err(Error::TopicNotFound);
                }
                let earliest = earliest.max(topic.state.earliest()).min(topic.state.tail()).get();
                let entry = TopicEntry { id: topic.id, earliest, ..TopicEntry::default() };
                Ok((topic, ChangeKind::Trim(entry)))
            }
        }
    }
}

/// Reports a panic of the committer when dropped, so that nobody waits for it.
struct PanicGuard {
    checkpoint_queue: Arc<CheckpointQueue>,
    queue: Queue,
    health: Monitor,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail("the committer panicked");
            self.queue.abandon();
            self.checkpoint_queue.close(None);
        }
    }
}

fn random_epoch() -> Result<u64, Error> {
    getrandom::u64()
        .map_err(|error| Error::Unavailable { reason: error.to_string(), stored: Stored::Nothing })
}

fn refuse(appends: Vec<TopicAppend>, error: &Error) {
    for TopicAppend { append, .. } in appends {
        append.reply.send(Appended::failed(error.clone()));
    }
}
