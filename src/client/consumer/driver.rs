//! The consumer as an application uses it: runs handlers, and carries out over a call what `Core` decides.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{Id, JoinSet};
use tracing::{debug, info, warn};

use super::core::Core;
use super::link::{Event, Link, Wants, join};
use super::options::ConsumerOptions;
use super::received::{Handled, Received, Rejection};
use super::summary::Summary;
use crate::client::connector::Connector;
use crate::client::error::Error;
use crate::client::retry::Retry;
use crate::proto::v1::consume_request::Kind;
use crate::proto::v1::{Leave, Notice};

/// Reason of a session whose grace is over.
const SESSION_ENDED: &str = "SESSION_ENDED";
/// Time for the last settlements and for the answer to Leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A member of a group.
#[derive(Debug)]
pub struct Consumer {
    connector: Connector,
    options: ConsumerOptions,
}

impl Consumer {
    pub(crate) fn new(connector: Connector, options: ConsumerOptions) -> Result<Self, Error> {
        options.check()?;
        Ok(Self { connector, options })
    }

    /// Handles records until `stop` is ready or the limit of deliveries is reached, then finishes those that have begun,
    /// gives back the others, and leaves the group. `Ok` of the handler acknowledges a record; a handler that panics
    /// refuses it. Leases are extended while their handlers run, and errors that are retryable are not returned.
    ///
    /// # Errors
    /// The group does not exist, the caller may not use it, or the server was away for longer than the options allow.
    /// Handlers that run are aborted then.
    pub async fn run<H, F>(self, handler: H, stop: impl Future<Output = ()>) -> Result<Summary, Error>
    where
        H: Fn(Received) -> F,
        F: Future<Output = Handled> + Send + 'static,
    {
        let mut run = Run {
            core: Core::new(&self.options),
            retry: self.connector.retry(self.options.retry),
            link: Link::Waiting(Instant::now()),
            session: Bytes::new(),
            phase: Phase::Working,
            handlers: JoinSet::new(),
            ids: HashMap::new(),
            consumer: self,
        };
        let mut stop = pin!(stop);
        loop {
            run.spawn(&handler);
            if run.advance() {
                return Ok(run.core.summary());
            }
            let wakes_at = run.wakes_at();
            let wants = Wants { reads: !run.core.is_full(), writes: run.core.has_request() };
            let working = matches!(run.phase, Phase::Working);
            tokio::select! {
                () = &mut stop, if working => run.stop(),
                Some(ended) = run.handlers.join_next_with_id() => run.ended(ended),
                () = sleep_until(wakes_at), if wakes_at.is_some() => run.tick(),
                event = run.link.next(wants) => run.event(event)?,
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Stage of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Working,
    /// Handlers end until this time.
    Finishing(Instant),
    /// Settlements are answered until this time.
    Settling(Instant),
    /// Leave was sent; the call ends until this time.
    Leaving(Instant),
    Left,
}

/// A consumer at work.
struct Run {
    consumer: Consumer,
    core: Core,
    retry: Retry,
    link: Link,
    session: Bytes,
    phase: Phase,
    handlers: JoinSet<(u64, u64, Handled)>,
    /// The record of each handler, which its panic does not name.
    ids: HashMap<Id, (u64, u64)>,
}

impl Run {
    fn spawn<F>(&mut self, handler: impl Fn(Received) -> F)
    where
        F: Future<Output = Handled> + Send + 'static,
    {
        while let Some(record) = self.core.start() {
            let (fence, offset) = (record.fence(), record.offset().get());
            let handled = handler(record);
            let task = self.handlers.spawn(async move { (fence, offset, handled.await) });
            self.ids.insert(task.id(), (fence, offset));
        }
    }

    fn ended(&mut self, ended: Result<(Id, (u64, u64, Handled)), tokio::task::JoinError>) {
        match ended {
            Ok((id, (fence, offset, handled))) => {
                self.ids.remove(&id);
                self.core.finish(fence, offset, handled);
            }
            Err(error) => {
                let Some((fence, offset)) = self.ids.remove(&error.id()) else { return };
                let refusal = if error.is_panic() {
                    Rejection::retry("the handler panicked")
                } else {
                    Rejection::Return
                };
                self.core.finish(fence, offset, Err(refusal));
            }
        }
    }

    fn stop(&mut self) {
        debug!(topic = self.consumer.options.topic, "the consumer stops");
        self.core.stop();
        self.phase = Phase::Finishing(Instant::now() + self.consumer.options.stop_timeout);
    }

    fn wakes_at(&self) -> Option<Instant> {
        let of_phase = match self.phase {
            Phase::Working | Phase::Left => None,
            Phase::Finishing(at) | Phase::Settling(at) | Phase::Leaving(at) => Some(at),
        };
        of_phase.into_iter().chain(self.core.wakes_at()).min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.core.tick(now);
        match self.phase {
            Phase::Finishing(at) if at <= now => {
                warn!(topic = self.consumer.options.topic, "handlers have not ended in time and are aborted");
                self.core.abandon();
                self.handlers.abort_all();
            }
            Phase::Settling(at) | Phase::Leaving(at) if at <= now => {
                warn!(topic = self.consumer.options.topic, "the consumer could not leave its group in time");
                self.phase = Phase::Left;
            }
            _ => {}
        }
    }

    /// Goes on to the next stage of the end. Returns true at the end.
    fn advance(&mut self) -> bool {
        if self.phase == Phase::Working && self.core.is_done() {
            self.stop();
        }
        if matches!(self.phase, Phase::Finishing(_)) && self.core.is_idle() {
            self.phase = Phase::Settling(Instant::now() + LEAVE_TIMEOUT);
        }
        if matches!(self.phase, Phase::Settling(_)) && self.core.is_settled() {
            // Without a call there is nothing to leave: the session ends by itself.
            self.phase = if self.link.is_open() {
                self.link.send(Kind::Leave(Leave {}));
                Phase::Leaving(Instant::now() + LEAVE_TIMEOUT)
            } else {
                Phase::Left
            };
        }
        self.phase == Phase::Left
    }

    fn event(&mut self, event: Event) -> Result<(), Error> {
        let topic = &self.consumer.options.topic;
        match event {
            Event::Due => self.call(),
            Event::Joined(joined) => {
                if !self.retry.is_well() {
                    info!(topic, "the consumer continues");
                }
                self.retry.progress();
                self.session = joined.session.clone();
                self.core.joined(&joined, Instant::now());
            }
            Event::Message(message) => {
                if matches!(message.rest.notice(), Notice::Draining | Notice::MaxAge) {
                    debug!(topic, notice = ?message.rest.notice(), "the server will end the call");
                }
                self.retry.progress();
                self.core.receive(&message, Instant::now())?;
            }
            Event::Writable => {
                if let Some(kind) = self.core.request() {
                    self.link.send(kind);
                }
            }
            Event::Ended if matches!(self.phase, Phase::Leaving(_)) => self.phase = Phase::Left,
            Event::Ended => return self.resume_after(Error::transport("the server ended the call")),
            Event::Broken(error) => return self.resume_after(error),
        }
        Ok(())
    }

    fn call(&mut self) {
        let join = join(&self.consumer.options, self.session.clone());
        self.link = Link::call(&self.consumer.connector, join);
    }

    /// Prepares to make the call again, or returns the error where that cannot help.
    fn resume_after(&mut self, error: Error) -> Result<(), Error> {
        if matches!(self.phase, Phase::Leaving(_)) {
            self.phase = Phase::Left;
            return Ok(());
        }
        if error.reason() == Some(SESSION_ENDED) && !self.session.is_empty() {
            info!(topic = self.consumer.options.topic, "the session has ended: the consumer joins anew");
            self.session = Bytes::new();
            self.call();
            return Ok(());
        }
        let connector = &self.consumer.connector;
        let error = match self.link.target() {
            Some(target) => connector.failed(error, target),
            None => error,
        };
        let (now, first) = (Instant::now(), self.retry.is_well());
        let Some(delay) = self.retry.delay(&error, now) else { return Err(error) };
        if let Some(target) = self.link.target() {
            connector.move_on(target.index);
        }
        let (topic, error) = (&self.consumer.options.topic, error.message());
        let delay_ms = delay.as_millis() as u64;
        // An outage is logged once at this level; further attempts are details.
        if first {
            warn!(topic, error, delay_ms, "the consumer is interrupted, will resume");
        } else {
            debug!(topic, error, delay_ms, "still interrupted");
        }
        self.link = Link::Waiting(now + delay);
        Ok(())
    }
}
