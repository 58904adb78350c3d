//! All topics of this server: a handle to the log, the state of the server (starting, serving or draining) and the
//! policy of creating topics on first use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use super::{Admission, Cause, Connection, Error, SendBudget, ShutdownSignal, Subscribe, Subscription};
use crate::config::Config;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::{self, Lineage, Log, Numbering, Retention, Stored, TopicInfo, TopicLog};

/// Time that a call waits while the server is starting.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a request in progress has after [`Topics::hurry`], the same as an append has.
const HURRY_TIMEOUT: Duration = Duration::from_secs(1);

/// A topic that is created on first use.
#[expect(missing_debug_implementations, reason = "a log has none")]
pub struct Obtained {
    /// Log of the topic.
    pub log: Arc<dyn TopicLog>,
    /// This use created it.
    pub is_new: bool,
}

/// A cheap handle to all topics.
#[derive(Clone)]
pub struct Topics(Arc<Inner>);

struct Inner {
    log: SetOnce<Arc<dyn Log>>,
    /// The state of all connections together.
    connections: Arc<Connection>,
    auto_create: bool,
    auto_create_on_subscribe: bool,
    heartbeat_interval: Duration,
    hurried: CancellationToken,
}

impl Topics {
    /// Topics of a server that is starting. Calls wait for [`Self::open`], and fail if that takes too long.
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

    /// Starts to serve this log, after its recovery. A second log is ignored.
    pub fn open(&self, log: Arc<dyn Log>) {
        let _ = self.0.log.set(log);
    }

    /// Starts the shutdown: subscriptions and publish streams are signalled to end. A unary call on a connection that is
    /// not closed yet is served until the log closes.
    pub fn drain(&self) {
        self.0.connections.shutdown.cancel(Cause::Draining);
    }

    /// Makes calls that wait for an unresponsive storage fail soon, before they are cut off.
    pub fn hurry(&self) {
        self.0.hurried.cancel();
        if let Some(log) = self.0.log.get() {
            log.hurry();
        }
    }

