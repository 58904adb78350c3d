//! All groups of this server: calls are sent to the tasks of the shards, which are started when they are first needed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempts::{Attempts, WhenLost};
use super::backup::{self, Saved, SavedState};
use super::delivery;
use super::error::Error;
use super::events::{Event, EventReceiver, Leased};
use super::info::Info;
use super::logic::{GroupId, GroupName, Outcome, SessionId, Settings, Span, shard_of};
use super::mailbox::{Asker, Members, Message, Name, NewGroup, NewLease, NewMember, Reopen, Reply};
use super::member::{Connection, Member, ask};
use super::redrive::Search;
use super::requests::{Create, Join, LeaseOnce, Redrive, Redriven, Settlement, Source};
use super::shards::{Missing, Shards};
use super::source;
use super::token::Token;
use crate::config::Config;
use crate::record::TopicName;
use crate::storage::{self, Log, Stored};
use crate::topic::{self, From as StartFrom, Topics, resolve_from};

/// Longest time in which what is being read arrives, after the caller's own wait.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

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

    pub(super) fn shards(&self) -> &Shards {
        &self.0
    }

    /// Sends a message to the task of a group, and waits for the answer. Sends it again if the owner of the group changed
    /// before it was received, or was lost.
    async fn ask<T>(
        &self,
        name: &Name,
        missing: Missing,
        message: impl Fn(Reply<T>) -> Message,
    ) -> Result<T> {
        let shard = shard_of(&name.topic, &name.group);
        self.ask_shard(shard, missing, WhenLost::Repeat, message).await?.ok_or(Error::NotFound)
    }

    /// Does the same as [`Self::ask`] for a message whose repeat would be answered otherwise.
    async fn ask_for_once<T>(&self, name: &Name, message: impl Fn(Reply<T>) -> Message) -> Result<T> {
        let shard = shard_of(&name.topic, &name.group);
        self.ask_shard(shard, Missing::Leave, WhenLost::Fail, message).await?.ok_or(Error::NotFound)
    }

    /// Sends a message to the task of a shard, and waits for the answer; none if the shard has no topic.
    pub(super) async fn ask_shard<T>(
        &self,
        shard: u64,
        missing: Missing,
        when_lost: WhenLost,
        message: impl Fn(Reply<T>) -> Message,
    ) -> Result<Option<T>> {
        let mut attempts = Attempts::new(when_lost);
        loop {
            match self.ask_once(shard, missing, &message).await {
                Err(error) if attempts.may_follow(&error) => {}
                answered => return answered.map_err(|error| attempts.error(error)),
            }
        }
    }

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

    /// Returns true if other replicas may own shards.
    pub(super) async fn is_of_fleet(&self) -> Result<bool> {
        Ok(self.0.log().await?.bus().is_some())
    }

    /// Makes sure that the next shard has an owner if it exists.
    pub(super) async fn look_after_next(&self) -> Result<()> {
        self.0.look_after_next().await
    }

    /// Groups of the shards that this process owns: of each shard up to `limit` after `after`.
    pub(super) async fn owned_groups(&self, after: Option<&Name>, limit: usize) -> Vec<Info> {
        let mut found = Vec::new();
        for mailbox in self.0.owned() {
            // One that was handed over meanwhile is sampled by its next owner.
            let message = |reply| Message::List(None, after.cloned(), limit, reply);
            found.extend(ask(&mailbox, message).await.unwrap_or_default());
        }
        found
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
        Ok(NewGroup { id: GroupId(random()?), topic, start, settings: create.settings })
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
    pub(super) async fn with_age(&self, mut info: Info) -> Info {
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
        self.ask_for_once(&name, |reply| Message::Delete(name.clone(), id, reply)).await
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
        self.ask_for_once(name, |reply| Message::Redrive(name.clone(), what.clone(), reply)).await
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
        let mut attempts = Attempts::new(WhenLost::Repeat);
        loop {
            let (events, received) = mpsc::unbounded_channel();
            let joined = async {
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
                Ok((ask(&shard, |reply| Message::Join(new, reply)).await?, connection))
            };
            match joined.await {
                Err(error) if attempts.may_follow(&error) => {}
                Err(error) => return Err(attempts.error(error)),
                Ok((joined, connection)) => return Ok(Member::new(joined, connection, received)),
            }
        }
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
        self.check_complete(&once.topic).await?;
        let mut attempts = Attempts::new(WhenLost::Repeat);
        loop {
            // What an owner that was lost has leased is leased again.
            match self.lease_in_time(&once, &attempts).await {
                Err(error) if attempts.may_follow(&error) => {}
                leased => return leased.map_err(|error| attempts.error(error)),
            }
        }
    }

    async fn lease_in_time(&self, once: &LeaseOnce, attempts: &Attempts) -> Result<Vec<Leased>> {
        let (call, mut received) = self.wait_for_lease(once).await?;
        let (session, stream) = (call.session, call.stream);
        let shutdown = self.0.topics.shutdown_signal();
        let first = tokio::select! {
            first = received.recv() => first.map(|event| *event),
            () = shutdown.cancelled() => return Err(topic::Error::Draining.into()),
            () = tokio::time::sleep(once.wait.saturating_sub(attempts.elapsed())) => {
                call.send(Message::StopWaiting { session, stream });
                let read = tokio::time::timeout(ARRIVAL_TIMEOUT, received.recv()).await;
                read.map_or(Some(Event::Left), |event| event.map(|event| *event))
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
            None => Err(Error::Lost),
        }
    }

    /// Lets a call wait for a lease, which is the first event.
    async fn wait_for_lease(&self, once: &LeaseOnce) -> Result<(Connection, EventReceiver)> {
        let name = name(&once.topic, &once.group);
        let shard = self.0.get(shard_of(&name.topic, &name.group), Missing::Leave).await?;
        let shard = shard.ok_or(Error::NotFound)?;
        let (events, received) = mpsc::unbounded_channel();
        let call = Connection::of_lease(shard.clone(), new_session()?);
        let (session, stream, records, bytes) = (call.session, call.stream, once.records, once.bytes);
        let new = NewLease { name, session, stream, records, bytes, events };
        ask(&shard, |reply| Message::LeaseOnce(new, reply)).await?;
        Ok((call, received))
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
    let (high, low) = (u128::from(random()?), u128::from(random()?));
    Ok(SessionId(high << 64 | low))
}

/// A random number that nobody can guess.
fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| {
        let unavailable = storage::Error::Unavailable { reason: error.to_string(), stored: Stored::Nothing };
        topic::Error::from(unavailable).into()
    })
}
