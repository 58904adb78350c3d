//! All groups of this server: calls are sent to the tasks of the shards, which are started when they are first needed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::backup::{self, Saved, SavedState};
use super::delivery;
use super::error::Error;
use super::events::{Event, Leased};
use super::info::{Info, Listed};
use super::logic::{GroupId, GroupName, Outcome, SHARDS, SessionId, Settings, Span, shard_of};
use super::mailbox::{Asker, Members, Message, Name, NewGroup, NewLease, NewMember, Reopen, Reply};
use super::member::{Connection, Member, ask, gone};
use super::redrive::Search;
use super::requests::{Create, Join, LeaseOnce, Redrive, Redriven, Settlement, Source};
use super::shard_log;
use super::shards::{Missing, Shards};
use super::source;
use super::token::Token;
use crate::config::Config;
use crate::record::TopicName;
use crate::storage::{self, Log, Stored};
use crate::topic::{self, From as StartFrom, Topics, resolve_from};

/// Longest time in which what is being read arrives, after the caller's own wait.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Most attempts to reach the owner of a shard, which may change at any time.
const ASKS_MAX: usize = 4;
/// Groups listed at once.
const PAGE: usize = 200;

/// A cheap handle to all groups.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "topics have none")]
pub struct Groups(Arc<Shards>);

/// Result of a call.
type Result<T> = std::result::Result<T, Error>;

impl Groups {
    /// Groups of a server that is starting.
    #[must_use]
    pub fn new(config: &Config, topics: Topics) -> Self {
        Self(Arc::new(Shards::new(config, topics)))
    }

    /// Starts to serve the groups that this log stores, after its recovery. A second log is ignored.
    pub fn open(&self, log: Arc<dyn Log>) {
        self.0.open(log);
    }

    /// Hands the shards over and stops, before the log closes and after all calls have ended.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// Sends a message to the task of a group, and waits for the answer. Sends it again if the owner of the group changed
    /// before it was received.
    async fn ask<T>(
        &self,
        name: &Name,
        missing: Missing,
        message: impl Fn(Reply<T>) -> Message,
    ) -> Result<T> {
        let shard = shard_of(&name.topic, &name.group);
        for _ in 1..ASKS_MAX {
            match self.ask_once(shard, missing, &message).await {
                Err(Error::Moved) => {}
                answered => return answered?.ok_or(Error::NotFound),
            }
        }
        self.ask_once(shard, missing, &message).await?.ok_or(Error::NotFound)
    }

