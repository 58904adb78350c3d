//! The subscription as the application uses it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::Stream;
use tonic::{Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::delivery::Delivery;
use super::options::SubscriberOptions;
use super::resume::Cursor;
use crate::client::connector::{Connector, Target};
use crate::client::error::Error;
use crate::client::retry::Retry;
use crate::proto::v1::Notice;
use crate::record::Position;
use crate::wire::SubscribeResponse;

/// Name of the call in telemetry.
const SUBSCRIBE: &str = "streamway.v1.StreamService/Subscribe";

/// Missing heartbeats after which the connection counts as broken.
const HEARTBEATS_MISSING_MAX: u32 = 3;

type Call = Pin<Box<dyn Future<Output = Result<Response<Streaming<SubscribeResponse>>, Status>> + Send>>;

enum State {
    /// There is no call; the next one begins at this time.
    Waiting(Instant),
    /// A call was sent and not answered.
    Calling(Call, Target),
    /// Deliveries arrive.
    Open(Box<Streaming<SubscribeResponse>>, Target),
    /// The subscription has ended.
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

/// A subscription that resumes after a failure.
#[derive(Debug)]
pub struct Subscriber {
    connector: Connector,
    topic: String,
    cursor: Cursor,
    retry: Retry,
    state: State,
    silence_max: Duration,
    heartbeat_interval: Duration,
    /// Consecutive heartbeats while there were records that were not delivered.
    stalled_heartbeats: u32,
    /// Time since which a message is awaited; none while the caller processes the last one.
    waiting_since: Option<Instant>,
}

impl Subscriber {
    pub(crate) fn new(connector: Connector, options: SubscriberOptions) -> Self {
        Self {
            cursor: Cursor::new(&options),
            retry: connector.retry(options.retry),
            connector,
            state: State::Waiting(Instant::now()),
            silence_max: options.heartbeat_interval.saturating_mul(HEARTBEATS_MISSING_MAX),
            heartbeat_interval: options.heartbeat_interval,
            stalled_heartbeats: 0,
            waiting_since: None,
            topic: options.topic,
        }
    }

    /// The position after the last delivery; none before the first.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.cursor.position()
    }

    /// Waits for the next delivery; none once a limit was reached, or after an error. Errors that are retryable are not
    /// returned. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            match self.step().await {
                Step::Continue => {}
                Step::Message(message) => {
                    let delivery = self.deliver(message);
                    if let Some(error) = self.stalled()
                        && let Some(error) = self.resume_after(error)
                    {
                        return Some(Err(error));
                    }
                    return Some(delivery);
                }
                Step::Finished => self.enter(State::Ended),
                Step::Broken(error) => {
                    if let Some(error) = self.resume_after(error) {
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

    /// Waits for one event. Everything that must outlive a cancelled wait is in `state`.
    async fn step(&mut self) -> Step {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = tokio::time::Instant::from_std(since + self.silence_max);
        let silent = |url: &str| Step::Broken(Error::transport(format!("{url} has sent nothing in time")));
        match &mut self.state {
            State::Ended => Step::Finished,
            State::Waiting(due) => {
                tokio::time::sleep_until((*due).into()).await;
                let call = self.call();
                self.enter(call);
                Step::Continue
            }
            State::Calling(call, target) => match tokio::time::timeout_at(deadline, call).await {
                Ok(Ok(answer)) => {
                    let offset = self.cursor.position().map(|position| position.offset.get());
                    debug!(topic = self.topic, server = target.url, offset, "subscription opened");
                    let open = State::Open(Box::new(answer.into_inner()), target.clone());
                    self.enter(open);
                    Step::Continue
                }
                Ok(Err(status)) => Step::Broken(Error::from_status(&status, &target.url)),
                Err(_) => silent(&target.url),
            },
            State::Open(stream, target) => {
                match tokio::time::timeout_at(deadline, stream.message()).await {
                    Ok(Ok(Some(message))) => Step::Message(message),
                    // An end without trailers is a broken connection, not a status.
                    Ok(Ok(None)) => match stream.trailers().await {
                        Ok(Some(_)) if self.cursor.is_limited() => Step::Finished,
                        _ => Step::Broken(Error::transport(format!("{} ended the subscription", target.url))),
                    },
                    Ok(Err(status)) => Step::Broken(Error::from_status(&status, &target.url)),
                    Err(_) => silent(&target.url),
                }
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.waiting_since = None;
    }

    fn call(&mut self) -> State {
        let target = self.connector.target(SUBSCRIBE, Some(&self.topic));
        let mut streams = self.connector.streams(&target);
        let request = self.cursor.request();
        State::Calling(Box::pin(async move { streams.subscribe(request).await }), target)
    }

    fn deliver(&mut self, message: SubscribeResponse) -> Result<Delivery, Error> {
        self.waiting_since = None;
        if self.cursor.is_stalled(&message) {
            self.stalled_heartbeats = self.stalled_heartbeats.saturating_add(1);
            return self.accept(message);
        }
        self.stalled_heartbeats = 0;
        if !self.retry.is_well() {
            let offset = self.cursor.position().map(|position| position.offset.get());
            info!(topic = self.topic, offset, "the subscription continues");
        }
        self.retry.progress();
        self.accept(message)
    }

    fn accept(&mut self, message: SubscribeResponse) -> Result<Delivery, Error> {
        if let Err(error) = self.cursor.accept(&message) {
            self.enter(State::Ended);
            return Err(error);
        }
        if matches!(message.notice, Notice::Draining | Notice::MaxAge) {
            debug!(topic = self.topic, notice = ?message.notice, "the server will end the subscription");
        }
        Ok(Delivery::new(message))
    }

    /// Returns an error once heartbeats have come for longer than the retry limit while no record was delivered although
    /// there are some.
    fn stalled(&mut self) -> Option<Error> {
        let State::Open(_, target) = &self.state else { return None };
        // Heartbeats are counted, as the time since the last one includes the time that the caller was busy.
        let stalled = self.heartbeat_interval.saturating_mul(self.stalled_heartbeats);
        if stalled < self.retry.stall_max() {
            return None;
        }
        self.stalled_heartbeats = 0;
        let url = &target.url;
        let error = format!(
            "{url} has delivered no record for {} although there are some",
            humantime::format_duration(stalled)
        );
        self.retry.stalled(Instant::now(), stalled);
        Some(Error::transport(error))
    }

    /// Prepares to resume the call, or returns the error where that cannot help.
    fn resume_after(&mut self, error: Error) -> Option<Error> {
        if self.cursor.is_complete() {
            self.enter(State::Ended);
            return None;
        }
        let error = match &self.state {
            State::Calling(_, target) | State::Open(_, target) => self.connector.failed(error, target),
            State::Waiting(_) | State::Ended => error,
        };
        let (now, first) = (Instant::now(), self.retry.is_well());
        let Some(delay) = self.retry.delay(&error, now) else {
            self.enter(State::Ended);
            return Some(error);
        };
        if let State::Calling(_, target) | State::Open(_, target) = &self.state {
            self.connector.move_on(target.index);
        }
        let (topic, error, delay_ms) = (&self.topic, error.message(), delay.as_millis() as u64);
        // An outage is logged once at this level; further attempts are details.
        if first {
            warn!(topic, error, delay_ms, "the subscription is interrupted, will resume");
        } else {
            debug!(topic, error, delay_ms, "still interrupted");
        }
        self.enter(State::Waiting(now + delay));
        None
    }
}

/// The outcome of one wait.
enum Step {
    Continue,
    Message(SubscribeResponse),
    Finished,
    Broken(Error),
}