    /// Waits for a request to the storage, but not for longer than a server that stops can wait. A write may then have
    /// been done.
    async fn in_time<T>(
        &self,
        stored: Stored,
        request: impl Future<Output = Result<T, storage::Error>>,
    ) -> Result<T, storage::Error> {
        let cut_off = async {
            self.0.hurried.cancelled().await;
            tokio::time::sleep(HURRY_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            done = request => done,
            () = cut_off => {
                let reason = "the server is stopping, and the storage has not answered".to_owned();
                Err(storage::Error::Unavailable { reason, stored })
            }
        }
    }

    /// The signal that every call should end.
    #[must_use]
    pub fn shutdown_signal(&self) -> &ShutdownSignal {
        &self.0.connections.shutdown
    }

    /// The state of all connections together, for a call without a connection.
    #[must_use]
    pub fn connections(&self) -> &Arc<Connection> {
        &self.0.connections
    }

    /// Bytes received from publishers that are not durable yet.
    #[must_use]
    pub fn inflight_bytes(&self) -> usize {
        self.0.connections.admission.used()
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

    /// Returns true if topics are created on first use.
    #[must_use]
    pub fn creates_on_first_use(&self) -> bool {
        self.0.auto_create
    }

    /// Returns true if this subscription creates its topic if that is missing.
    #[must_use]
    pub fn creates_for(&self, request: &Subscribe) -> bool {
        self.0.auto_create && self.0.auto_create_on_subscribe && request.creates_topic()
    }

    /// The log. A call waits for it while the server starts, as a load balancer without health checks may send one too
    /// early.
    async fn log(&self) -> Result<&Arc<dyn Log>, Error> {
        if let Some(log) = self.0.log.get() {
            return Ok(log);
        }
        tokio::select! {
            log = self.0.log.wait() => Ok(log),
            () = self.0.connections.shutdown.cancelled() => Err(Error::Draining),
            () = tokio::time::sleep(START_TIMEOUT) => Err(Error::Starting),
        }
    }

    /// The topic of this name, if it is known without waiting.
    #[must_use]
    pub fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>> {
        self.0.log.get()?.known(name)
    }

    /// Looks up the topic of this name.
    ///
    /// # Errors
    /// The topic does not exist, or the server is not serving.
    pub async fn get(&self, name: &TopicName) -> Result<Arc<dyn TopicLog>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.get(name)).await?)
    }

    /// Looks up the topic of this name, and creates it if topics are created on first use. Also returns whether it did.
    ///
    /// # Errors
    /// The same as [`Self::get`] and [`Self::create`].
    pub async fn get_or_create(&self, name: &TopicName) -> Result<Obtained, Error> {
        /// Attempts against concurrent creations and deletions of the topic.
        const ATTEMPTS: usize = 4;
        let log = self.log().await?;
        for _ in 0..ATTEMPTS {
            match self.in_time(Stored::Nothing, log.get(name)).await {
                Err(storage::Error::TopicNotFound) if self.0.auto_create => {}
                other => return Ok(Obtained { log: other?, is_new: false }),
            }
            match self.in_time(Stored::Nothing, log.create(name.clone(), Retention::default())).await {
                Err(storage::Error::TopicExists) => {}
                // Even if the topic was created, nothing was published to it.
                Err(storage::Error::Unavailable { reason, .. }) => {
                    return Err(storage::Error::Unavailable { reason, stored: Stored::Nothing }.into());
                }
                other => return Ok(Obtained { log: other?, is_new: true }),
            }
        }
        Err(storage::Error::TopicNotFound.into())
    }

    /// Starts a subscription, which ends at the latest when `shutdown` is signalled.
    ///
    /// # Errors
    /// The topic or the start does not exist, or the server is not serving.
    pub async fn subscribe(
        &self,
        name: &TopicName,
        request: Subscribe,
        shutdown: ShutdownSignal,
    ) -> Result<Subscription, Error> {
        if let Some(cause) = self.0.connections.shutdown.cause() {
            return Err(cause.into());
        }
        let cancelled = shutdown.cancelled();
        let starting = async {
            let topic = if self.creates_for(&request) {
                self.get_or_create(name).await?.log
            } else {
                self.get(name).await?
            };
            let log = Arc::clone(self.log().await?);
            Subscription::start(log, topic, request, self.0.heartbeat_interval, shutdown.clone()).await
        };
        // An unresponsive storage must not delay the end of the call.
        tokio::select! {
            biased;
            started = starting => started,
            () = cancelled => Err(shutdown.cause().unwrap_or(Cause::Draining).into()),
        }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// The topic exists, there are too many topics, or the storage fails.
    pub async fn create(&self, name: TopicName, retention: Retention) -> Result<TopicInfo, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.create(name, retention)).await?.info())
    }

    /// Creates a topic to which a backup of an earlier incarnation is restored.
    ///
    /// # Errors
    /// The same as [`Self::create`].
    pub async fn restore(
        &self,
        name: TopicName,
        first: Offset,
        lineage: Lineage,
    ) -> Result<Arc<dyn TopicLog>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.restore(name, first, lineage)).await?)
    }

    /// Numbering of the records of every topic.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn numbering(&self) -> Result<Numbering, Error> {
        Ok(self.log().await?.numbering())
    }

    /// Lists up to `limit` topics by name: those after `after` whose name begins with `prefix`.
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

    /// Lists the names of the same topics as [`Self::list`], which may be much cheaper.
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

    /// Lists all names after `after` that begin with `prefix`, if the engine reads all names to find any.
    ///
    /// # Errors
    /// The server is not serving.
    pub async fn all_names(&self, prefix: &str, after: &str) -> Result<Option<BTreeSet<TopicName>>, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Nothing, log.all_names(prefix, after)).await?)
    }

    /// Returns the state of these topics; those that no longer exist are left out.
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
    /// The topic does not exist, or the storage fails.
    pub async fn update(&self, name: &TopicName, retention: Retention) -> Result<TopicInfo, Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.update(name, retention)).await?)
    }

    /// Deletes a topic. If `epoch` is given, only that incarnation is deleted.
    ///
    /// # Errors
    /// The topic or incarnation does not exist, or the storage fails.
    pub async fn delete(&self, name: &TopicName, epoch: Option<Epoch>) -> Result<(), Error> {
        let log = self.log().await?;
        Ok(self.in_time(Stored::Unknown, log.delete(name, epoch)).await?)
    }

    /// Removes whole batches before an offset, and returns the earliest offset that is left.
    ///
    /// # Errors
    /// The topic, incarnation or offset does not exist, or the storage fails.
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
