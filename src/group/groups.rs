//! All groups of this server: calls are sent to the tasks of the shards, which are started when they are first needed.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Mutex, SetOnce, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::backup::{self, Saved, SavedState};
use super::error::Error;
use super::events::{Event, Leased};
use super::info::Info;
use super::logic::{GroupId, GroupName, Outcome, SHARDS, SessionId, Settings, Span, shard_of};
use super::mailbox::{Asker, Mailbox, Members, Message, Name, NewGroup, NewLease, NewMember, Reopen, Reply};
use super::member::{Connection, Member, gone};
use super::redrive::Search;
use super::requests::{Create, Join, LeaseOnce, Redrive, Redriven, Settlement, Source};
use super::shard::{Shared, Task};
use super::shard_log;
use super::source;
use super::token::Token;
use crate::config::Config;
use crate::record::{BatchLimits, TopicName};
use crate::storage::{self, Log, Retention, Stored, TopicLog};
use crate::topic::{self, From as StartFrom, Topics, resolve_from};

/// Longest wait for the log of a server that is starting.
const START_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a shard to be handed over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time in which what is being read arrives, after the caller's own wait.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A cheap handle to all groups.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "topics have none")]
pub struct Groups(Arc<Inner>);

struct Inner {
    topics: Topics,
    log: SetOnce<Arc<dyn Log>>,
    groups_max: usize,
    members_max: usize,
    batch_limits: BatchLimits,
    count: Arc<AtomicUsize>,
    shards: Vec<Mutex<Slot>>,
    tasks: TaskTracker,
}

/// Task of a shard.
enum Slot {
    /// It was not needed so far.
    Resting,
    Working(Mailbox),
    Closed,
}

/// Whether the topic of a shard is created if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

/// Result of a call.
type Result<T> = std::result::Result<T, Error>;

