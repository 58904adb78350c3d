//! The calls behind the routes of the HTTP listener. They have the checks, limits and records of changes of the gRPC calls,
//! and fail with the statuses of these.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::Stream;
use http::Extensions;
use http::request::Parts;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::call::Call;
use super::ingest::{self, Failed};
use super::status::{Context, Error, status};
use super::streams::Streams;
use super::{publish, request, subscribe};
use crate::auth::Action;
use crate::proto::v1::IngestResponse;
use crate::record::{Position, Receipt};
use crate::storage::TopicLog;
use crate::topic::{Delivery, Subscribe, Subscription, UnreadFrames};
use crate::wire::{IngestRequest, PublishRequest};

impl Streams {
    /// Publishes one batch on behalf of an HTTP request.
    ///
    /// # Errors
    /// Nothing was stored, or it is not known, as the status says.
    pub async fn publish_batch(&self, parts: &Parts, batch: PublishRequest) -> Result<Receipt, Status> {
        let metadata = MetadataMap::from_headers(parts.headers.clone());
        let request = tonic::Request::from_parts(metadata, parts.extensions.clone(), batch);
        let published = publish::publish(Arc::new(self.clone()), request).await?;
        Ok(published.into_inner().receipt)
    }

    /// Publishes the batches of a stream in their order on behalf of an HTTP request.
    ///
    /// # Errors
    /// A batch was not stored, nor any after it.
    pub async fn publish_batches<S>(&self, parts: &Parts, batches: S) -> Result<IngestResponse, Failed>
    where
        S: Stream<Item = Result<IngestRequest, Status>> + Unpin,
    {
        let metadata = MetadataMap::from_headers(parts.headers.clone());
        ingest::ingest_all(self, &metadata, &parts.extensions, batches).await
    }

    /// Subscribes to a topic on behalf of an HTTP request with these extensions.
    ///
    /// # Errors
    /// The caller may not, or the start is not in the topic.
    pub async fn follow(
        &self,
        extensions: &Extensions,
        topic: &str,
        asked: Subscribe,
    ) -> Result<Follow, Status> {
        let begun = self.begin(extensions, topic, asked).await;
        begun.map_err(|error| status(&error, &Context::topic(topic)))
    }

    async fn begin(&self, extensions: &Extensions, topic: &str, asked: Subscribe) -> Result<Follow, Error> {
        let mut call = Call::begin(self, extensions)?;
        let name = request::topic("topic", topic)?;
        call.permit(Action::Subscribe, &name)?;
        call.subscribe()?;
        let (caller, shutdown) = call.caller_and_shutdown();
        let registered = call.registered();
        let subscription =
            self.subscription((&caller, shutdown), registered.as_deref(), &name, asked).await?;
        Ok(Follow { call, subscription })
    }
}

/// A subscription on behalf of an HTTP request.
pub struct Follow {
    call: Call,
    subscription: Subscription,
}

impl Follow {
    /// Polls for the next delivery; none once a limit was reached.
    pub fn poll_next(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Delivery, Status>>> {
        self.call.poll(cx);
        self.subscription.poll_next(cx).map(|next| {
            next.map(|delivery| {
                delivery.map_err(|error| {
                    let context = subscribe::context(&self.subscription, &error);
                    status(&Error::Topic(error), &context)
                })
            })
        })
    }

    /// The position to resume at.
    #[must_use]
    pub fn position(&self) -> Position {
        self.subscription.position()
    }

    /// A handle to the topic.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TopicLog> {
        self.subscription.log()
    }

    /// A counter of the frames that the peer has not read.
    #[must_use]
    pub fn unread(&self) -> UnreadFrames {
        UnreadFrames::new(&self.call.connection().send_budget)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}