    /// Sends a message to the task of a shard, and waits for the answer; none if the shard has no topic.
    async fn ask_once<T>(
        &self,
        shard: u64,
        missing: Missing,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<Option<T>> {
        match self.0.get(shard, missing).await? {
            Some(mailbox) => ask(&mailbox, message).await.map(Some),
            None => Ok(None),
        }
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
        self.0.log().await?;
        let (name, new) = (name(topic, group), self.new_group(topic, Create { from, settings }).await?);
        self.ask(&name, Missing::Create, |reply| Message::Create(name.clone(), new.clone(), reply)).await
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
        self.0.log().await?;
        let (name, topic) = (name(topic, group), self.0.topics.get(topic).await?);
        let state = Box::new(saved.restored(&*topic)?);
        let message = |reply| Message::Restore(name.clone(), id, topic.clone(), state.clone(), reply);
        self.ask(&name, Missing::Create, message).await
    }

    /// Adds records that were not counted, and the age of the oldest one that is not settled.
    async fn with_age(&self, mut info: Info) -> Info {
        let uncounted = std::mem::take(&mut info.status.uncounted);
        if (info.status.lag.records > 0 || !uncounted.is_empty())
            && let Ok(topic) = self.0.topics.get(&info.topic).await
        {
            if !uncounted.is_empty() {
                info.status.tail = topic.tail();
                info.status.lag.records += uncounted.count(&*topic).await.unwrap_or(0);
            }
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
    /// `after`; without members. Fewer than `limit` are the last. Groups whose storage is damaged are left out, and their
    /// storage is named.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn list(
        &self,
        topic: Option<&TopicName>,
        after: Option<(TopicName, GroupName)>,
        limit: usize,
    ) -> Result<Listed> {
        let after = after.map(|(topic, group)| Name { topic, group });
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let shards = (0..SHARDS).map(|shard| self.list_shard(shard, topic, after.clone(), limit));
        for (shard, listed) in (0..).zip(join_all(shards).await) {
            match listed {
                Err(Error::Topic(topic::Error::Storage(storage::Error::Damaged(_)))) => {
                    damaged.push(shard_log::name(shard));
                }
                listed => found.extend(listed?),
            }
        }
        Ok(Listed { groups: self.first_described(found, limit).await, damaged })
    }

    /// Lists groups without members for statistics: those of all shards, or in a fleet those of which this replica is the
    /// owner. Also makes sure, shard by shard with every call, that each shard of a fleet has an owner.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn sample(&self, after: Option<(TopicName, GroupName)>, limit: usize) -> Result<Vec<Info>> {
        if self.0.log().await?.bus().is_none() {
            return Ok(self.list(None, after, limit).await?.groups);
        }
        if after.is_none() {
            self.0.look_after_next().await?;
        }
        let after = after.map(|(topic, group)| Name { topic, group });
        let mut found = Vec::new();
        for mailbox in self.0.owned() {
            // One that was handed over meanwhile is sampled by its next owner.
            if let Ok(some) = ask(&mailbox, |reply| Message::List(None, after.clone(), limit, reply)).await {
                found.extend(some);
            }
        }
        Ok(self.first_described(found, limit).await)
    }

    /// Completes the first groups of those that several shards listed, in the order of their topics and names.
    async fn first_described(&self, mut found: Vec<Info>, limit: usize) -> Vec<Info> {
        found.sort_by(|a, b| (&a.topic, &a.name).cmp(&(&b.topic, &b.name)));
        found.truncate(limit);
        let mut described = Vec::with_capacity(found.len());
        for info in found {
            described.push(self.with_age(info).await);
        }
        described
    }

    /// Lists the groups of a shard, page by page, as an answer of another replica has a limited size.
    async fn list_shard(
        &self,
        shard: u64,
        topic: Option<&TopicName>,
        mut after: Option<Name>,
        limit: usize,
    ) -> Result<Vec<Info>> {
        let (mut found, mut left) = (Vec::<Info>::new(), limit);
        while left > 0 {
            let size = left.min(PAGE);
            let message = |reply| Message::List(topic.cloned(), after.clone(), size, reply);
            let mut page = self.ask_once(shard, Missing::Leave, message).await;
            for _ in 1..ASKS_MAX {
                if matches!(page, Err(Error::Moved)) {
                    page = self.ask_once(shard, Missing::Leave, message).await;
                }
            }
            let Some(page) = page? else { return Ok(found) };
            left -= page.len();
            let is_last = page.len() < size;
            found.extend(page);
            if is_last {
                return Ok(found);
            }
            after = found.last().map(|info| Name { topic: info.topic.clone(), group: info.name.clone() });
        }
        Ok(found)
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
        self.ask(&name, Missing::Leave, |reply| Message::Update(name.clone(), id, settings.clone(), reply))
            .await
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
        self.0.log().await?;
        let name = name(topic, group);
        let log = self.0.topics.get(topic).await?;
        let to = resolve_from(&*log, to).await?.get();
        let info = self
            .ask(&name, Missing::Leave, |reply| Message::Seek(name.clone(), log.clone(), to, reply))
            .await?;
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
        self.ask(name, Missing::Leave, |reply| Message::Redrive(name.clone(), what.clone(), reply)).await
    }

    /// Makes a call a member, with a new session or one that it takes up again.
    ///
    /// # Errors
    /// There is no such group and none may be created, it has too many members, or the session has ended.
    pub async fn join(&self, join: Join) -> Result<Member> {
        self.0.log().await?;
        self.check_complete(&join.topic).await?;
        let name = name(&join.topic, &join.group);
        let missing = if join.create.is_some() { Missing::Create } else { Missing::Leave };
        let is_resumed = join.session.is_some();
        let session = join.session.map_or_else(new_session, Ok)?;
        let create = match join.create {
            Some(create) => Some(self.new_group(&join.topic, create).await?),
            None => None,
        };
        for attempt in 1.. {
            let (events, received) = mpsc::unbounded_channel();
            let shard = self.0.get(shard_of(&name.topic, &name.group), missing).await?;
            let shard = shard.ok_or(Error::NotFound)?;
            let connection = Connection::of_member(shard.clone(), session);
            let new = NewMember {
                name: name.clone(),
                member: join.member.clone(),
                principal: join.principal.clone(),
                session,
                stream: connection.stream,
                is_resumed,
                create: create.clone(),
                has_created: false,
                events,
            };
            match ask(&shard, |reply| Message::Join(new, reply)).await {
                Err(Error::Moved) if attempt < ASKS_MAX => {}
                joined => return Ok(Member::new(joined?, connection, received)),
            }
        }
        Err(gone())
    }

    /// Checks that a topic is not the beginning of a restored backup.
    async fn check_complete(&self, topic: &TopicName) -> Result<()> {
        let topic = match self.0.topics.get(topic).await {
            Err(topic::Error::Storage(storage::Error::TopicNotFound)) => return Ok(()),
            found => found?,
        };
        Ok(topic.state().check_complete(topic.tail()).map_err(topic::Error::from)?)
    }

    /// Leases records without an open call; none if none came in time.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn lease(&self, once: LeaseOnce) -> Result<Vec<Leased>> {
        let wait = once.wait;
        self.check_complete(&once.topic).await?;
        let (call, mut received) = self.wait_for_lease(&once).await?;
        let (session, stream) = (call.session, call.stream);
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
                let topic = self.0.topics.get(&once.topic).await?;
                match delivery::fill(topic, self.0.recent.clone(), call.shard(), leased).await {
                    Some(Event::Lease(leased)) => {
                        call.close();
                        Ok(vec![*leased])
                    }
                    Some(Event::Ended(error)) => Err(*error),
                    _ => Ok(Vec::new()),
                }
            }
            Some(Event::Ended(error)) => Err(*error),
            Some(_) => Ok(Vec::new()),
            None => Err(gone()),
        }
    }

    /// Lets a call wait for a lease, which is the first event.
    async fn wait_for_lease(&self, once: &LeaseOnce) -> Result<(Connection, UnboundedReceiver<Event>)> {
        let name = name(&once.topic, &once.group);
        for attempt in 1.. {
            let shard = self.0.get(shard_of(&name.topic, &name.group), Missing::Leave).await?;
            let shard = shard.ok_or(Error::NotFound)?;
            let (events, received) = mpsc::unbounded_channel();
            let call = Connection::of_lease(shard.clone(), new_session()?);
            let new = NewLease {
                name: name.clone(),
                session: call.session,
                stream: call.stream,
                records: once.records,
                bytes: once.bytes,
                events,
            };
            match ask(&shard, |reply| Message::LeaseOnce(new, reply)).await {
                Err(Error::Moved) if attempt < ASKS_MAX => {}
                asked => return asked.map(|()| (call, received)),
            }
        }
        Err(gone())
    }

    /// Settles a lease of any call. What is settled is durable.
    ///
    /// # Errors
    /// The group is gone, or the storage failed; then it may have taken effect.
    pub async fn settle(&self, token: Token, settlement: Settlement) -> Result<Vec<(Span, Outcome)>> {
        let name = name(&token.topic, &token.group);
        self.ask(&name, Missing::Leave, |reply| {
            Message::Settle(token.clone(), settlement.clone(), Asker::Call(reply))
        })
        .await
    }

    /// Extends a lease. Returns the time left; none if it is lost.
    ///
    /// # Errors
    /// The group is gone.
    pub async fn extend(&self, token: Token, time: Option<Duration>) -> Result<Option<Duration>> {
        let name = name(&token.topic, &token.group);
        self.ask(&name, Missing::Leave, |reply| Message::Extend(token.clone(), time, Asker::Call(reply)))
            .await
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
