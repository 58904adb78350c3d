//! All topics of this server: a handle over the log that knows whether the server is starting or
//! draining, and whether topics are created on first use.
//! Never: knows gRPC, or how an engine stores.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use super::{Admission, Cause, Connection, Error, SendBudget, ShutdownSignal, Subscribe, Subscription};
use crate::config::Config;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::{self, Charge, Hold, Log, Retention, Stored, TopicInfo, TopicLog};

/// How long a call waits for a server that starts.
const STARTING_PATIENCE: Duration = Duration::from_secs(3);

/// How long a request that was begun has after [`Topics::hurry`]: as long as an append has.
const HURRY: Duration = Duration::from_secs(1);

/// A cheap handle to all topics.
#[derive(Clone)]
pub struct Topics(Arc<Inner>);

struct Inner {
    log: SetOnce<Arc<dyn Log>>,
    /// All of them together.
    connections: Arc<Connection>,
    auto_create: bool,
    auto_create_on_subscribe: bool,
    heartbeat_interval: Duration,
    hurried: CancellationToken,
}

impl Topics {
    /// Topics that are starting: every call waits for [`Self::open`], and is refused if that takes long.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            log: SetOnce::new(),
            connections: Arc::new(Connection {
                shutdown: ShutdownSignal::default(),
                admission: Admission::new(config.inflight_bytes_max),
                send_budget: SendBudget::new(config.delivery_bytes_max),
            }),
            auto_create: config.auto_create_topics,
            auto_create_on_subscribe: config.auto_create_on_subscribe,
            heartbeat_interval: config.heartbeat_interval,
            hurried: CancellationToken::new(),
        }))
    }

    /// Recovery is done: serve this log. A second log is ignored.
    pub fn open(&self, log: Arc<dyn Log>) {
        let admission = self.admission().clone();
        log.charge_to(Charge::new(move |bytes| admission.try_acquire(bytes).map(Hold::of)));
        let _ = self.0.log.set(log);
    }

    /// Shut down: subscriptions and streams of publishes are told to end. A call of one answer that comes
    /// on a connection not told yet is served, until the log closes.
    pub fn drain(&self) {
        self.0.connections.shutdown.cancel(Cause::Draining);
    }

    /// Calls are cut off soon: those that wait for a storage which does not answer are told so.
    pub fn hurry(&self) {
        self.0.hurried.cancel();
        if let Some(log) = self.0.log.get() {
            log.hurry();
        }
    }

    /// What comes of a request to the storage, unless that takes too long for a server that stops: then it
    /// may have been done, where it does anything.
    async fn in_time<T>(
        &self,
        stored: Stored,
        request: impl Future<Output = Result<T, storage::Error>>,
    ) -> Result<T, storage::Error> {
        let cut_off = async {
            self.0.hurried.cancelled().await;
            tokio::time::sleep(HURRY).await;
        };
        tokio::select! {
            biased;
            done = request => done,
            () = cut_off => {
                let reason = "the server stops, and the storage has not answered".to_owned();
                Err(storage::Error::Unavailable { reason, stored })
            }
        }
    }

    /// The wish that every call end.
    #[must_use]
    pub fn shutdown_signal(&self) -> &ShutdownSignal {
        &self.0.connections.shutdown
    }

    /// All connections together, for a call that comes by none.
    #[must_use]
    pub fn connections(&self) -> &Arc<Connection> {
        &self.0.connections
    }

    /// Bytes taken from publishers that are not durable yet.
    #[must_use]
    pub fn inflight_bytes(&self) -> usize {
        self.0.connections.admission.taken()
    }

    /// The memory budget of unread answers.
    #[must_use]
    pub fn send_budget(&self) -> &SendBudget {
        &self.0.connections.send_budget
    }

    /// The budget of bytes in flight.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.0.connections.admission
    }

    /// Whether a topic is created by its first use.
    #[must_use]
    pub fn creates_on_first_use(&self) -> bool {
        self.0.auto_create
    }

    /// Whether a subscription creates its topic where that is missing.
    #[must_use]
    pub fn creates_for(&self, request: &Subscribe) -> bool {
        self.0.auto_create && self.0.auto_create_on_subscribe && request.creates_topic()
    }

    /// The log. A call that comes while the server starts waits for it, so that a load balancer that does
    /// not ask for health may send one too early.
    async fn log(&self) -> Result<&Arc<dyn Log>, Error> {
        if let Some(log) = self.0.log.get() {
            return Ok(log);
        }
        tokio::select! {
            log = self.0.log.wait() => Ok(log),
            () = self.0.connections.shutdown.cancelled() => Err(Error::Draining),
            () = tokio::time::sleep(STARTING_PATIENCE) => Err(Error::Starting),
        }
    }

    /// The topic of this name, where that is known without waiting.
    #[must_use]
    pub fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>> {
        self.0.log.get()?.known(name)
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// There is none, or the server is not serving.
    pub async fn get(&self, name: &TopicName) -> Result<Arc<dyn TopicLog>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.get(name)).await?)
    }

    /// The topic of this name, created where topics are created on first use.
    ///
    /// # Errors
    /// As [`Self::get`] and [`Self::create`].
    pub async fn get_or_create(&self, name: &TopicName) -> Result<Arc<dyn TopicLog>, Error> {
        /// Losing a race of creation against deletion this often is no accident.
        const ATTEMPTS: usize = 4;
        let log = self.log().await?;
        for _ in 0..ATTEMPTS {
            match self.in_time(Stored::Nothing, log.get(name)).await {
                Err(storage::Error::TopicNotFound) if self.0.auto_create => {}
                other => return Ok(other?),
            }
            match self.in_time(Stored::Nothing, log.create(name.clone(), Retention::default())).await {
                Err(storage::Error::TopicExists) => {}
                // Whether or not there is a topic now, nothing was published to it.
                Err(storage::Error::Unavailable { reason, .. }) => {
                    return Err(storage::Error::Unavailable { reason, stored: Stored::Nothing }.into());
                }
                other => return Ok(other?),
            }
        }
        Err(storage::Error::TopicNotFound.into())
    }

    /// Starts a subscription, which ends with `shutdown` if not before.
    ///
    /// # Errors
    /// The topic or the start is not there, or the server is not serving.
    pub async fn subscribe(
        &self,
        name: &TopicName,
        request: Subscribe,
        shutdown: ShutdownSignal,
    ) -> Result<Subscription, Error> {
        if let Some(cause) = self.0.connections.shutdown.cause() {
            return Err(cause.into());
        }
        let begun = shutdown.cancelled();
        let starting = async {
            let topic = if self.creates_for(&request) {
                self.get_or_create(name).await?
            } else {
                self.get(name).await?
            };
            let log = Arc::clone(self.log().await?);
            Subscription::start(log, topic, request, self.0.heartbeat_interval, shutdown.clone()).await
        };
        // A start waits for a storage that does not answer, and a call that ends does not.
        tokio::select! {
            biased;
            started = starting => started,
            () = begun => Err(shutdown.cause().unwrap_or(Cause::Draining).into()),
        }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// There is one, or one too many, or the storage's own.
    pub async fn create(&self, name: TopicName, retention: Retention) -> Result<TopicInfo, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.create(name, retention)).await?.info())
    }

    /// Up to `limit` topics by name, those after `after` whose name begins with `prefix`.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<TopicInfo>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.list(prefix, after, limit)).await?)
    }

    /// The names of the same topics as [`Self::list`], which may be much cheaper.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn names(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<TopicName>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.names(prefix, after, limit)).await?)
    }

    /// All names behind `after` that begin with `prefix`, where the engine looks at all to find any.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn all_names(&self, prefix: &str, after: &str) -> Result<Option<BTreeSet<TopicName>>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.all_names(prefix, after)).await?)
    }

    /// What these topics are like now; those that are gone are left out.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn infos(&self, names: Vec<TopicName>) -> Result<Vec<TopicInfo>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.infos(names)).await?)
    }

    /// Replaces a topic's retention.
    ///
    /// # Errors
    /// There is no such topic, or the storage's own.
    pub async fn update(&self, name: &TopicName, retention: Retention) -> Result<TopicInfo, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.update(name, retention)).await?)
    }

    /// Deletes a topic; where `epoch` is given, only that incarnation.
    ///
    /// # Errors
    /// There is no such topic or incarnation, or the storage's own.
    pub async fn delete(&self, name: &TopicName, epoch: Option<Epoch>) -> Result<(), Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.delete(name, epoch)).await?)
    }

    /// Forgets whole batches before an offset; answers the real earliest offset.
    ///
    /// # Errors
    /// There is no such topic, incarnation or offset, or the storage's own.
    pub async fn trim(
        &self,
        name: &TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> Result<Offset, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.trim(name, epoch, before)).await?)
    }
}
