//! The task of a shard: it feeds the shard's owner with messages, stored commands, records and time, and carries out what
//! the owner decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::begun::Begun;
use super::clock::{Right, since_boot};
use super::error::Error;
use super::events::{Event, EventSender};
use super::info::Info;
use super::logic::{Command, Copied, GroupId, Input, Now, Owner, SessionId, Tenure, Ticket};
use super::mailbox::{Asker, Joined, Message, Name, Outcomes, Progress, Reply};
use super::random::random;
use super::recent::Recent;
use super::shard_log::{self, Reader, Sized, Stored};
use crate::record::UnixMicros;
use crate::storage::{self, Appended, Appender, BoxFuture, Chunk, Hold, Log, TopicLog};
use crate::topic::Topics;

/// Most appends under way. Further commands are gathered into larger batches.
const APPENDS_MAX: usize = 8;
/// Messages taken before what they caused is carried out.
const MESSAGES_AT_ONCE: usize = 256;
/// Interval of looking after sessions that ended and the lag of groups.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Longest sleep of a task without work.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Longest sleep before an alarm: the runtime's clock stands still while the machine sleeps, the owner's does not.
const ALARM_LOOK: Duration = Duration::from_secs(1);
/// Copies that are published to dead letter topics at the same time.
const DEAD_LETTERS_AT_ONCE: usize = 16;

/// Makes the number and the times of an owner in a fleet. Another replica follows
/// [`TAKEOVER`](super::fleet::TAKEOVER) after it has folded the owner's last command.
fn tenure() -> Tenure {
    let id = random().max(1);
    Tenure { id, renew_ms: 2000, right_ms: 4000 }
}

/// Time after which a shard of a fleet without groups has no owner, if nobody needs it.
const REST_AFTER: Duration = Duration::from_secs(30);

/// State that all shards share.
#[derive(Clone)]
pub(super) struct Shared {
    pub topics: Topics,
    pub log: Arc<dyn Log>,
    pub groups_max: usize,
    pub members_max: usize,
    /// Number of groups of all shards that are at work.
    pub groups: Arc<AtomicUsize>,
    pub batch_limits: crate::record::BatchLimits,
    pub recent: Arc<Recent>,
}

/// A group's topic, and what its members read without asking.
pub(super) struct Source {
    pub topic: Arc<dyn TopicLog>,
    pub progress: Arc<Progress>,
}

/// An open stream of a member.
pub(super) struct Stream {
    pub events: EventSender,
    pub session: SessionId,
    pub group: GroupId,
    /// True for a call that gets one lease: its first event is its last.
    pub is_once: bool,
}

/// A member as people see it.
pub(super) struct Session {
    pub member: Box<str>,
    pub principal: Arc<str>,
    pub since: Instant,
    /// Newest stream of the member.
    pub stream: u64,
    pub group: GroupId,
}

/// Receiver of an answer of the owner.
pub(super) enum Waiting {
    Created(GroupId, Reply<Info>),
    /// A group that a join creates.
    CreatedByJoin(GroupId),
    Changed(GroupId, Reply<Info>),
    Deleted(GroupId, Reply<()>),
    /// With the number of records that are opened.
    Reopened(u64, Reply<u64>),
    Joined {
        stream: u64,
        has_created: bool,
        reply: Reply<Joined>,
    },
    Settled(Asker<Outcomes>),
    Extended(Asker<Option<Duration>>),
    Left(u64),
}

/// Result of work that the task waited for.
pub(super) enum Done {
    /// The tail of a group's topic moved, or the topic is gone.
    Moved(GroupId),
    /// A read for the owner.
    Read(GroupId, u64, Result<Chunk, storage::Error>),
    /// A read for the owner failed a while ago.
    ReadAgain(GroupId, u64),
    /// A copy in the dead letter topic.
    DeadLetter(GroupId, u64, Result<Copied, String>),
    Nothing,
}

/// Reads the next commands of the shard.
type Following = BoxFuture<'static, (Reader, Result<Vec<Stored>, storage::Error>)>;

