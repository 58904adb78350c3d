//! The JetStream log. It finds, creates, changes and deletes topics, and holds the topics that are in use.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{DeleteStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::Info;
use tokio::sync::watch;
use tokio::time::timeout;

use super::bus::LAST_LETTERS;
use super::connect::OpenError;
use super::handle::Handle;
use super::message::{sequence_of, start_of};
use super::names::{INDEX_BITS, Meta};
use super::nats::{Nats, Refusal, doubtful, unavailable};
use super::replica_bus::ReplicaBus;
use super::topic::{NUMBERING, Topic, info_of};
use super::{changes, connect, create_lock, health, lookup, names, nats};
use crate::config::Config;
use crate::record::{Epoch, Offset, Position, TopicName, UnixMicros};
use crate::storage::{
    BoxFuture, Error, Health, Lineage, Log, Numbering, Reason, Retention, TopicInfo, TopicLog,
};

/// The JetStream engine.
#[derive(Debug)]
pub struct JetStreamLog {
    pub(super) nats: Arc<Nats>,
    topics: Mutex<HashMap<TopicName, Arc<Topic>>>,
    topics_max: usize,
    health: Arc<watch::Sender<Health>>,
    /// Results of earlier samples, each with the time of its request in milliseconds since the engine started.
    pub(super) sampled: Mutex<HashMap<TopicName, (u64, TopicInfo)>>,
}

impl JetStreamLog {
    /// Connects to NATS. If NATS is not reachable yet, it waits and stores the reason in `reason`.
    ///
    /// # Errors
    /// The configuration can never work.
    pub async fn open(config: &Config, reason: &Reason) -> Result<Arc<Self>, OpenError> {
        Ok(Self::over(connect::connect(config, reason).await?, config.topics_max))
    }

    /// Creates the engine on a NATS connection that is ready.
    pub(super) fn over(nats: Nats, topics_max: usize) -> Arc<Self> {
        let nats = Arc::new(nats);
        let health = Arc::new(watch::Sender::new(Health::Serving));
        nats.tasks.spawn(health::watch(nats.clone(), health.clone()));
        let (topics, sampled) = (Mutex::default(), Mutex::default());
        let log = Arc::new(Self { nats, topics, topics_max, health, sampled });
        let known = {
            let log = Arc::downgrade(&log);
            move |name: &TopicName| log.upgrade()?.topics().get(name).cloned()
        };
        log.nats.tasks.spawn(changes::listen(log.nats.clone(), known));
        log
    }

