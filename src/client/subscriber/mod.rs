//! Subscribing to one topic: deliveries in order, without a gap or a repeat, across restarts,
//! drains and broken connections (P3).
//! Never: reads ahead of its caller beyond the transport's window.

mod delivery;
mod resume;

pub use delivery::Delivery;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::Stream;
use tonic::{Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::connect::{Client, Endpointed};
use super::error::Error;
use super::retry::{Backoff, RetryPolicy};
use crate::proto::v1::{self, Notice};
use crate::record::{Offset, Position, UnixMicros};
use crate::wire::SubscribeResponse;
use resume::Cursor;

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record kept.
    Earliest,
    /// The tail: only what is published from now on.
    Latest,
    /// The first record at or after this offset.
    Offset(Offset),
    /// The first batch stored at or after this time.
    Time(UnixMicros),
    /// So many records before the tail.
    Last(u64),
    /// Exactly where an earlier delivery said `next`.
    Position(Position),
}

/// What to subscribe to, and how.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    /// The topic.
    pub topic: String,
    /// Where to start.
    pub start: Start,
    /// What to do where the start, or the place to resume at, is no longer in the topic.
    pub out_of_range: v1::OutOfRangePolicy,
    /// When to end by itself.
    pub limit: Option<v1::ReadLimit>,
    /// Longest silence of the server, 1 s to 10 min; after three of them the connection is dead.
    pub heartbeat_interval: Duration,
    /// How patiently a broken connection is mended.
    pub retry: RetryPolicy,
}

impl SubscriberOptions {
    /// The defaults: no end, a heartbeat every 15 s.
    #[must_use]
    pub fn new(topic: impl Into<String>, start: Start) -> Self {
        Self {
            topic: topic.into(),
            start,
            out_of_range: v1::OutOfRangePolicy::Fail,
            limit: None,
            heartbeat_interval: Duration::from_secs(15),
            retry: RetryPolicy::default(),
        }
    }

    /// Everything there is, and what comes.
    #[must_use]
    pub fn from_earliest(topic: impl Into<String>) -> Self {
        Self::new(topic, Start::Earliest)
    }
}

/// As telemetry names the call.
const SUBSCRIBE: &str = "streamway.v1.StreamService/Subscribe";

/// Heartbeats that may be missing before the connection counts as dead.
const HEARTBEATS_MISSING_MAX: u32 = 3;

type Call = Pin<Box<dyn Future<Output = Result<Response<Streaming<SubscribeResponse>>, Status>> + Send>>;

enum State {
    /// No call; the next one begins at this time.
    Waiting(Instant),
    /// A call was sent and not answered.
    Calling(Call, Endpointed),
    /// Deliveries arrive.
    Open(Box<Streaming<SubscribeResponse>>, Endpointed),
    /// Nothing more comes.
    Ended,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Calling(..) => "Calling",
            Self::Open(..) => "Open",
            Self::Ended => "Ended",
        })
    }
}

/// A subscription that resumes by itself.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    topic: String,
    cursor: Cursor,
    backoff: Backoff,
    state: State,
    silence_max: Duration,
    heartbeat_interval: Duration,
    /// Heartbeats in a row that told of records and brought none.
    held_up: u32,
    /// Since when the server owes a message: not while the caller is busy with the last one.
    waiting_since: Option<Instant>,
}

impl Subscriber {
    pub(super) fn new(client: Client, options: SubscriberOptions) -> Self {
        Self {
            cursor: Cursor::new(&options),
            backoff: client.backoff(options.retry),
            client,
            state: State::Waiting(Instant::now()),
            silence_max: options.heartbeat_interval.saturating_mul(HEARTBEATS_MISSING_MAX),
            heartbeat_interval: options.heartbeat_interval,
            held_up: 0,
            waiting_since: None,
            topic: options.topic,
        }
    }

