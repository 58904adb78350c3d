//! The task that keeps one Exchange open while there is something to publish, and the stream it
//! sends: batches are taken from the queue as fast as the transport asks for them.
//! Never: fills batches, or decides what is retried (see `retry`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use tonic::Code;
use tracing::{debug, info, warn};

use super::Shared;
use super::queue::{Queue, Settled};
use crate::client::connect::{Client, Endpointed};
use crate::client::error::{Error, Origin};
use crate::client::retry::Backoff;
use crate::proto::v1;
use crate::record::{Position, Receipt};
use crate::wire::{ExchangeRequest, ExchangeResponse, NumberedReceipt, PublishRequest};

/// Messages taken from the queue under one lock.
const TAKE_MAX: usize = 32;

/// As telemetry names the call.
const EXCHANGE: &str = "streamway.v1.StreamService/Exchange";

/// How a call ended.
enum Ended {
    /// The publisher was closed and everything is acknowledged.
    Closed,
    /// Anything else.
    Broken(Error),
}

/// Publishes until the publisher is closed or fails for good.
pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let mut backoff = client.backoff(shared.options.retry);
    while shared.wait_for_work().await {
        let endpoint = client.endpoint(EXCHANGE, Some(shared.topic.as_str()));
        let stall_max = backoff.stall_max();
        let ended = tokio::select! {
            ended = call(&shared, &client, &endpoint, &mut backoff) => ended,
            stalled = stalled(&shared, stall_max) => {
                backoff.stalled(Instant::now(), stalled);
                let stalled = humantime::format_duration(Duration::from_millis(stalled.as_millis() as u64));
                Ended::Broken(Error::transport(format!(
                    "{} has acknowledged nothing for {stalled}", endpoint.url
                )))
            }
        };
        let error = match ended {
            Ended::Closed => return,
            Ended::Broken(error) => client.reconsider(error, &endpoint),
        };
        let final_error = shared.cannot_resend(&error);
        shared.end_call();
        if let Some(error) = final_error {
            return shared.end(&error);
        }
        if shared.lock().is_empty() {
            debug!(%error, "exchange ended while idle");
            continue;
        }
        let first = backoff.is_well();
        let Some(delay) = backoff.delay(&error, Instant::now()) else { return shared.end(&error) };
        client.move_on(endpoint.index);
        drop(endpoint);
        let (topic, error, delay_ms) = (&shared.topic, error.message(), delay.as_millis() as u64);
        // An outage is told of once; every further attempt is a detail of it.
        if first {
            warn!(%topic, error, delay_ms, "publishing is interrupted, will go on");
        } else {
            debug!(%topic, error, delay_ms, "still interrupted");
        }
        tokio::time::sleep(delay).await;
    }
}

/// Resolves once the present call has acknowledged nothing for `max` though something waits for it:
/// since how long that is. A server whose disk hangs answers pings, so the transport never notices.
async fn stalled(shared: &Shared, max: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let since = shared.lock().waiting_since;
        // What is pushed after this look is looked at in time.
        let waited = since.map_or(Duration::ZERO, |since| since.max(begun).elapsed());
        match since {
            Some(since) if waited >= max => return since.elapsed(),
            _ => tokio::time::sleep(max.saturating_sub(waited)).await,
        }
    }
}

async fn call(shared: &Arc<Shared>, client: &Client, endpoint: &Endpointed, backoff: &mut Backoff) -> Ended {
    let broken = |status: tonic::Status| Ended::Broken(Error::from_status(&status, &endpoint.url));
    let outgoing = Outgoing::begin(shared);
    let mut incoming = match client.streams(endpoint).exchange(outgoing).await {
        Ok(response) => response.into_inner(),
        Err(status) => return broken(status),
    };
    debug!(topic = %shared.topic, server = endpoint.url, "exchange opened");
    let mut settled = Vec::new();
    loop {
        match incoming.message().await {
            Ok(Some(response)) => {
                if !response.receipts.is_empty() {
                    if !backoff.is_well() {
                        info!(topic = %shared.topic, server = endpoint.url, "publishing goes on");
                    }
                    backoff.progress();
                }
                if let Err(error) = receive(shared, &response, &mut settled) {
                    return Ended::Broken(error);
                }
            }
            Ok(None) if shared.is_done() => return Ended::Closed,
            Ok(None) => {
                return Ended::Broken(Error::transport(format!("{} ended the exchange", endpoint.url)));
            }
            Err(status) => return broken(status),
        }
    }
}