impl Groups {
    /// Groups of a server that is starting.
    #[must_use]
    pub fn new(config: &Config, topics: Topics) -> Self {
        Self(Arc::new(Inner {
            topics,
            log: SetOnce::new(),
            groups_max: config.groups_max,
            members_max: config.group_members_max,
            batch_limits: BatchLimits {
                records_max: config.batch_records_max,
                bytes_max: config.batch_bytes_max,
            },
            count: Arc::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(Slot::Resting)).collect(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Starts to serve the groups that this log stores, after its recovery. A second log is ignored.
    pub fn open(&self, log: Arc<dyn Log>) {
        let _ = self.0.log.set(log);
    }

    /// Hands the shards over and stops, before the log closes and after all calls have ended.
    pub async fn close(&self) {
        let mut closing = Vec::new();
        for shard in &self.0.shards {
            if let Slot::Working(mailbox) = std::mem::replace(&mut *shard.lock().await, Slot::Closed) {
                let (closed, wait) = oneshot::channel();
                if mailbox.send(Message::Close(closed)).is_ok() {
                    closing.push(wait);
                }
            }
        }
        self.0.tasks.close();
        let all = async {
            for closed in closing {
                let _ = closed.await;
            }
            self.0.tasks.wait().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("groups were not handed over in time");
        }
    }

    async fn log(&self) -> Result<&Arc<dyn Log>> {
        let shutdown = self.0.topics.shutdown_signal();
        let log = match self.0.log.get() {
            Some(log) => log,
            None => tokio::select! {
                log = self.0.log.wait() => log,
                () = shutdown.cancelled() => return Err(topic::Error::Draining.into()),
                () = tokio::time::sleep(START_TIMEOUT) => return Err(topic::Error::Starting.into()),
            },
        };
        if log.has_sole_owner() { Ok(log) } else { Err(Error::Unsupported) }
    }

    /// The task of a shard; none if the shard has no topic.
    async fn shard(&self, shard: u64, missing: Missing) -> Result<Option<Mailbox>> {
        let log = self.log().await?;
        let slot = self.0.shards.get(usize::try_from(shard).unwrap_or(0)).ok_or_else(gone)?;
        let mut slot = slot.lock().await;
        match &*slot {
            Slot::Working(mailbox) if !mailbox.is_closed() => return Ok(Some(mailbox.clone())),
            Slot::Closed => return Err(topic::Error::Draining.into()),
            _ => {}
        }
        let name = shard_log::name(shard);
        let topic = match log.get(&name).await {
            Err(storage::Error::TopicNotFound) if missing == Missing::Leave => return Ok(None),
            Err(storage::Error::TopicNotFound) => {
                log.create(name, Retention::default()).await.map_err(topic::Error::from)?
            }
            found => found.map_err(topic::Error::from)?,
        };
        let mailbox = self.start(log, topic).await?;
        *slot = Slot::Working(mailbox.clone());
        Ok(Some(mailbox))
    }

    async fn start(&self, log: &Arc<dyn Log>, topic: Arc<dyn TopicLog>) -> Result<Mailbox> {
        let folded = shard_log::fold(&*topic).await.map_err(topic::Error::from)?;
        let shared = Shared {
            topics: self.0.topics.clone(),
            log: log.clone(),
            groups_max: self.0.groups_max,
            members_max: self.0.members_max,
            groups: self.0.count.clone(),
            batch_limits: self.0.batch_limits,
        };
        let (mailbox, messages) = mpsc::unbounded_channel();
        self.0.tasks.spawn(Task::new(folded, topic, shared, messages).run());
        Ok(mailbox)
    }

    /// Sends a message to the task of a group, and waits for the answer.
    async fn ask<T>(
        &self,
        name: &Name,
        missing: Missing,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T> {
        let shard = self.shard(shard_of(&name.topic, &name.group), missing).await?;
        ask(&shard.ok_or(Error::NotFound)?, message).await
    }

    /// Creates a group.
    ///
    /// # Errors
    /// The topic does not exist, it has a group of this name, or the server has too many.
    pub async fn create(
        &self,
        topic: &TopicName,
        group: &GroupName,
        from: StartFrom,
        settings: Settings,
    ) -> Result<Info> {
        self.log().await?;
        let (name, new) = (name(topic, group), self.new_group(topic, Create { from, settings }).await?);
        self.ask(&name, Missing::Create, |reply| Message::Create(name.clone(), new, reply)).await
    }

    async fn new_group(&self, topic: &TopicName, create: Create) -> Result<NewGroup> {
        let topic = self.0.topics.get(topic).await?;
        let start = resolve_from(&*topic, create.from).await?.get();
        Ok(NewGroup { topic, start, settings: create.settings })
    }

    /// Returns a group with its members.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn get(&self, topic: &TopicName, group: &GroupName) -> Result<Info> {
        let name = name(topic, group);
        let with = Members::With;
        let info =
            self.ask(&name, Missing::Leave, |reply| Message::Describe(name.clone(), with, reply)).await?;
        Ok(self.with_age(info).await)
    }

    /// Returns a group as a backup holds it.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn save(&self, topic: &TopicName, group: &GroupName) -> Result<Saved> {
        let name = name(topic, group);
        self.ask(&name, Missing::Leave, |reply| Message::Save(name.clone(), reply)).await.map(backup::encoded)
    }

    /// Creates a group as a backup of it was, in a topic that was restored from the same backup. A group that was restored
    /// already is left as it is.
    ///
    /// # Errors
    /// The topic is not of this backup, or has another group of the name; or the server has too many groups.
    pub async fn restore(
        &self,
        topic: &TopicName,
        group: &GroupName,
        id: GroupId,
        saved: SavedState,
    ) -> Result<Info> {
        self.log().await?;
        let (name, topic) = (name(topic, group), self.0.topics.get(topic).await?);
        let state = Box::new(saved.restored(&*topic)?);
        self.ask(&name, Missing::Create, |reply| Message::Restore(name.clone(), id, state, reply)).await
    }

    /// Adds the age of the oldest record that is not settled.
    async fn with_age(&self, mut info: Info) -> Info {
        if info.status.lag.records > 0
            && let Ok(topic) = self.0.topics.get(&info.topic).await
        {
            let oldest = info.status.oldest_unsettled;
            let from_memory = source::cached_age(&*topic, oldest);
            info.status.lag.age = match from_memory {
                Some(age) => Some(age),
                None => topic.read(oldest, 1).await.ok().and_then(|chunk| source::age(&chunk)),
            };
        }
        info
    }

    /// Returns up to `limit` groups in the order of their topics and names, of one topic or of all, that come after
    /// `after`; without members. Fewer than `limit` are the last.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn list(
        &self,
        topic: Option<&TopicName>,
        after: Option<(TopicName, GroupName)>,
        limit: usize,
    ) -> Result<Vec<Info>> {
        let after = after.map(|(topic, group)| Name { topic, group });
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            if let Some(mailbox) = self.shard(shard, Missing::Leave).await? {
                let (topic, after) = (topic.cloned(), after.clone());
                found.extend(ask(&mailbox, |reply| Message::List(topic, after, limit, reply)).await?);
            }
        }
        found.sort_by(|a, b| (&a.topic, &a.name).cmp(&(&b.topic, &b.name)));
        found.truncate(limit);
        let mut described = Vec::with_capacity(found.len());
        for info in found {
            described.push(self.with_age(info).await);
        }
        Ok(described)
    }

    /// Replaces the settings of a group.
    ///
    /// # Errors
    /// There is no such group, or none of this id; or its order would change.
    pub async fn update(
        &self,
        topic: &TopicName,
        group: &GroupName,
        id: Option<GroupId>,
        settings: Settings,
    ) -> Result<Info> {
        let name = name(topic, group);
        self.ask(&name, Missing::Leave, |reply| Message::Update(name.clone(), id, settings, reply)).await
    }

    /// Deletes a group.
    ///
    /// # Errors
    /// There is no such group, or none of this id.
    pub async fn delete(&self, topic: &TopicName, group: &GroupName, id: Option<GroupId>) -> Result<()> {
        let name = name(topic, group);
        self.ask(&name, Missing::Leave, |reply| Message::Delete(name.clone(), id, reply)).await
    }

    /// Lets a group go on elsewhere.
    ///
    /// # Errors
    /// There is no such group, or the place is beyond the tail.
    pub async fn seek(&self, topic: &TopicName, group: &GroupName, to: StartFrom) -> Result<Info> {
        self.log().await?;
        let name = name(topic, group);
        let log = self.0.topics.get(topic).await?;
        let to = resolve_from(&*log, to).await?.get();
        let info =
            self.ask(&name, Missing::Leave, |reply| Message::Seek(name.clone(), log, to, reply)).await?;
        Ok(self.with_age(info).await)
    }

    /// Delivers records again that were given up.
    ///
    /// # Errors
    /// There is no such group, or the dead letters cannot be read.
    pub async fn redrive(&self, topic: &TopicName, group: &GroupName, redrive: Redrive) -> Result<Redriven> {
        let name = name(topic, group);
        if redrive.source == Source::Parked {
            let reopened = self.reopen(&name, Reopen::Parked).await?;
            return Ok(Redriven { reopened, ..Redriven::default() });
        }
        let info = self.get(topic, group).await?;
        let mut redriven = Redriven::default();
        let Some(mut search) = Search::begin(&self.0.topics, info, redrive).await? else {
            return Ok(redriven);
        };
        while let Some(found) = search.next(self.0.batch_limits).await? {
            redriven.reopened += self.reopen(&name, Reopen::Dead(found.offsets, found.searched_to)).await?;
            redriven.republished += found.republished;
            redriven.missing += found.missing;
        }
        Ok(redriven)
    }

    async fn reopen(&self, name: &Name, what: Reopen) -> Result<u64> {
        self.ask(name, Missing::Leave, |reply| Message::Redrive(name.clone(), what, reply)).await
    }

    /// Makes a call a member, with a new session or one that it takes up again.
    ///
    /// # Errors
    /// There is no such group and none may be created, it has too many members, or the session has ended.
    pub async fn join(&self, join: Join) -> Result<Member> {
        self.log().await?;
        self.check_complete(&join.topic)?;
        let name = name(&join.topic, &join.group);
        let missing = if join.create.is_some() { Missing::Create } else { Missing::Leave };
        let is_resumed = join.session.is_some();
        let session = join.session.map_or_else(new_session, Ok)?;
        let create = match join.create {
            Some(create) => Some(self.new_group(&join.topic, create).await?),
            None => None,
        };
        let (events, received) = mpsc::unbounded_channel();
        let shard = self.shard(shard_of(&name.topic, &name.group), missing).await?;
        let shard = shard.ok_or(Error::NotFound)?;
        let connection = Connection::of_member(shard.clone(), session);
        let new = NewMember {
            name,
            member: join.member,
            principal: join.principal,
            session,
            stream: connection.stream,
            is_resumed,
            create,
            has_created: false,
            events,
        };
        let joined = ask(&shard, |reply| Message::Join(new, reply)).await?;
        Ok(Member::new(joined, connection, received))
    }

    /// Checks that a topic is not the beginning of a restored backup.
    fn check_complete(&self, topic: &TopicName) -> Result<()> {
        let Some(topic) = self.0.topics.known(topic) else { return Ok(()) };
        Ok(topic.state().check_complete(topic.tail()).map_err(topic::Error::from)?)
    }

    /// Leases records without an open call; none if none came in time.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn lease(&self, once: LeaseOnce) -> Result<Vec<Leased>> {
        let LeaseOnce { topic, group, records, bytes, wait } = once;
        self.check_complete(&topic)?;
        let name = name(&topic, &group);
        let shard = self.shard(shard_of(&topic, &group), Missing::Leave).await?.ok_or(Error::NotFound)?;
        let (events, mut received) = mpsc::unbounded_channel();
        let call = Connection::of_lease(shard.clone(), new_session()?);
        let (session, stream) = (call.session, call.stream);
        let new = NewLease { name, session, stream, records, bytes, events };
        ask(&shard, |reply| Message::LeaseOnce(new, reply)).await?;
        let shutdown = self.0.topics.shutdown_signal();
        let first = tokio::select! {
            first = received.recv() => first,
            () = shutdown.cancelled() => return Err(topic::Error::Draining.into()),
            () = tokio::time::sleep(wait) => {
                call.send(Message::StopWaiting { session, stream });
                let read = tokio::time::timeout(ARRIVAL_TIMEOUT, received.recv()).await;
                read.unwrap_or(Some(Event::Left))
            }
        };
        match first {
            Some(Event::Lease(leased)) => {
                call.close();
                Ok(vec![leased])
            }
            Some(Event::Ended(error)) => Err(error),
            Some(_) => Ok(Vec::new()),
            None => Err(gone()),
        }
    }