    /// The position just after the last delivery; none before the first.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.cursor.position()
    }

    /// The next delivery. None once a limit was reached, or after an error: an error that
    /// repeating cannot mend is returned once. Cancel-safe: nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            match self.step().await {
                Step::On => {}
                Step::Message(message) => {
                    let delivery = self.deliver(message);
                    if let Some(error) = self.stalled()
                        && let Some(error) = self.broken(error)
                    {
                        return Some(Err(error));
                    }
                    return Some(delivery);
                }
                Step::Finished => self.enter(State::Ended),
                Step::Broken(error) => {
                    if let Some(error) = self.broken(error) {
                        return Some(Err(error));
                    }
                }
            }
            if matches!(self.state, State::Ended) {
                return None;
            }
        }
    }

    /// The deliveries as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Delivery, Error>> + Send {
        futures_util::stream::unfold(self, async |mut subscriber| {
            let delivery = subscriber.next().await?;
            Some((delivery, subscriber))
        })
    }

    /// Awaits one thing; all that must outlive a cancelled await is kept in `state`.
    async fn step(&mut self) -> Step {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = tokio::time::Instant::from_std(since + self.silence_max);
        let silent = |url: &str| Step::Broken(Error::transport(format!("{url} fell silent")));
        match &mut self.state {
            State::Ended => Step::Finished,
            State::Waiting(until) => {
                tokio::time::sleep_until((*until).into()).await;
                let call = self.call();
                self.enter(call);
                Step::On
            }
            State::Calling(call, endpoint) => match tokio::time::timeout_at(deadline, call).await {
                Ok(Ok(answer)) => {
                    let offset = self.cursor.position().map(|position| position.offset.get());
                    debug!(topic = self.topic, server = endpoint.url, offset, "subscription opened");
                    let open = State::Open(Box::new(answer.into_inner()), endpoint.clone());
                    self.enter(open);
                    Step::On
                }
                Ok(Err(status)) => Step::Broken(Error::from_status(&status, &endpoint.url)),
                Err(_) => silent(&endpoint.url),
            },
            State::Open(stream, endpoint) => {
                match tokio::time::timeout_at(deadline, stream.message()).await {
                    Ok(Ok(Some(message))) => Step::Message(message),
                    // An end without trailers is a cut, not a status.
                    Ok(Ok(None)) => match stream.trailers().await {
                        Ok(Some(_)) if self.cursor.is_limited() => Step::Finished,
                        _ => {
                            Step::Broken(Error::transport(format!("{} ended the subscription", endpoint.url)))
                        }
                    },
                    Ok(Err(status)) => Step::Broken(Error::from_status(&status, &endpoint.url)),
                    Err(_) => silent(&endpoint.url),
                }
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.waiting_since = None;
    }

    fn call(&self) -> State {
        let endpoint = self.client.endpoint(SUBSCRIBE, Some(&self.topic));
        let mut streams = self.client.streams(&endpoint);
        let request = self.cursor.request();
        State::Calling(Box::pin(async move { streams.subscribe(request).await }), endpoint)
    }

    fn deliver(&mut self, message: SubscribeResponse) -> Result<Delivery, Error> {
        self.waiting_since = None;
        if self.cursor.is_held_up(&message) {
            self.held_up = self.held_up.saturating_add(1);
            return self.take(message);
        }
        self.held_up = 0;
        if !self.backoff.is_well() {
            let offset = self.cursor.position().map(|position| position.offset.get());
            info!(topic = self.topic, offset, "the subscription goes on");
        }
        self.backoff.progress();
        self.take(message)
    }

    fn take(&mut self, message: SubscribeResponse) -> Result<Delivery, Error> {
        if let Err(error) = self.cursor.accept(&message) {
            self.enter(State::Ended);
            return Err(error);
        }
        if matches!(message.notice, Notice::Draining | Notice::MaxAge) {
            debug!(topic = self.topic, notice = ?message.notice, "the server will end the subscription");
        }
        Ok(Delivery::new(message))
    }

    /// Heartbeats came for as long as our patience lasts, and not one of the records that are there.
    fn stalled(&mut self) -> Option<Error> {
        let State::Open(_, endpoint) = &self.state else { return None };
        // Counted and not timed: a caller that does not ask for long has not waited so long.
        let stalled = self.heartbeat_interval.saturating_mul(self.held_up);
        if stalled < self.backoff.stall_max() {
            return None;
        }
        self.held_up = 0;
        let url = &endpoint.url;
        let error = format!(
            "{url} has delivered none of the records that are there for {}",
            humantime::format_duration(stalled)
        );
        self.backoff.stalled(Instant::now(), stalled);
        Some(Error::transport(error))
    }

    /// Prepares to resume, or says why that cannot help.
    fn broken(&mut self, error: Error) -> Option<Error> {
        if self.cursor.is_complete() {
            self.enter(State::Ended);
            return None;
        }
        let error = match &self.state {
            State::Calling(_, endpoint) | State::Open(_, endpoint) => self.client.reconsider(error, endpoint),
            State::Waiting(_) | State::Ended => error,
        };
        let (now, first) = (Instant::now(), self.backoff.is_well());
        let Some(delay) = self.backoff.delay(&error, now) else {
            self.enter(State::Ended);
            return Some(error);
        };
        if let State::Calling(_, endpoint) | State::Open(_, endpoint) = &self.state {
            self.client.move_on(endpoint.index);
        }
        let (topic, error, delay_ms) = (&self.topic, error.message(), delay.as_millis() as u64);
        // An outage is told of once; every further attempt is a detail of it.
        if first {
            warn!(topic, error, delay_ms, "the subscription is interrupted, will resume");
        } else {
            debug!(topic, error, delay_ms, "still interrupted");
        }
        self.enter(State::Waiting(now + delay));
        None
    }
}

/// What one await of a subscription came to.
enum Step {
    On,
    Message(SubscribeResponse),
    Finished,
    Broken(Error),
}
