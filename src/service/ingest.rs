//! Ingest: many batches and one answer. The answer is OK only if every batch sent is durable.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::Stream;
use http::Extensions;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::call::Call;
use super::incoming::Incoming;
use super::intake::{Fault, Intake};
use super::request;
use super::status::{Context, Error, status};
use super::streams::Streams;
use crate::auth::Action;
use crate::proto::v1::{self, IngestResponse};
use crate::record::{Batch, Position, Scope, TopicName};
use crate::wire::{IngestRequest, PublishRequest};

pub(super) async fn ingest(
    streams: &Streams,
    metadata: &MetadataMap,
    extensions: &Extensions,
    requests: Incoming<IngestRequest>,
) -> Result<Response<IngestResponse>, Status> {
    ingest_all(streams, metadata, extensions, requests)
        .await
        .map(Response::new)
        .map_err(|failed| failed.status)
}

/// An ingest that failed.
#[derive(Debug)]
pub struct Failed {
    /// Reason of the failure.
    pub status: Status,
    /// Summary of what was stored before it.
    pub stored: IngestResponse,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self { status, stored: IngestResponse::default() }
    }
}

/// Publishes all batches of a stream.
pub(super) async fn ingest_all<S>(
    streams: &Streams,
    metadata: &MetadataMap,
    extensions: &Extensions,
    mut requests: S,
) -> Result<IngestResponse, Failed>
where
    S: Stream<Item = Result<IngestRequest, Status>> + Unpin,
{
    let call_trace = request::call_trace(metadata);
    let call = Call::begin(streams, extensions);
    let mut call = call.map_err(|error| status(&error, &Context::default()))?;
    let first = poll_fn(|cx| call.poll_first(cx, &mut requests)).await;
    // A client that sent nothing gets an empty answer.
    let Some(first) = first else { return Ok(IngestResponse::default()) };
    let first = first.map_err(|error| status(&error, &Context::default()))?;
    let (name, mut ingest) = match begin(streams, first, call_trace, &mut call).await {
        Ok(begun) => begun,
        Err((error, context)) => return Err(status(&error, &context).into()),
    };
    let fault = poll_fn(|cx| {
        call.poll(cx);
        ingest.poll(cx, &mut requests)
    });
    let Some(Fault { number, error }) = fault.await else { return Ok(ingest.summary()) };
    let resume = Some(ingest.intake.resume());
    let status = status(&error, &Context { number, resume, ..Context::topic(name.as_str()) });
    Err(Failed { status, stored: ingest.summary() })
}

/// One call.
struct Ingest {
    streams: Streams,
    name: TopicName,
    scope: Scope,
    call_trace: Box<str>,
    intake: Intake,
    /// Records of each batch that is not acknowledged yet; at most a window of them.
    counts: VecDeque<u32>,
    receipts: Vec<crate::record::Receipt>,
    records: u64,
    batches: u64,
}

async fn begin(
    streams: &Streams,
    first: IngestRequest,
    call_trace: Box<str>,
    call: &mut Call,
) -> Result<(TopicName, Ingest), (Error, Context)> {
    let topic = first.publish.as_ref().map(|publish| publish.topic.to_string()).unwrap_or_default();
    let mut resume = None;
    let begun = async {
        let name = request::topic("publish.topic", &topic)?;
        call.permit(Action::Publish, &name)?;
        let (caller, shutdown) = call.caller_and_shutdown();
        let scope = request::scope(&caller);
        let known = streams.topics.known(&name);
        resume = known.map(|topic| Position { epoch: topic.epoch(), offset: topic.tail() });
        let batch = check(streams, first, 1, &name, (scope, &call_trace))?;
        // The batch is counted while it waits for its topic; from then on the intake counts it.
        let permit = call.connection().admit(batch.weight()).await?;
        let topic = streams.topic(&caller, call.registered().as_deref(), &name).await?;
        drop(permit);
        let mut intake = Intake::new(&*topic, call.connection(), streams.window(0), (caller, shutdown));
        let counts = VecDeque::from([batch.count()]);
        intake.take(batch);
        Ok((
            name.clone(),
            Ingest {
                streams: streams.clone(),
                name,
                scope,
                call_trace,
                intake,
                counts,
                receipts: Vec::new(),
                records: 0,
                batches: 0,
            },
        ))
    };
    let begun = begun.await;
    begun.map_err(|error| (error, Context { resume, ..Context::topic(&*topic) }))
}

impl Ingest {
    /// Becomes ready once the client is done or the call has failed, and all before that is acknowledged.
    fn poll<S>(&mut self, cx: &mut std::task::Context<'_>, requests: &mut S) -> Poll<Option<Fault>>
    where
        S: Stream<Item = Result<IngestRequest, Status>> + Unpin,
    {
        loop {
            let (streams, name, of) = (&self.streams, &self.name, (self.scope, &*self.call_trace));
            let counts = &mut self.counts;
            let check = |request, number| {
                let batch = check(streams, request, number, name, of)?;
                counts.push_back(batch.count());
                Ok(batch)
            };
            self.intake.poll(cx, requests, check, &mut self.receipts);
            if self.intake.is_finished() || self.receipts.is_empty() {
                break;
            }
            self.count();
        }
        self.count();
        if self.intake.is_finished() { Poll::Ready(self.intake.take_fault()) } else { Poll::Pending }
    }

    fn count(&mut self) {
        for _ in self.receipts.drain(..) {
            self.batches += 1;
            self.records += u64::from(self.counts.pop_front().unwrap_or(0));
        }
    }

    fn summary(&self) -> IngestResponse {
        let next = self.intake.durable().map(|position| v1::Position {
            epoch: position.epoch.to_string(),
            offset: position.offset.get(),
        });
        IngestResponse { next, records: self.records, batches: self.batches }
    }
}

fn check(
    streams: &Streams,
    request: IngestRequest,
    number: u64,
    name: &TopicName,
    of: (Scope, &str),
) -> Result<Batch, Error> {
    let publish: PublishRequest = request.publish.ok_or_else(|| Error::field("publish", "missing"))?;
    if number > 1 && !publish.topic.is_empty() && *publish.topic != *name.as_str() {
        return Err(Error::Protocol("a publish to another topic than the first one's".to_owned()));
    }
    request::batch(publish, streams.batch_limits, of, "publish.")
}
