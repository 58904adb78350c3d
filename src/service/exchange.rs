//! Exchange: numbered publishes from the client, receipts and optionally deliveries to it. Everything that is ready goes
//! into one message, and a publish costs no task, channel or box.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::Stream;
use http::Extensions;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::body::AnswerStream;
use super::call::Call;
use super::incoming::Incoming;
use super::intake::{Fault, Intake};
use super::status::{Context, Error, status};
use super::streams::Streams;
use super::{receipts, request, subscribe};
use crate::auth::{Action, Caller};
use crate::proto::v1;
use crate::record::{Batch, BatchLimits, Receipt, Scope, TopicName};
use crate::registry;
use crate::storage::{BoxFuture, TopicLog};
use crate::topic::{self, Connection, Notice, ShutdownSignal, Subscribe, Subscription, UnreadFrames};
use crate::wire::{ExchangeRequest, ExchangeResponse};

pub(super) fn exchange(
    streams: &Streams,
    metadata: &MetadataMap,
    extensions: &Extensions,
    requests: Incoming<ExchangeRequest>,
) -> Result<Exchange<Incoming<ExchangeRequest>>, Status> {
    let call_trace = request::call_trace(metadata);
    let call = Call::begin(streams, extensions);
    let call = call.map_err(|error| status(&error, &Context::default()))?;
    Ok(Exchange::new(streams.clone(), call, requests, call_trace))
}

/// Stream of one Exchange's answers.
pub(super) struct Exchange<S> {
    streams: Streams,
    call: Call,
    requests: S,
    call_trace: Box<str>,
    state: State,
}

enum State {
    Opening,
    Resolving(BoxFuture<'static, Result<Box<Running>, (Error, Context)>>),
    Running(Box<Running>),
    Ended,
}

struct Running {
    name: TopicName,
    scope: Scope,
    intake: Intake,
    subscription: Option<Subscription>,
    /// Log that the subscription reads, also once it has ended.
    log: Option<Arc<dyn TopicLog>>,
    /// Context of the subscription that failed.
    failed: Option<Context>,
    end_told: bool,
    receipts: Vec<Receipt>,
    /// True if the client accepts merged receipts.
    merging: bool,
}

/// Item of the stream.
type Out = Option<Result<ExchangeResponse, Status>>;

impl<S> Exchange<S> {
    /// Counter of the frames that the peer has not read.
    pub(super) fn unread(&self) -> UnreadFrames {
        UnreadFrames::new(&self.call.connection().send_budget)
    }