/// A task of a shard.
pub(super) struct Task {
    pub owner: Owner,
    pub shared: Shared,
    pub topic: Arc<dyn TopicLog>,
    appender: Box<dyn Appender>,
    mailbox: mpsc::UnboundedReceiver<Message>,
    /// Zero of the owner's clock.
    begun: Duration,
    /// Time of the wall clock at that moment. The owner's clock goes on from it evenly, so that a clock that is set does not
    /// change the length of a delay.
    begun_wall: UnixMicros,
    pub commands: VecDeque<Command>,
    appends: FuturesOrdered<BoxFuture<'static, (Vec<Sized>, Appended)>>,
    /// The next commands that are stored, whoever wrote them. None if no other replica can write any.
    following: Option<Following>,
    /// Right to hand out leases. None if no other replica can own the shard.
    pub right: Option<Right>,
    pub inputs: VecDeque<Input>,
    pub work: FuturesUnordered<BoxFuture<'static, Done>>,
    pub names: BTreeMap<Name, GroupId>,
    /// Messages for groups whose creation is not durable.
    pub creating: BTreeMap<GroupId, Vec<Message>>,
    /// Topics of the groups.
    pub topics: HashMap<GroupId, Arc<dyn TopicLog>>,
    /// Topics of the groups at work.
    pub sources: HashMap<GroupId, Source>,
    next_ticket: u64,
    pub waiting: HashMap<Ticket, Waiting>,
    pub streams: HashMap<u64, Stream>,
    pub sessions: HashMap<SessionId, Session>,
    next_sweep: Instant,
    /// Time at which a call or a member last needed the shard.
    used_at: Instant,
    /// Reasons of failures, by group and first offset, with the end of the offsets.
    pub reasons: BTreeMap<(GroupId, u64), (u64, Box<str>)>,
    /// The keys of `reasons`, the oldest first.
    pub reasons_by_age: VecDeque<(GroupId, u64)>,
    /// Reasons why dead letter topics take no records.
    pub problems: HashMap<GroupId, String>,
    pub dead_letters: Arc<Semaphore>,
    closing: Option<oneshot::Sender<()>>,
    failed: Option<Error>,
}

impl Task {
    /// Begins the next term of a shard.
    pub(super) fn new(begun: Begun, shared: Shared, mailbox: mpsc::UnboundedReceiver<Message>) -> Self {
        let Begun { reader, shard, topic, topics } = begun;
        let is_sole = shared.log.has_sole_owner();
        let begun_wall = UnixMicros::now();
        let named = |(id, state): (GroupId, &super::logic::GroupState)| {
            (Name { topic: state.about.topic.clone(), group: state.about.name.clone() }, id)
        };
        let names: BTreeMap<Name, GroupId> = shard.groups().map(named).collect();
        shared.groups.fetch_add(names.len(), std::sync::atomic::Ordering::Relaxed);
        Self {
            owner: Owner::begin(shard, Now { millis: 0, wall: begun_wall }, (!is_sole).then(tenure)),
            shared,
            appender: topic.appender(),
            topic,
            mailbox,
            begun: since_boot(),
            begun_wall,
            commands: VecDeque::new(),
            appends: FuturesOrdered::new(),
            following: (!is_sole).then(|| follow(reader)),
            right: (!is_sole).then(Right::default),
            inputs: VecDeque::new(),
            work: FuturesUnordered::new(),
            names,
            creating: BTreeMap::new(),
            topics,
            sources: HashMap::new(),
            next_ticket: 1,
            waiting: HashMap::new(),
            streams: HashMap::new(),
            sessions: HashMap::new(),
            next_sweep: Instant::now(),
            used_at: Instant::now(),
            reasons: BTreeMap::new(),
            reasons_by_age: VecDeque::new(),
            problems: HashMap::new(),
            dead_letters: Arc::new(Semaphore::new(DEAD_LETTERS_AT_ONCE)),
            closing: None,
            failed: None,
        }
    }