/// Takes receipts in, tells those who wait, and heeds the notice.
fn receive(
    shared: &Shared,
    response: &ExchangeResponse,
    settled: &mut Vec<(Settled, Receipt)>,
) -> Result<(), Error> {
    let mut refused = None;
    let (sender, awaited) = {
        let mut queue = shared.lock();
        for numbered in &response.receipts {
            // Refused before it is taken off the queue: whoever flushes must hear of it.
            refused = another_batch(&queue, &numbered.receipt)
                .or_else(|| acknowledge(&mut queue, numbered, settled).err());
            if refused.is_some() {
                break;
            }
        }
        if !settled.is_empty() {
            queue.has_moved();
        }
        if matches!(response.notice, v1::Notice::Draining | v1::Notice::MaxAge) {
            queue.half_close = true;
        }
        let wake = queue.half_close || queue.has_work();
        (if wake { queue.sender.take() } else { None }, std::mem::take(&mut queue.awaited))
    };
    if let Some(sender) = sender {
        sender.wake();
    }
    for (batch, receipt) in settled.drain(..) {
        shared.settle(&batch, receipt);
    }
    if awaited {
        shared.moved.notify_waiters();
    }
    refused.map_or(Ok(()), Err)
}

/// Takes off the queue what a receipt acknowledges: its own batch, and those before it that it was
/// merged with.
fn acknowledge(
    queue: &mut Queue,
    numbered: &NumberedReceipt,
    settled: &mut Vec<(Settled, Receipt)>,
) -> Result<(), Error> {
    let NumberedReceipt { number, receipt } = *numbered;
    let mut first = receipt.first;
    loop {
        let due = queue.due();
        let batch = (due <= number).then(|| queue.acknowledge(due)).flatten();
        let batch = batch.ok_or_else(|| out_of_turn(number))?;
        let offset = first.plus(u64::from(batch.count));
        let next = if due == number { receipt.next } else { Position { offset, ..receipt.next } };
        settled.push((batch, Receipt { first, next, ..receipt }));
        if due == number {
            return Ok(());
        }
        first = offset;
    }
}

fn out_of_turn(number: u64) -> Error {
    let message = format!("the server acknowledged publish {number} out of turn");
    Error::local(Code::Internal, message)
}

/// A receipt of another batch than the oldest one sent: its `request_id` was used before, for a
/// different number of records, so these were not stored.
fn another_batch(queue: &Queue, receipt: &Receipt) -> Option<Error> {
    let (count, id) = queue.oldest()?;
    let stored = receipt.next.offset.get().wrapping_sub(receipt.first.get());
    if !receipt.duplicate || stored == u64::from(count) {
        return None;
    }
    let message = format!(
        "request_id {} was stored with {stored} records before, and has {count} now: this input or the \
         --batch options differ from the first run",
        id.unwrap_or("?")
    );
    Some(Error::local(Code::FailedPrecondition, message))
}

/// What the transport pulls: the Open, then batches.
struct Outgoing {
    shared: Arc<Shared>,
    call: u64,
    ready: VecDeque<ExchangeRequest>,
}

impl Outgoing {
    fn begin(shared: &Arc<Shared>) -> Self {
        let (topic, window) = (shared.topic.to_string(), shared.options.window);
        let open = v1::Open { topic, window, merge_receipts: true, subscribe: None };
        let call = shared.lock().begin_call();
        Self { shared: Arc::clone(shared), call, ready: VecDeque::from([ExchangeRequest::Open(open.into())]) }
    }

    fn fill(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.shared.lock();
        if queue.call != self.call || queue.half_close {
            return Poll::Ready(());
        }
        while self.ready.len() < TAKE_MAX {
            let Some((number, batch, pending)) = queue.take() else { break };
            let request_id = match &pending.request_id {
                Some(id) => id.clone(),
                None => self.shared.request_id(batch),
            };
            let records = pending.records.clone();
            let traceparent = pending.traceparent.clone();
            let publish = PublishRequest { request_id, records, traceparent, ..PublishRequest::default() };
            self.ready.push_back(ExchangeRequest::Publish { number, publish });
        }
        if self.ready.is_empty() {
            queue.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Stream for Outgoing {
    type Item = ExchangeRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExchangeRequest>> {
        if self.ready.is_empty() && self.fill(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.ready.pop_front())
    }
}

impl Shared {
    /// Without idempotency what was sent must not be sent again, unless the server itself says
    /// that it stored none of it.
    fn cannot_resend(&self, error: &Error) -> Option<Error> {
        let in_flight = self.lock().in_flight();
        let refused = error.metadata().get("side_effects").is_some_and(|effects| effects == "none");
        if self.options.idempotent || in_flight == 0 || (error.origin() == Origin::Server && refused) {
            return None;
        }
        if !error.is_retryable() {
            return Some(error.clone());
        }
        let message = format!("{}; {in_flight} batches may or may not have been stored", error.message());
        Some(Error::local(tonic::Code::Unknown, message))
    }
}
