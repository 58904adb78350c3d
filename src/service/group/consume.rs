//! Consume: a member's messages in, leases and outcomes out. All that is ready goes into one message, and requests are read
//! while leases wait for the client to take them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures_util::Stream;
use http::Extensions;
use tonic::Status;

use super::super::body::AnswerStream;
use super::super::call::Call;
use super::super::incoming::Incoming;
use super::super::status::{Context, Error, status};
use super::calls::{GroupCalls, refused};
use super::join;
use super::running::{Out, Running};
use crate::proto::v1;
use crate::storage::{BoxFuture, TopicLog};
use crate::topic::UnreadFrames;
use crate::wire::ConsumeResponse;

/// Starts the call.
pub(super) fn consume(
    calls: &GroupCalls,
    extensions: &Extensions,
    requests: Incoming<v1::ConsumeRequest>,
) -> Result<Consume<Incoming<v1::ConsumeRequest>>, Status> {
    let call = Call::begin(&calls.streams, extensions);
    let call = call.map_err(|error| status(&error, &Context::default()))?;
    Ok(Consume { calls: calls.clone(), call, requests, state: State::Opening })
}

/// Stream of one member's answers.
pub(super) struct Consume<S> {
    calls: GroupCalls,
    call: Call,
    requests: S,
    state: State,
}

/// A join that is under way.
type Joining = BoxFuture<'static, Result<Box<Running>, Status>>;

enum State {
    Opening,
    Joining(Joining),
    Running(Box<Running>),
    Ended,
}

impl<S> Consume<S> {
    /// Counter of the frames that the peer has not read.
    pub(super) fn unread(&self) -> UnreadFrames {
        UnreadFrames::new(&self.call.connection().send_budget)
    }
}

impl<S> Consume<S>
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
{
    /// Begins to join the group that the first message names.
    fn open(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Joining, Status>> {
        let first = ready!(self.call.poll_first(cx, &mut self.requests));
        let asked = match first.unwrap_or_else(|| Ok(v1::ConsumeRequest::default())).and_then(joins) {
            Ok(join) => join,
            Err(error) => return Poll::Ready(Err(status(&error, &Context::default()))),
        };
        let refused = refused(&asked.topic, &asked.group);
        let joining = match join::checked(asked, &mut self.call) {
            Ok(checked) => join::join(self.calls.clone(), checked, &self.call),
            Err(error) => return Poll::Ready(Err(refused(error))),
        };
        Poll::Ready(Ok(Box::pin(async move { joining.await.map_err(refused) })))
    }
}

/// Returns the Join that the first message must be.
fn joins(first: v1::ConsumeRequest) -> Result<v1::Join, Error> {
    match first.kind {
        Some(v1::consume_request::Kind::Join(join)) => Ok(join),
        _ => Err(Error::Protocol("the first message must be a join".to_owned())),
    }
}

impl<S> Stream for Consume<S>
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin,
{
    type Item = Result<ConsumeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Out> {
        let this = &mut *self;
        this.call.poll(cx);
        loop {
            let out = match &mut this.state {
                State::Ended => return Poll::Ready(None),
                State::Opening => match ready!(this.open(cx)) {
                    Ok(joining) => {
                        this.state = State::Joining(joining);
                        continue;
                    }
                    Err(status) => Some(Err(status)),
                },
                State::Joining(joining) => match ready!(joining.as_mut().poll(cx)) {
                    Ok(running) => {
                        this.state = State::Running(running);
                        continue;
                    }
                    Err(status) => Some(Err(status)),
                },
                State::Running(running) => ready!(running.poll(cx, &mut this.requests)),
            };
            if !matches!(out, Some(Ok(_))) {
                this.state = State::Ended;
            }
            return Poll::Ready(out);
        }
    }
}

impl<S> AnswerStream for Consume<S>
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Unpin + Send + 'static,
{
    type Message = ConsumeResponse;

    /// None: what a member was leased is not read again once it is being sent.
    fn log(&self) -> Option<Arc<dyn TopicLog>> {
        None
    }
}