    /// Works until the shard is closed, its storage fails, or another replica owns it. Says once that it owns the shard.
    pub(super) async fn run(mut self, mut owning: Option<oneshot::Sender<Result<(), Error>>>) {
        loop {
            self.carry_on();
            if self.failed.is_some() || self.owner.has_ended() {
                break;
            }
            let is_owning = self.owner.is_owning();
            if let Some(owning) = owning.take_if(|_| is_owning) {
                let _ = owning.send(Ok(()));
            }
            let wake = self.wakes_at();
            tokio::select! {
                Some((commands, appended)) = self.appends.next() => self.appended(commands, appended),
                (reader, stored) = next(&mut self.following) => self.stored(reader, stored),
                Some(done) = self.work.next() => self.done(done),
                message = self.mailbox.recv(), if is_owning => match message {
                    Some(message) => self.take_all(message),
                    None => break,
                },
                () = tokio::time::sleep_until(wake) => self.inputs.push_back(Input::Tick),
            }
        }
        if let (Some(owning), Some(error)) = (owning, self.failed.clone()) {
            let _ = owning.send(Err(error));
        }
        self.end();
    }

    /// The time of an input.
    pub(super) fn now(&self) -> Now {
        let elapsed = since_boot().saturating_sub(self.begun);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Now { millis, wall: UnixMicros(self.begun_wall.0.saturating_add(millis.saturating_mul(1000))) }
    }

    /// Prolongs the right to hand out leases as far as the owner knows that it has it.
    fn prolong(&self) {
        if let Some(right) = &self.right {
            right.prolong(self.begun + Duration::from_millis(self.owner.right_until()));
        }
    }

    fn wakes_at(&self) -> Instant {
        let is_swept = !self.sessions.is_empty() || self.following.is_some();
        let sweep = is_swept.then_some(self.next_sweep);
        // A timer of the owner is due once its whole millisecond is over.
        let owner = self.owner.wakes_at().map(|at| {
            let left = (self.begun + Duration::from_millis(at)).saturating_sub(since_boot());
            Instant::now() + left.min(ALARM_LOOK)
        });
        let wake = sweep.into_iter().chain(owner).min();
        wake.unwrap_or_else(|| Instant::now() + SLEEP_MAX)
    }