    pub(super) fn topics(&self) -> MutexGuard<'_, HashMap<TopicName, Arc<Topic>>> {
        self.topics.lock().expect("no panic while it is held")
    }

    /// Asks NATS for the stream of a topic.
    pub(super) async fn fetch(&self, name: &TopicName) -> Result<(Meta, Info), Error> {
        let known = self.topics().get(name).map(|topic| topic.state.epoch);
        let found = self.nats.info(&names::stream(name)).await?;
        let found = found.and_then(|info| Some((Meta::of(&info.config)?, info)));
        if found.is_none()
            && let Some(gone) = known
        {
            self.forget(name, gone);
        }
        found.ok_or(Error::TopicNotFound)
    }

    /// Removes the incarnation `gone` of a topic. By now, the map may hold a newer incarnation of the same name, which
    /// stays.
    fn forget(&self, name: &TopicName, gone: Epoch) {
        if let Entry::Occupied(kept) = self.topics().entry(name.clone())
            && kept.get().state.epoch == gone
        {
            kept.remove().delete();
        }
    }

    /// Returns the incarnation that this stream stores, and creates it in the map if needed.
    fn topic(&self, meta: Meta, info: &Info) -> Arc<Topic> {
        let mut topics = self.topics();
        match topics.get(&meta.topic) {
            Some(topic) if topic.state.epoch == meta.epoch => {
                topic.refresh(meta, info);
                topic.clone()
            }
            other => {
                if let Some(gone) = other {
                    gone.delete();
                }
                let topic = Arc::new(Topic::new(self.nats.clone(), meta, info));
                topics.insert(topic.state.name.clone(), topic.clone());
                topic
            }
        }
    }

    async fn create_stream(
        &self,
        name: TopicName,
        retention: Retention,
        first: Offset,
        lineage: Lineage,
    ) -> Result<Arc<Topic>, Error> {
        // Internal topics are counted among the others by NATS, and are few.
        if !name.is_internal() && self.nats.topics().await.map_err(unavailable)? >= self.topics_max {
            return Err(Error::TopicLimit { limit: self.topics_max });
        }
        let epoch = Epoch::new(random()?);
        let retention = retention.normalized();
        let (updated, base) = (UnixMicros::now(), first.get() >> INDEX_BITS);
        let wanted = Meta { topic: name, epoch, retention, updated, lineage, base };
        let is_internal = wanted.topic.is_internal();
        let lock = create_lock::acquire(&self.nats, wanted).await?;
        if is_internal && lock.acquired.is_none() {
            self.check_not_lost(&lock).await?;
        }
        match self.nats.create(&lock.meta.config(self.nats.stream_config)).await {
            Ok(info) => {
                if is_internal {
                    create_lock::confirm(&self.nats, &lock).await;
                }
                let topic = self.topic(lock.meta, &info);
                lock.acquired.map(|_| topic).ok_or(Error::TopicExists)
            }
            Err(Refusal::Unknown(error)) => Err(error),
            Err(Refusal::Nothing(error)) => {
                create_lock::release(&self.nats, &lock).await;
                Err(error)
            }
        }
    }

    /// Returns an error if an internal topic was created whose stream is gone: what it held is lost, and must not begin anew.
    async fn check_not_lost(&self, lock: &create_lock::Lock) -> Result<(), Error> {
        let (name, stream) = (&lock.meta.topic, names::stream(&lock.meta.topic));
        if !lock.was_created() || self.nats.info(&stream).await?.is_some() {
            return Ok(());
        }
        tracing::error!(topic = %name, stream, "a stream was deleted that the server needs");
        Err(Error::Damaged(format!("the stream {stream} was deleted")))
    }

    async fn delete_stream(&self, name: &TopicName) -> Result<(), Error> {
        let deleted = self.nats.context.delete_stream(names::stream(name)).await;
        deleted.map(drop).map_err(|error| match error.kind() {
            DeleteStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Error::TopicNotFound
            }
            DeleteStreamErrorKind::JetStream(_) => unavailable(error),
            _ => doubtful(error),
        })
    }

    async fn trim_stream(
        &self,
        name: &TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> Result<Offset, Error> {
        let (meta, info) = self.fetch(name).await?;
        if let Some(epoch) = epoch {
            meta.lineage.offset(meta.epoch, Position { epoch, offset: before })?;
        }
        let topic = self.topic(meta.clone(), &info);
        let known = info_of(meta, &info);
        if before > known.tail {
            let (epoch, earliest, tail) = (known.epoch, known.earliest, known.tail);
            return Err(Error::BeyondTail { epoch, earliest, tail });
        }
        if before <= known.earliest {
            return Ok(known.earliest);
        }
        let mut first = sequence_of(before);
        if before < known.tail {
            // An offset after the last record of its message names the next message.
            let holding = lookup::message(&topic, first).await?;
            first += u64::from(holding.is_some_and(|message| before >= message.next));
        }
        if start_of(first) > known.earliest {
            self.nats.purge(&topic.stream, first - topic.base).await?;
            topic.state.trim(start_of(first));
            changes::announce(&self.nats, name).await;
        }
        Ok(topic.state.earliest())
    }
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(unavailable)
}

impl Log for JetStreamLog {
    fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>> {
        // The map is unlocked before the topic is checked, because a topic has a lock of its own.
        let topic = self.topics().get(name).cloned()?;
        (!topic.state.is_deleted() && topic.is_fresh()).then(|| Arc::new(Handle(topic)) as Arc<dyn TopicLog>)
    }

