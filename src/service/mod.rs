//! The calls, one thin file each: requests into checked values, domain answers into messages.
//! Never: an error code outside `status`, or a rule that belongs to a topic.

mod body;
mod body_fn;
mod call;
mod compression;
mod creation;
mod deadline;
mod example;
mod exchange;
mod expiry;
mod fault;
pub mod incoming;
mod ingest;
mod intake;
mod listing;
#[cfg(test)]
mod listing_tests;
mod panics;
mod publish;
mod quota;
mod receipts;
mod request;
pub mod status;
mod subscribe;
#[cfg(test)]
mod tests;
mod topics;

pub use body::Beside;
pub use body_fn::body_fn;
pub use call::connection_shutdown;
pub use compression::ENCODINGS;
pub use deadline::Deadlines;
pub use example::{Tutorial, Unpackaged};
pub use expiry::Expiry;
pub use fault::Served;
pub use topics::Administration;

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};

use crate::auth::{Action, Auth, Caller, CreationPermit};
use crate::config::Config;
use crate::proto::v1::{IngestResponse, SubscribeRequest};
use crate::record::{BatchLimits, TopicName};
use crate::storage::{BoxFuture, TopicLog};
use crate::topic::{Connection, ShutdownSignal, Subscribe, Subscription, Topics};
use crate::wire::stubs::v1::stream_service_server::StreamService;
use crate::wire::{ExchangeRequest, ExchangeResponse, SubscribeResponse};
use crate::wire::{IngestRequest, PublishRequest, PublishResponse};

/// The four kinds of call on topics. To be served within [`Served`], which gives the long answers
/// their body.
#[derive(Clone)]
pub struct Streams {
    topics: Topics,
    auth: Auth,
    batch_limits: BatchLimits,
    message_bytes_max: usize,
    window_max: usize,
    stream_age_max: Option<Duration>,
}

impl Streams {
    /// On these topics, within these limits.
    #[must_use]
    pub fn new(topics: Topics, auth: Auth, config: &Config) -> Self {
        let batch_limits =
            BatchLimits { records_max: config.batch_records_max, bytes_max: config.batch_bytes_max };
        let window_max = config.window_max.max(1) as usize;
        let stream_age_max = Some(config.stream_age_max).filter(|age| !age.is_zero());
        let message_bytes_max = config.message_bytes_max;
        Self { topics, auth, batch_limits, message_bytes_max, window_max, stream_age_max }
    }

    /// Who calls.
    fn caller(&self, extensions: &http::Extensions) -> Result<Caller, status::Error> {
        Ok(self.auth.caller(extensions.get())?)
    }

    /// What a call came by.
    fn connection(&self, extensions: &http::Extensions) -> Arc<Connection> {
        extensions.get().unwrap_or_else(|| self.topics.connections()).clone()
    }

    /// A topic to publish to, which is created where that is the way and the caller's quota has room.
    async fn topic(&self, caller: &Caller, name: &TopicName) -> Result<Arc<dyn TopicLog>, status::Error> {
        let _room = self.room(caller, Action::Publish, name).await?;
        Ok(self.topics.get_or_create(name).await?)
    }

    /// Subscribes to a topic; likewise.
    async fn subscription(
        &self,
        caller: &Caller,
        name: &TopicName,
        asked: Subscribe,
        shutdown: ShutdownSignal,
    ) -> Result<Subscription, status::Error> {
        let creates = self.topics.creates_for(&asked);
        let _room = if creates { self.room(caller, Action::Subscribe, name).await? } else { None };
        Ok(self.topics.subscribe(name, asked, shutdown).await?)
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

    /// The window a client gets that asks for `asked`.
    fn window(&self, asked: u32) -> usize {
        if asked == 0 { self.window_max } else { self.window_max.min(asked as usize) }
    }
}

#[tonic::async_trait]
impl StreamService for Streams {
    // As `async fn` it would keep the request, and twice its room, for as long as the batch is not durable.
    fn publish<'a, 'async_trait>(
        &'a self,
        request: Request<PublishRequest>,
    ) -> BoxFuture<'async_trait, Result<Response<PublishResponse>, Status>>
    where
        'a: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(publish::publish(self, request))
    }

    async fn ingest(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<IngestResponse>, Status> {
        ingest::ingest(self, request).await
    }

    type SubscribeStream = Beside<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let deliveries = subscribe::subscribe(self, request).await?;
        let unread = deliveries.unread();
        Ok(body::beside(deliveries, unread))
    }

    type ExchangeStream = Beside<ExchangeResponse>;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let exchange = exchange::exchange(self, request)?;
        let unread = exchange.unread();
        Ok(body::beside(exchange, unread))
    }
}
