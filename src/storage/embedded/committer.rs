//! The committer: one thread that takes everything that waits, makes a commit of it, writes and
//! syncs it once, shows it and answers. It owns the journal, the window of request ids and every
//! offset not yet given.
//! Never: acknowledges before the sync, or writes a commit before the one before it was synced.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;

use super::catalog::{self, ChangeKind, TopicEntry};
use super::checkpoint_queue::{CheckpointQueue, Snapshot, TopicMark};
use super::commit::{Built, CommitBuilder, Pending};
use super::disk::{Disk, is_full, is_too_many_files};
use super::frame::{Header, Kind};
use super::health::Monitor;
use super::journal::{self, CommitBuf, Synced};
use super::queue::{Change, Op, Queue, Taken, TopicAppend};
use super::registry::{Registry, topic_of};
use super::reserve;
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::clock::Clock;
use crate::storage::window::Window;
use crate::storage::{Appended, Error, Stored};
use crate::telemetry::METRICS;
use crate::telemetry::trace::Steps;

/// A commit takes appends until they make about this many bytes: a write of some milliseconds, so
/// that nobody waits long for the one before.
const COMMIT_TARGET: u64 = 2 << 20;
/// One part in so many of a journal is kept for changes of the catalog.
const CHANGES_SHARE: u64 = 16;
/// And room for at least so many.
const CHANGES_MIN: u64 = 6;
/// Quiet after which the newest commit is sealed by an empty one, so that damage to it can be told
/// from a torn tail.
const SEAL_AFTER: Duration = Duration::from_millis(50);

/// Where the committer writes.
#[derive(Debug)]
pub struct Store {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
    /// Bytes of one journal file.
    pub journal_bytes: u64,
    /// Most topics.
    pub topics_max: usize,
}

/// What a new journal is wanted for, which decides how far a full disk is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Appends.
    Appends,
    /// A checkpoint of what the old one holds.
    Checkpoint,
    /// A change of the catalog.
    Change,
    /// A trim or a deletion, which frees space in the end.
    Forgetting,
}

/// The committer's state.
#[derive(Debug)]
pub struct Committer {
    /// Where to.
    pub store: Store,
    /// What waits.
    pub queue: Queue,
    /// The topics there are.
    pub registry: Arc<Registry>,
    /// The journal written to.
    pub journal: journal::Writer,
    /// The request ids remembered.
    pub window: Window,
    /// The newest publish time; times never decrease.
    pub clock: UnixMicros,
    /// The clocks.
    pub time: Clock,
    /// The id the next topic gets.
    pub next_topic: u64,
    /// What the journals hold that no segment does yet, since the last rotation.
    pub pending: Vec<Pending>,
    /// The way to the checkpointer.
    pub checkpoint_queue: Arc<CheckpointQueue>,
    /// Where failures are reported.
    pub health: Monitor,
    /// The commit's bytes; kept for its memory.
    pub buffer: CommitBuf,
    /// Whether the newest commit is empty, so that the ones before it are known to be acknowledged.
    pub sealed: bool,
    /// The first journal that holds what was not handed over, where no checkpoint is under way.
    pub first_journal: u64,
    /// Why nothing is written any more.
    pub failed: Option<String>,
}

impl Committer {
    /// Works until the queue is closed and empty.
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
            }
        }
    }

    /// Commits `first` and the appends right behind it as one commit.
    // Never inlined, which costs a call a commit: benches/instructions counts what happens in here by this name.
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

    /// Whether a commit of at most `bound` bytes can be written, and will not run out of disk.
    fn make_room(&mut self, bound: u64) -> Result<(), Error> {
        self.check_failed()?;
        self.checkpoint_queue.wait_for_room()?;
        // Changes find room where appends find none: a trim or a deletion ends a full disk.
        let reserve = (self.store.journal_bytes / CHANGES_SHARE).max(CHANGES_MIN * journal::ALIGN);
        self.make_journal(bound + 2 * journal::ALIGN + reserve, For::Appends)
    }

    /// Whether `len` bytes fit this journal, or else a new one.
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

    /// What a disk error means; any but a full disk ends writing for good.
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

    /// Writes and syncs what stands in the buffer.
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
        // The last of the room is for changes.
        if self.journal.has_room(self.buffer.len() + CHANGES_MIN * journal::ALIGN) {
            // A failure is reported; there is nobody to answer.
            let _ = self.write();
        }
        self.sealed = true;
    }

    /// Begins a new journal for a checkpoint, where that is possible.
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

    /// Begins a new journal with room for `len` bytes and hands what the old ones hold to the checkpointer.
    fn rotate(&mut self, len: u64, what: For) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        let capacity = self.store.journal_bytes.max(len + 2 * journal::ALIGN);
        let spare = self.checkpoint_queue.take_spare();
        let made = match self.begin_journal(capacity, spare.as_deref()) {
            // Those before this one can be let go of all the same.
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

    /// Hands what is in no segment yet to the checkpointer, which lets go of the journals before this one.
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

    /// On a disk too full for a whole journal, a smaller one, and for what can free it one of the reserve.
    fn begin_small_journal(&self, len: u64, what: For, full: io::Error) -> io::Result<journal::Writer> {
        let (is_waiting, frees) = (self.checkpoint_queue.is_waiting(), self.holds_garbage());
        let (small, reserve) = match what {
            // Behind a checkpoint that waits for space itself they would only take more.
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

    /// Whether the journals hold what was trimmed or deleted.
    fn holds_garbage(&self) -> bool {
        self.pending
            .iter()
            .any(|item| item.topic.state.is_deleted() || item.run.end <= item.topic.state.earliest())
    }

    /// Has a full disk freed of what was forgotten just now.
    fn free_space(&mut self) {
        if self.checkpoint_queue.is_short() && !self.checkpoint_queue.is_waiting() && self.holds_garbage() {
            self.try_rotate();
        }
        self.checkpoint_queue.look_again();
    }

    fn snapshot(&mut self) -> Snapshot {
        let mark = |topic: Arc<Topic>| {
            // What is published from now on is not in segments when this is, and stays in memory.
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

    /// What a change means for which topic, if it may be made.
    fn plan(&mut self, change: Change) -> Result<(Arc<Topic>, ChangeKind), Error> {
        let now = self.now();
        match change {
            Change::Create(name, retention) => {
                if self.registry.get(&name).is_some() {
                    return Err(Error::TopicExists);
                }
                if self.registry.len() >= self.store.topics_max {
                    return Err(Error::TopicLimit { limit: self.store.topics_max });
                }
                let entry = TopicEntry {
                    id: self.next_topic,
                    name: name.to_string(),
                    epoch: random_epoch()?,
                    created: now.0,
                    updated: now.0,
                    retention: Some(retention.into()),
                    ..TopicEntry::default()
                };
                let topic = topic_of(&entry, name);
                Ok((Arc::new(topic), ChangeKind::Create(entry)))
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
                    return Err(Error::EpochChanged { current: topic.state.epoch });
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

/// Nobody waits for a committer that panicked.
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
