//! Publish: one batch, one receipt.
//! Never: answers before the batch is durable.

use tonic::{Request, Response, Status};

use super::Streams;
use super::request;
use super::status::{Context, Error, status};
use crate::auth::{self, Action, Caller};
use crate::record::Receipt;
use crate::telemetry::trace;
use crate::topic::Admission;
use crate::wire::{PublishRequest, PublishResponse};

pub(super) async fn publish(
    streams: &Streams,
    request: Request<PublishRequest>,
) -> Result<Response<PublishResponse>, Status> {
    let call_trace = request::call_trace(request.metadata());
    let caller = streams.caller(request.extensions()).map_err(|error| status(&error, &Context::default()))?;
    let admission = streams.admission(request.extensions());
    // Where the caller traces nothing and this server samples the call, the batch leads to it.
    let call_trace = if call_trace.is_empty() {
        trace::current_traceparent().unwrap_or_default().into()
    } else {
        call_trace
    };
    let mut publish = request.into_inner();
    let topic = std::mem::take(&mut publish.topic);
    match store(streams, &caller, admission, (&topic, publish), &call_trace).await {
        Ok(receipt) => Ok(uncompressed(PublishResponse { receipt })),
        Err(error) => Err(status(&error, &Context::topic(&*topic))),
    }
}

/// A receipt, which compression would make longer.
fn uncompressed(receipt: PublishResponse) -> Response<PublishResponse> {
    let mut response = Response::new(receipt);
    response.disable_compression();
    response
}

async fn store(
    streams: &Streams,
    caller: &Caller,
    admission: Admission,
    (topic, publish): (&str, PublishRequest),
    call_trace: &str,
) -> Result<Receipt, Error> {
    let name = request::topic("topic", topic)?;
    caller.permit(Action::Publish, name.as_str())?;
    let batch = request::batch(publish, streams.batch_limits, call_trace, "")?;
    caller.allowance().map_err(auth::Error::from)?;
    caller.pay(batch.records().len() as u64, batch.count().into());
    let publisher = streams.publisher(caller, &name).await?;
    Ok(publisher.within(admission).publish(batch).await?)
}
