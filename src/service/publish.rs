//! Publish: one batch and one receipt, once the batch is durable.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::status::{Context, Error, status};
use super::streams::Streams;
use super::{changes, request};
use crate::auth::{self, Action, Caller};
use crate::record::{Batch, TopicName};
use crate::registry;
use crate::storage::TopicLog;
use crate::telemetry::trace;
use crate::topic::{self, Connection};
use crate::wire::{PublishRequest, PublishResponse};

/// Publishes a batch. The request is checked at once, and the future keeps only what it needs.
pub(super) fn publish(
    streams: Arc<Streams>,
    request: Request<PublishRequest>,
) -> impl Future<Output = Result<Response<PublishResponse>, Status>> + Send {
    let checked = Checked::new(&streams, request);
    async move {
        let Checked { name, topic, batch, connection } = checked?;
        let refused = |error: Error| status(&error, &Context::topic(name.as_str()));
        // The batch is counted while it waits for its topic too.
        let permit = topic::admit(&connection, &batch).await.map_err(|error| refused(error.into()))?;
        let topic = match topic {
            Ok(known) => known,
            Err((caller, call)) => {
                Box::pin(streams.topic(&caller, call.as_deref(), &name)).await.map_err(refused)?
            }
        };
        let receipt = topic::publish(topic, permit, batch).await.map_err(|error| refused(error.into()))?;
        Ok(uncompressed(PublishResponse { receipt }))
    }
}

/// Makes the answer, which compression would make longer.
fn uncompressed(receipt: PublishResponse) -> Response<PublishResponse> {
    let mut response = Response::new(receipt);
    response.disable_compression();
    response
}

/// Caller that may create a topic, and its call.
type Creator = (Caller, Option<Arc<registry::Call>>);

/// Valid request of a caller that may publish.
struct Checked {
    name: TopicName,
    /// The topic, or who may create it.
    topic: Result<Arc<dyn TopicLog>, Creator>,
    batch: Batch,
    connection: Arc<Connection>,
}

impl Checked {
    fn new(streams: &Streams, request: Request<PublishRequest>) -> Result<Self, Status> {
        let (metadata, extensions, mut publish) = request.into_parts();
        let name = std::mem::take(&mut publish.topic);
        publish.records = request::owned(publish.records, &metadata);
        let caller = streams.caller(&extensions).map_err(|error| status(&error, &Context::default()))?;
        // Where the caller traces nothing and this server samples the call, the batch leads to it.
        let call_trace = match request::call_trace(&metadata) {
            none if none.is_empty() => trace::current_traceparent().unwrap_or_default().into(),
            call_trace => call_trace,
        };
        let checked = || {
            let name = request::topic("topic", &name)?;
            caller.permit(Action::Publish, name.as_str())?;
            let of = (request::scope(&caller), &*call_trace);
            let batch = request::batch(publish, streams.batch_limits, of, "")?;
            caller.allowance().map_err(auth::Error::from)?;
            caller.consume(batch.records().len() as u64, batch.count().into());
            Ok((name, batch))
        };
        let (name, batch) = checked().map_err(|error| status(&error, &Context::topic(&*name)))?;
        let call = changes::registered(&extensions);
        if let Some(call) = call {
            call.publish_to(&name);
        }
        let topic = streams.topics.known(&name).ok_or_else(|| (caller, call.cloned()));
        Ok(Self { name, topic, batch, connection: streams.connection(&extensions) })
    }
}