    /// Settles a lease of any call. What is settled is durable.
    ///
    /// # Errors
    /// The group is gone, or the storage failed; then it may have taken effect.
    pub async fn settle(&self, token: Token, settlement: Settlement) -> Result<Vec<(Span, Outcome)>> {
        let name = name(&token.topic, &token.group);
        self.ask(&name, Missing::Leave, |reply| Message::Settle(token, settlement, Asker::Call(reply))).await
    }

    /// Extends a lease. Returns the time left; none if it is lost.
    ///
    /// # Errors
    /// The group is gone.
    pub async fn extend(&self, token: Token, time: Option<Duration>) -> Result<Option<Duration>> {
        let name = name(&token.topic, &token.group);
        self.ask(&name, Missing::Leave, |reply| Message::Extend(token, time, Asker::Call(reply))).await
    }
}

fn name(topic: &TopicName, group: &GroupName) -> Name {
    Name { topic: topic.clone(), group: group.clone() }
}

fn new_session() -> Result<SessionId> {
    let random = || getrandom::u64().map(u128::from);
    let unavailable = |error: getrandom::Error| {
        topic::Error::from(storage::Error::Unavailable { reason: error.to_string(), stored: Stored::Nothing })
    };
    let (high, low) = (random().map_err(unavailable)?, random().map_err(unavailable)?);
    Ok(SessionId(high << 64 | low))
}

async fn ask<T>(shard: &Mailbox, message: impl FnOnce(Reply<T>) -> Message) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    shard.send(message(reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