    pub(super) fn new(streams: Streams, call: Call, requests: S, call_trace: Box<str>) -> Self {
        Self { streams, call, requests, call_trace, state: State::Opening }
    }
}

impl<S> Stream for Exchange<S>
where
    S: Stream<Item = Result<ExchangeRequest, Status>> + Unpin,
{
    type Item = Result<ExchangeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Out> {
        let this = &mut *self;
        this.call.poll(cx);
        loop {
            let out = match &mut this.state {
                State::Ended => return Poll::Ready(None),
                State::Opening => {
                    let first = std::task::ready!(this.call.poll_first(cx, &mut this.requests));
                    let opened = first.unwrap_or(Ok(ExchangeRequest::Empty)).and_then(opened);
                    let checked = opened
                        .map_err(|error| status(&error, &Context::default()))
                        .and_then(|open| Checked::new(&open, &mut this.call));
                    match checked {
                        Ok(checked) => {
                            let window = this.streams.window(checked.window);
                            let (streams, call) = (this.streams.clone(), &this.call);
                            let resolving = resolve(
                                streams,
                                checked,
                                window,
                                (call.connection(), call.registered()),
                                call.caller_and_shutdown(),
                            );
                            this.state = State::Resolving(Box::pin(resolving));
                            continue;
                        }
                        Err(status) => Some(Err(status)),
                    }
                }
                State::Resolving(resolving) => match std::task::ready!(resolving.as_mut().poll(cx)) {
                    Ok(running) => {
                        this.state = State::Running(running);
                        continue;
                    }
                    Err((error, context)) => Some(Err(status(&error, &context))),
                },
                State::Running(running) => {
                    let limits = this.streams.batch_limits;
                    std::task::ready!(running.poll(cx, &mut this.requests, limits, &this.call_trace))
                }
            };
            if !matches!(out, Some(Ok(_))) {
                this.state = State::Ended;
            }
            return Poll::Ready(out);
        }
    }
}

impl<S> AnswerStream for Exchange<S>
where
    S: Stream<Item = Result<ExchangeRequest, Status>> + Unpin + Send + 'static,
{
    type Message = ExchangeResponse;

    fn log(&self) -> Option<Arc<dyn TopicLog>> {
        let State::Running(running) = &self.state else { return None };
        running.log.clone()
    }
}

/// Returns the Open that the first message must be.
fn opened(first: ExchangeRequest) -> Result<Box<v1::Open>, Error> {
    match first {
        ExchangeRequest::Open(open) => Ok(open),
        ExchangeRequest::Publish { .. } | ExchangeRequest::Empty => {
            Err(Error::Protocol("the first message must be an open".to_owned()))
        }
    }
}

/// Valid Open of a caller that may do what it asks, checked before a topic is created.
struct Checked {
    name: TopicName,
    asked: Option<(TopicName, Subscribe)>,
    window: u32,
    merging: bool,
}

impl Checked {
    fn new(open: &v1::Open, call: &mut Call) -> Result<Self, Status> {
        let name = request::topic("open.topic", &open.topic).map_err(refused(&open.topic))?;
        let asked = match &open.subscribe {
            None => None,
            Some(asked) => {
                let topic = if asked.topic.is_empty() { &open.topic } else { &asked.topic };
                let from = request::topic("open.subscribe.topic", topic)
                    .and_then(|name| Ok((name, request::subscribe(asked, "open.subscribe.")?)));
                Some(from.map_err(refused(topic))?)
            }
        };
        call.permit(Action::Publish, &name).map_err(refused(&open.topic))?;
        if let Some((topic, _)) = &asked {
            let counted = call.permit(Action::Subscribe, topic).and_then(|()| call.subscribe());
            counted.map_err(refused(topic.as_str()))?;
        }
        Ok(Self { name, asked, window: open.window, merging: open.merge_receipts })
    }
}

/// Makes the status of a refused Open.
fn refused(topic: &str) -> impl FnOnce(Error) -> Status {
    move |error| status(&error, &Context::topic(topic))
}

/// Adds the topic to an error.
fn about(topic: &str) -> impl FnOnce(Error) -> (Error, Context) + use<> {
    let context = Context::topic(topic);
    move |error| (error, context)
}

async fn resolve(
    streams: Streams,
    checked: Checked,
    window: usize,
    (connection, call): (Arc<Connection>, Option<Arc<registry::Call>>),
    (caller, shutdown): (Caller, ShutdownSignal),
) -> Result<Box<Running>, (Error, Context)> {
    let Checked { name, asked, merging, .. } = checked;
    let mut after = None;
    let mut subscription = None;
    // A subscription that is refused is found before the topic that is published to is created.
    match asked {
        None => {}
        Some((topic, asked)) if topic == name => {
            if !asked.fits_new_topic() {
                let missing = |error: topic::Error| about(topic.as_str())(error.into());
                streams.topics.get(&topic).await.map_err(missing)?;
            }
            after = Some(asked);
        }
        Some((topic, asked)) => {
            let by = (&caller, shutdown.clone());
            let subscribed = streams.subscription(by, call.as_deref(), &topic, asked).await;
            subscription = Some(subscribed.map_err(about(topic.as_str()))?);
        }
    }
    let topic = streams.topic(&caller, call.as_deref(), &name).await.map_err(about(name.as_str()))?;
    if let Some(asked) = after {
        let by = (&caller, shutdown.clone());
        let subscribed = streams.subscription(by, call.as_deref(), &name, asked).await;
        subscription = Some(subscribed.map_err(about(name.as_str()))?);
    }
    let scope = request::scope(&caller);
    let intake = Intake::new(&*topic, connection, window, (caller, shutdown));
    let log = subscription.as_ref().map(Subscription::log);
    let (failed, end_told, receipts) = (None, false, Vec::new());
    Ok(Box::new(Running { name, scope, intake, subscription, log, failed, end_told, receipts, merging }))
}

impl Running {
    fn poll<S>(
        &mut self,
        cx: &mut TaskContext<'_>,
        requests: &mut S,
        limits: BatchLimits,
        call_trace: &str,
    ) -> Poll<Out>
    where
        S: Stream<Item = Result<ExchangeRequest, Status>> + Unpin,
    {
        let first = self.intake.acknowledged() + 1;
        let (name, of) = (&self.name, (self.scope, call_trace));
        let check = |request, number| check(request, number, name, limits, of);
        self.intake.poll(cx, requests, check, &mut self.receipts);
        let mut response = ExchangeResponse {
            receipts: receipts::numbered(first, &mut self.receipts, self.merging),
            ..ExchangeResponse::default()
        };
        if !self.intake.has_fault() {
            self.poll_subscription(cx, &mut response);
        }
        if !response.receipts.is_empty() || response.delivery.is_some() {
            return Poll::Ready(Some(Ok(response)));
        }
        if !self.intake.is_finished() {
            return Poll::Pending;
        }
        match self.intake.take_fault() {
            Some(fault) => Poll::Ready(Some(self.fail(cx, fault))),
            None if self.subscription.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn poll_subscription(&mut self, cx: &mut TaskContext<'_>, response: &mut ExchangeResponse) {
        let Some(subscription) = &mut self.subscription else { return };
        match subscription.poll_next(cx) {
            Poll::Pending => {}
            Poll::Ready(None) => self.subscription = None,
            Poll::Ready(Some(Ok(delivery))) => {
                if let Some(Notice::Draining | Notice::MaxAge) = delivery.notice {
                    self.end_told = true;
                    response.notice = subscribe::notice(delivery.notice);
                }
                response.delivery = Some(subscribe::message(delivery));
            }
            Poll::Ready(Some(Err(error))) => {
                self.failed = Some(subscribe::context(subscription, &error));
                self.subscription = None;
                self.intake.fail(Fault { number: None, error: error.into() });
            }
        }
    }

    /// Ends a call that fails: with the notice of a shutdown first, then with the status.
    fn fail(&mut self, cx: &mut TaskContext<'_>, fault: Fault) -> Result<ExchangeResponse, Status> {
        let notice = match fault.error {
            Error::Topic(topic::Error::Draining) => v1::Notice::Draining,
            Error::Topic(topic::Error::MaxAge) => v1::Notice::MaxAge,
            _ => v1::Notice::Unspecified,
        };
        if notice != v1::Notice::Unspecified && !std::mem::replace(&mut self.end_told, true) {
            let mut response = ExchangeResponse { notice, ..ExchangeResponse::default() };
            self.poll_subscription(cx, &mut response);
            self.intake.fail(fault);
            return Ok(response);
        }
        let mut context = self.failed.take().unwrap_or_else(|| Context {
            resume: Some(self.intake.resume()),
            ..Context::topic(self.name.as_str())
        });
        context.number = fault.number;
        Err(status(&fault.error, &context))
    }
}

/// Returns the batch of the publish that must have this number.
fn check(
    request: ExchangeRequest,
    due: u64,
    name: &TopicName,
    limits: BatchLimits,
    of: (Scope, &str),
) -> Result<Batch, Error> {
    let ExchangeRequest::Publish { number, publish } = request else {
        let what = if request == ExchangeRequest::Empty { "an empty message" } else { "a second open" };
        return Err(Error::Protocol(format!("{what} where publish {due} was due")));
    };
    if number != due {
        return Err(Error::Protocol(format!("publish {number} where publish {due} was due")));
    }
    if !publish.topic.is_empty() && *publish.topic != *name.as_str() {
        return Err(Error::Protocol("a publish to another topic than the open's".to_owned()));
    }
    request::batch(publish, limits, of, "publish.publish.")
}
