//! State that the calls on topics share: topics, identities and limits.

use std::sync::Arc;
use std::time::Duration;

use super::{changes, creation, status};
use crate::auth::{Action, Auth, Caller, CreationPermit};
use crate::config::Config;
use crate::record::{BatchLimits, TopicName};
use crate::registry;
use crate::storage::TopicLog;
use crate::topic::{Connection, Obtained, ShutdownSignal, Subscribe, Subscription, Topics};

/// State of the four calls of `StreamService`.
#[derive(Clone)]
pub struct Streams {
    pub(super) topics: Topics,
    pub(super) auth: Auth,
    pub(super) batch_limits: BatchLimits,
    pub(super) message_bytes_max: usize,
    pub(super) window_max: usize,
    pub(super) stream_age_max: Option<Duration>,
    pub(super) heartbeat_interval: Duration,
}

impl Streams {
    /// Makes the state for calls on these topics, within the limits of `config`.
    #[must_use]
    pub fn new(topics: Topics, auth: Auth, config: &Config) -> Self {
        let batch_limits =
            BatchLimits { records_max: config.batch_records_max, bytes_max: config.batch_bytes_max };
        let window_max = config.window_max.max(1) as usize;
        let stream_age_max = Some(config.stream_age_max).filter(|age| !age.is_zero());
        Self {
            topics,
            auth,
            batch_limits,
            message_bytes_max: config.message_bytes_max,
            window_max,
            stream_age_max,
            heartbeat_interval: config.heartbeat_interval,
        }
    }

    /// Returns the caller.
    pub(super) fn caller(&self, extensions: &http::Extensions) -> Result<Caller, status::Error> {
        Ok(self.auth.caller(extensions.get())?)
    }

    /// Returns the connection on which a call arrived.
    pub(super) fn connection(&self, extensions: &http::Extensions) -> Arc<Connection> {
        extensions.get().unwrap_or_else(|| self.topics.connections()).clone()
    }

    /// Returns a topic to publish to. Creates the topic if topics are created on first use and the caller's quota
    /// allows it.
    pub(super) async fn topic(
        &self,
        caller: &Caller,
        call: Option<&registry::Call>,
        name: &TopicName,
    ) -> Result<Arc<dyn TopicLog>, status::Error> {
        self.topic_for(Action::Publish, (caller, call), name).await
    }

    /// Returns a topic that the caller may do this with. Creates it under the same conditions as [`Self::topic`].
    pub(super) async fn topic_for(
        &self,
        action: Action,
        (caller, call): (&Caller, Option<&registry::Call>),
        name: &TopicName,
    ) -> Result<Arc<dyn TopicLog>, status::Error> {
        let _room = self.room(caller, action, name).await?;
        let Obtained { log, is_new } = self.topics.get_or_create(name).await?;
        if is_new {
            changes::created_on_use(caller, call, &*log);
        }
        Ok(log)
    }

    /// Subscribes to a topic. Creates it under the same conditions as [`Self::topic`].
    pub(super) async fn subscription(
        &self,
        (caller, shutdown): (&Caller, ShutdownSignal),
        call: Option<&registry::Call>,
        name: &TopicName,
        asked: Subscribe,
    ) -> Result<Subscription, status::Error> {
        let creates = self.topics.creates_for(&asked);
        let _room = if creates { self.room(caller, Action::Subscribe, name).await? } else { None };
        if creates && self.topics.known(name).is_none() {
            tokio::select! {
                biased;
                obtained = self.topics.get_or_create(name) => {
                    let Obtained { log, is_new } = obtained?;
                    if is_new {
                        changes::created_on_use(caller, call, &*log);
                    }
                }
                // The subscription ends with its cause.
                () = shutdown.cancelled() => {}
            }
        }
        let subscription = self.topics.subscribe(name, asked, shutdown).await?;
        if let Some(call) = call {
            call.subscribe_to(name);
            call.follow(subscription.lag());
        }
        Ok(subscription)
    }

    async fn room(
        &self,
        caller: &Caller,
        action: Action,
        name: &TopicName,
    ) -> Result<Option<CreationPermit>, status::Error> {
        if !self.topics.creates_on_first_use() {
            return Ok(None);
        }
        creation::room(&self.topics, caller, action, name).await
    }

    /// Returns the window for a client that requests `asked`. A request for 0 gets the largest window.
    pub(super) fn window(&self, asked: u32) -> usize {
        if asked == 0 { self.window_max } else { self.window_max.min(asked as usize) }
    }
}
