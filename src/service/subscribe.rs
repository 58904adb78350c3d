//! Subscribe: the deliveries of a subscription as messages, without a buffer in between.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::Stream;
use http::Extensions;
use tonic::Status;

use super::body::AnswerStream;
use super::call::Call;
use super::request;
use super::status::{Context, Error, status};
use super::streams::Streams;
use crate::auth::Action;
use crate::proto::v1;
use crate::storage::TopicLog;
use crate::topic::{self, Delivery, Subscription, UnreadFrames};
use crate::wire::SubscribeResponse;

pub(super) async fn subscribe(
    streams: &Streams,
    extensions: &Extensions,
    request: v1::SubscribeRequest,
) -> Result<Deliveries, Status> {
    let call = Call::begin(streams, extensions);
    let mut call = call.map_err(|error| status(&error, &Context::default()))?;
    match begin(streams, &request, &mut call).await {
        Ok(subscription) => Ok(Deliveries { call, subscription }),
        Err(error) => Err(status(&error, &Context::topic(request.topic))),
    }
}

async fn begin(
    streams: &Streams,
    request: &v1::SubscribeRequest,
    call: &mut Call,
) -> Result<Subscription, Error> {
    let name = request::topic("topic", &request.topic)?;
    let asked = request::subscribe(request, "")?;
    call.permit(Action::Subscribe, &name)?;
    call.subscribe()?;
    let (caller, shutdown) = call.caller_and_shutdown();
    streams.subscription((&caller, shutdown), call.registered().as_deref(), &name, asked).await
}

/// Stream of one subscription's messages.
pub(super) struct Deliveries {
    call: Call,
    subscription: Subscription,
}

impl Stream for Deliveries {
    type Item = Result<SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.call.poll(cx);
        self.subscription.poll_next(cx).map(|out| {
            out.map(|delivery| match delivery {
                Ok(delivery) => Ok(message(delivery)),
                Err(error) => Err(failure(&self.subscription, error)),
            })
        })
    }
}

impl AnswerStream for Deliveries {
    type Message = SubscribeResponse;

    fn log(&self) -> Option<Arc<dyn TopicLog>> {
        Some(self.subscription.log())
    }
}

impl Deliveries {
    /// Counter of the frames that the peer has not read.
    pub(super) fn unread(&self) -> UnreadFrames {
        UnreadFrames::new(&self.call.connection().send_budget)
    }
}

/// Makes the message of a delivery.
pub(super) fn message(delivery: Delivery) -> SubscribeResponse {
    let Delivery { runs, next, tail, notice } = delivery;
    SubscribeResponse { batches: runs, next, tail, notice: self::notice(notice) }
}

/// Converts a notice.
pub(super) const fn notice(notice: Option<topic::Notice>) -> v1::Notice {
    match notice {
        None => v1::Notice::Unspecified,
        Some(topic::Notice::CaughtUp) => v1::Notice::CaughtUp,
        Some(topic::Notice::Gap) => v1::Notice::Gap,
        Some(topic::Notice::Draining) => v1::Notice::Draining,
        Some(topic::Notice::MaxAge) => v1::Notice::MaxAge,
    }
}

/// Makes the status of a subscription that failed. A position in the error itself, such as the earliest one of a trimmed
/// topic, takes precedence as the position to resume from.
fn failure(subscription: &Subscription, error: topic::Error) -> Status {
    status(&Error::Topic(error.clone()), &context(subscription, &error))
}

/// Makes the context of a subscription that failed.
pub(super) fn context(subscription: &Subscription, error: &topic::Error) -> Context {
    let mut context = Context::topic(subscription.topic().name().as_str());
    let resumable = !matches!(
        error,
        topic::Error::Storage(
            crate::storage::Error::Trimmed { .. }
                | crate::storage::Error::EpochChanged { .. }
                | crate::storage::Error::Restoring { .. }
                | crate::storage::Error::TopicNotFound
        )
    );
    context.resume = resumable.then(|| subscription.position());
    context
}