    /// Gives the owner all inputs, carries out its decisions, and stores its commands.
    fn carry_on(&mut self) {
        let mut reads = 0;
        loop {
            let now = self.now();
            while let Some(input) = self.inputs.pop_front() {
                self.owner.handle(now, input);
            }
            let outputs = self.owner.take_outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                self.carry_out(output, &mut reads);
            }
        }
        if self.next_sweep <= Instant::now() {
            self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            self.sweep();
            self.shared.recent.expire();
            self.rest();
            self.check_kept();
        }
        self.store();
    }

    /// Hands a shard of a fleet over that has no groups and that nobody needs.
    fn rest(&mut self) {
        if !(self.streams.is_empty() && self.sessions.is_empty() && self.waiting.is_empty()) {
            self.used_at = Instant::now();
        }
        if self.following.is_some() && self.names.is_empty() && self.used_at.elapsed() >= REST_AFTER {
            let now = self.now();
            self.owner.hand_over(now);
        }
    }

    /// Gives a shard of a fleet up whose commands somebody else has purged: the next owner would not know the groups.
    fn check_kept(&mut self) {
        let is_missing = self.topic.earliest() > self.owner.shard().needed_from();
        if self.following.is_some() && is_missing && self.owner.shard().groups().next().is_some() {
            tracing::error!(shard = %self.topic.name(), "commands of groups were purged");
            let what = "groups: commands of a shard were purged while it had an owner".to_owned();
            self.fail(Error::Topic(storage::Error::Damaged(what).into()));
        }
    }

    fn store(&mut self) {
        while self.appends.len() < APPENDS_MAX
            && let Some((batch, commands)) = shard_log::next_batch(&mut self.commands)
        {
            let append = self.appender.append(vec![batch], Hold::default());
            self.appends.push_back(Box::pin(async move { (commands, append.await) }));
        }
    }

    fn appended(&mut self, commands: Vec<Sized>, appended: Appended) {
        let Some(receipt) = appended.receipts.first() else {
            let error = appended.failure.unwrap_or(storage::Error::Closing);
            let error = shard_log::error_of(&*self.topic, error);
            tracing::warn!(shard = %self.topic.name(), %error, "groups could not be stored");
            return self.fail(Error::Topic(error.into()));
        };
        if self.following.is_some() {
            return;
        }
        let now = self.now();
        for (index, (command, size)) in commands.into_iter().enumerate() {
            self.owner.fold(now, receipt.first.plus(index as u64), size, &command);
        }
    }

    /// Folds commands that were read.
    fn stored(&mut self, reader: Reader, stored: Result<Vec<Stored>, storage::Error>) {
        match stored {
            Ok(commands) => {
                let now = self.now();
                for (at, size, command) in commands {
                    self.owner.fold(now, at, size, &command);
                }
                self.prolong();
                self.following = Some(follow(reader));
            }
            Err(error) => {
                let error = shard_log::error_of(&*self.topic, error);
                tracing::warn!(shard = %self.topic.name(), %error, "groups could not be read");
                self.fail(Error::Topic(error.into()));
            }
        }
    }

    fn take_all(&mut self, first: Message) {
        self.used_at = Instant::now();
        let mut next = Some(first);
        for _ in 0..MESSAGES_AT_ONCE {
            let Some(message) = next else { return };
            self.take(message);
            next = self.mailbox.try_recv().ok();
        }
        // It was received, and must not be lost.
        next.into_iter().for_each(|message| self.take(message));
    }

    /// Hands the shard over, and ends once that is stored.
    pub(super) fn close(&mut self, closed: oneshot::Sender<()>) {
        self.closing = Some(closed);
        let now = self.now();
        self.owner.hand_over(now);
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }

    /// Answers everyone who waits.
    fn end(mut self) {
        let error = self.failed.take().unwrap_or(Error::Lost);
        // Another replica may own the shard.
        let unread = if self.following.is_some() { Error::Moved } else { error.clone() };
        self.shared.groups.fetch_sub(self.names.len(), std::sync::atomic::Ordering::Relaxed);
        for stream in self.streams.values() {
            let _ = stream.events.send(Box::new(Event::ended(error.clone())));
        }
        for (_, waiting) in self.waiting.drain() {
            waiting.fail(error.clone());
        }
        self.mailbox.close();
        while let Ok(message) = self.mailbox.try_recv() {
            message.fail(unread.clone());
        }
        if let Some(closed) = self.closing.take() {
            let _ = closed.send(());
        }
    }

    /// A new name of a request.
    pub(super) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        let ticket = self.unheard();
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// A new name of a request whose answer nobody waits for.
    pub(super) const fn unheard(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Sends an event to a stream that is still open.
    pub(super) fn tell(&mut self, stream: u64, event: Event) {
        if let Some(open) = self.streams.get(&stream) {
            // A call that is dropped has told so.
            let _ = open.events.send(Box::new(event));
            if open.is_once {
                self.streams.remove(&stream);
            }
        }
    }
}

impl Stream {
    /// A member's stream.
    pub(super) const fn new(events: EventSender, session: SessionId, group: GroupId) -> Self {
        Self { events, session, group, is_once: false }
    }
}

fn follow(mut reader: Reader) -> Following {
    Box::pin(async move {
        let stored = reader.next().await;
        (reader, stored)
    })
}

async fn next(following: &mut Option<Following>) -> (Reader, Result<Vec<Stored>, storage::Error>) {
    match following {
        Some(following) => following.await,
        None => std::future::pending().await,
    }
}

impl Waiting {
    /// Answers with an error.
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Created(_, reply) | Self::Changed(_, reply) => drop(reply.send(Err(error))),
            Self::Deleted(_, reply) => drop(reply.send(Err(error))),
            Self::Reopened(_, reply) => drop(reply.send(Err(error))),
            Self::Joined { reply, .. } => drop(reply.send(Err(error))),
            Self::Settled(Asker::Call(reply)) => drop(reply.send(Err(error))),
            Self::Extended(Asker::Call(reply)) => drop(reply.send(Err(error))),
            // A member is told by its last event.
            Self::Settled(Asker::Member(..))
            | Self::Extended(Asker::Member(..))
            | Self::CreatedByJoin(_)
            | Self::Left(_) => {}
        }
    }
}