    fn get<'a>(&'a self, name: &'a TopicName) -> BoxFuture<'a, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            if let Some(known) = self.known(name) {
                return Ok(known);
            }
            let found = match self.fetch(name).await {
                Err(Error::TopicNotFound) if name.is_internal() => {
                    let Some(lock) = create_lock::find(&self.nats, name).await? else {
                        return Err(Error::TopicNotFound);
                    };
                    self.check_not_lost(&lock).await?;
                    self.fetch(name).await
                }
                found => found,
            };
            let (meta, info) = found?;
            Ok(Arc::new(Handle(self.topic(meta, &info))) as Arc<dyn TopicLog>)
        })
    }

    fn create(
        &self,
        name: TopicName,
        retention: Retention,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            let topic = self.create_stream(name, retention, Offset::ZERO, Lineage::default()).await?;
            Ok(Arc::new(Handle(topic)) as Arc<dyn TopicLog>)
        })
    }

    fn restore(
        &self,
        name: TopicName,
        first: Offset,
        lineage: Lineage,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            let topic = self.create_stream(name, Retention::default(), first, lineage).await?;
            Ok(Arc::new(Handle(topic)) as Arc<dyn TopicLog>)
        })
    }

    fn numbering(&self) -> Numbering {
        NUMBERING
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, Error>> {
        Box::pin(self.page(prefix, after, limit))
    }

    fn names<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicName>, Error>> {
        Box::pin(async move { Ok(self.names(prefix, after, limit).await?.into_iter().collect()) })
    }

    fn all_names<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<TopicName>>, Error>> {
        Box::pin(async move { Ok(Some(self.names(prefix, Some(after), usize::MAX).await?)) })
    }

    fn infos(&self, names: Vec<TopicName>) -> BoxFuture<'_, Result<Vec<TopicInfo>, Error>> {
        Box::pin(self.infos(names))
    }

    fn sample(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, Error>> {
        Box::pin(self.sample_all())
    }

    fn update<'a>(
        &'a self,
        name: &'a TopicName,
        retention: Retention,
    ) -> BoxFuture<'a, Result<TopicInfo, Error>> {
        Box::pin(async move {
            let (meta, info) = self.fetch(name).await?;
            let meta = Meta { retention: retention.normalized(), updated: UnixMicros::now(), ..meta };
            let mut config = info.config;
            meta.write(&mut config);
            match self.nats.context.update_stream(&config).await {
                Ok(info) => {
                    self.topic(meta.clone(), &info);
                    changes::announce(&self.nats, name).await;
                    Ok(info_of(meta, &info))
                }
                Err(error) => Err(match error.kind() {
                    UpdateStreamErrorKind::NotFound => Error::TopicNotFound,
                    UpdateStreamErrorKind::JetStream(why) => {
                        nats::no_room(&config, &why).unwrap_or_else(|| unavailable(error))
                    }
                    _ => doubtful(error),
                }),
            }
        })
    }

    fn delete<'a>(&'a self, name: &'a TopicName, epoch: Option<Epoch>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (meta, has_stream) = match self.fetch(name).await {
                // Its stream is gone. The lock is what is left of it.
                Err(Error::TopicNotFound) if name.is_internal() => {
                    (create_lock::find(&self.nats, name).await?.ok_or(Error::TopicNotFound)?.meta, false)
                }
                found => (found?.0, true),
            };
            if epoch.is_some_and(|epoch| epoch != meta.epoch) {
                return Err(Error::EpochChanged { current: meta.epoch, resume: Offset::ZERO });
            }
            create_lock::remove(&self.nats, name).await?;
            if has_stream {
                self.delete_stream(name).await?;
            }
            self.forget(name, meta.epoch);
            changes::announce(&self.nats, name).await;
            Ok(())
        })
    }

    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, Error>> {
        Box::pin(self.trim_stream(name, epoch, before))
    }

    fn bus(&self) -> Option<ReplicaBus> {
        Some(ReplicaBus::new(self.nats.client.clone()))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn hurry(&self) {
        self.nats.hurried.cancel();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.nats.closed.store(true, Ordering::Release);
            // A publisher that read `closed` before the store above holds a queue lock until it has pushed. Taking each
            // lock once waits for it.
            let topics: Vec<_> = self.topics().values().cloned().collect();
            for topic in &topics {
                drop(topic.queue());
            }
            self.nats.closing.cancel();
            self.nats.tasks.close();
            self.nats.tasks.wait().await;
            // The last messages tell other replicas which commits this one returned.
            let _ = timeout(LAST_LETTERS, self.nats.client.flush()).await;
            self.health.send_replace(Health::Closed);
            Ok(())
        })
    }
}

impl Drop for JetStreamLog {
    fn drop(&mut self) {
        self.nats.closed.store(true, Ordering::Release);
        self.nats.closing.cancel();
    }
}
