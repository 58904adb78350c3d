//! The request stream of a call: batches are taken from the queue as fast as the transport asks for them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::shared::Shared;
use crate::proto::v1;
use crate::wire::{ExchangeRequest, PublishRequest};

/// Largest number of batches taken from the queue under one lock.
const TAKE_MAX: usize = 32;

/// The requests of one call: the Open, then batches.
pub(super) struct RequestStream {
    shared: Arc<Shared>,
    call: u64,
    ready: VecDeque<ExchangeRequest>,
}

impl RequestStream {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
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

impl Stream for RequestStream {
    type Item = ExchangeRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExchangeRequest>> {
        if self.ready.is_empty() && self.fill(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.ready.pop_front())
    }
}
