//! THE subscription loop: history, then live, through one path; notices, heartbeats, limits, the end.
//! Never: a task, a channel or a buffer of its own. What it waits for is boxed only while it waits,
//! so that an idle subscription costs little.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::limit::{self, Remaining};
use super::start::{self, Subscribe};
use super::{Cause, Error, OutOfRange, ShutdownSignal, Topics};
use crate::record::block::{Blocks, runs_starting_at};
use crate::record::walk::Malformed;
use crate::record::{Offset, Position, UnixMicros};
use crate::storage::{self, BoxFuture, Chunk, TopicLog};
use crate::telemetry::{METRICS, Reader, trace};

/// Bytes of one delivery to a subscriber that keeps up.
const LIVE_BYTES: usize = 64 << 10;
/// Bytes of one delivery from disk: larger reads are cheaper by the byte.
const LAGGING_BYTES: usize = 256 << 10;
/// Most runs of one delivery; each is a reference count.
const RUNS_MAX: usize = 64;
/// How long after its time limit a subscription at the tail ends: a batch stored before that time
/// may be durable a little later.
const UNTIL_GRACE: Duration = Duration::from_secs(1);

/// One message to a subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Runs of blocks, to be sent end to end; none in a heartbeat and in a bare notice.
    pub runs: Vec<Bytes>,
    /// Resume here.
    pub next: Position,
    /// The tail as of this message.
    pub tail: Offset,
    /// Something worth knowing.
    pub notice: Option<Notice>,
}

/// Something worth knowing about a point of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// What follows is live.
    CaughtUp,
    /// Records were skipped.
    Gap,
    /// The server is shutting down.
    Draining,
    /// The subscription is as old as it may get.
    MaxAge,
}

impl Notice {
    /// What is said before a call ends, where it is not the status's alone.
    #[must_use]
    pub const fn of(cause: Cause) -> Option<Self> {
        match cause {
            Cause::Draining => Some(Self::Draining),
            Cause::MaxAge => Some(Self::MaxAge),
            Cause::IdentityExpired | Cause::PermissionWithdrawn => None,
        }
    }
}

/// A subscription to one topic. Ends after an error.
pub struct Subscription {
    topics: Topics,
    topic: Arc<dyn TopicLog>,
    shutdown: ShutdownSignal,
    next: Offset,
    /// What was stored before this is left out, until the first batch that was not.
    not_before: Option<UnixMicros>,
    out_of_range: OutOfRange,
    heartbeat_interval: Duration,
    /// When silence has lasted long enough.
    due: Instant,
    limit: Option<Box<Remaining>>,
    work: Work,
    rest: Option<Rest>,
    gap: bool,
    caught_up: bool,
    /// Whether it was at the tail since it last read from disk.
    live: bool,
    reader: Reader,
    /// Whether any message was sent.
    begun: bool,
    end_told: bool,
    ended: bool,
}

/// What is under way.
enum Work {
    Nothing,
    /// For the tail to move.
    Waiting(BoxFuture<'static, ()>),
    Reading(BoxFuture<'static, Result<Chunk, storage::Error>>),
    /// The topic is gone: finding out why.
    Losing(BoxFuture<'static, Error>),
}

/// What else a waiting subscription waits for.
struct Rest {
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// A step of the loop: go round again, or hand this out.
enum Step {
    Again,
    Out(Option<Result<Delivery, Error>>),
}

impl Subscription {
    pub(super) async fn start(
        topics: Topics,
        topic: Arc<dyn TopicLog>,
        request: Subscribe,
        shutdown: ShutdownSignal,
    ) -> Result<Self, Error> {
        let (next, gap) = start::resolve(&*topic, &request).await?;
        let limit =
            (!request.limit.is_none()).then(|| Box::new(Remaining::new(&request.limit, next, topic.tail())));
        let heartbeat_interval = request.heartbeat_interval.unwrap_or(topics.heartbeat_interval());
        let asked = Arc::clone(&topic);
        let reader = METRICS.readers.open(topic.name().as_str(), next.get(), move || asked.tail().get());
        let mut subscription = Self {
            topics,
            topic,
            shutdown,
            next,
            not_before: request.not_before(),
            out_of_range: request.out_of_range,
            heartbeat_interval,
            due: Instant::now(),
            limit,
            work: Work::Nothing,
            rest: None,
            gap,
            caught_up: false,
            live: false,
            reader,
            begun: false,
            end_told: false,
            ended: false,
        };
        subscription.put_off_heartbeat();
        Ok(subscription)
    }

    /// What it reads.
    #[must_use]
    pub fn topic(&self) -> &dyn TopicLog {
        &*self.topic
    }

    /// The same, to be kept.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TopicLog> {
        Arc::clone(&self.topic)
    }

    /// Where to resume.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.topic.epoch(), offset: self.next }
    }

    /// The next message; none once a limit was reached. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, Error>>> {
        loop {
            let step = match self.before_reading() {
                Step::Again => self.poll_work(cx),
                out => Poll::Ready(out),
            };
            match step {
                Poll::Ready(Step::Again) => {}
                Poll::Ready(Step::Out(out)) => {
                    self.ended |= !matches!(out, Some(Ok(_)));
                    return Poll::Ready(out);
                }
                Poll::Pending => match self.poll_rest(cx) {
                    Poll::Ready(Step::Again) => {}
                    Poll::Ready(Step::Out(out)) => return Poll::Ready(out),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// What comes before any record: the end, a gap.
    fn before_reading(&mut self) -> Step {
        if self.ended {
            return Step::Out(None);
        }
        if let Some(cause) = self.shutdown.cause() {
            if std::mem::replace(&mut self.end_told, true) {
                return Step::Out(Some(Err(cause.into())));
            }
            return self.bare(Notice::of(cause));
        }
        if std::mem::take(&mut self.gap) {
            return self.bare(Some(Notice::Gap));
        }
        if self.limit.as_ref().is_some_and(|limit| limit.is_reached()) {
            if self.begun {
                return Step::Out(None);
            }
            let caught_up = (self.next >= self.topic.tail()).then_some(Notice::CaughtUp);
            return self.bare(caught_up);
        }
        Step::Again
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let step = match &mut self.work {
            Work::Nothing => return Poll::Ready(self.begin_work()),
            Work::Waiting(wait) => wait.as_mut().poll(cx).map(|()| Step::Again),
            Work::Losing(reason) => reason.as_mut().poll(cx).map(|error| Step::Out(Some(Err(error)))),
            Work::Reading(read) => match read.as_mut().poll(cx) {
                Poll::Ready(Ok(chunk)) => Poll::Ready(self.deliver(chunk)),
                Poll::Ready(Err(error)) => return Poll::Ready(self.read_refused(error)),
                Poll::Pending => Poll::Pending,
            },
        };
        if step.is_ready() {
            self.work = Work::Nothing;
        }
        step
    }

    /// Delivers from memory, or begins to read or to wait.
    fn begin_work(&mut self) -> Step {
        if self.topic.is_deleted() {
            return self.lose();
        }
        if self.next >= self.topic.tail() {
            return self.at_tail();
        }
        let wanted = self.limit.as_ref().map_or(usize::MAX, |limit| limit.bytes_wanted());
        if let Some(chunk) = self.read_cached(LIVE_BYTES.min(wanted)) {
            METRICS.readers.memory.inc();
            return self.deliver(chunk);
        }
        METRICS.readers.disk.inc();
        if std::mem::take(&mut self.live) {
            METRICS.readers.fallbacks.inc();
        }
        let (topic, from, bytes) = (Arc::clone(&self.topic), self.next, LAGGING_BYTES.min(wanted));
        self.work = Work::Reading(Box::pin(async move { topic.read(from, bytes).await }));
        Step::Again
    }

    /// What is ready in memory, in one piece: many small batches make one message.
    fn read_cached(&self, bytes_max: usize) -> Option<Chunk> {
        let mut chunk = self.topic.read_cached(self.next, bytes_max)?;
        let mut bytes = chunk.bytes();
        while bytes < bytes_max && chunk.runs.len() < RUNS_MAX {
            match self.topic.read_cached(chunk.next, bytes_max - bytes) {
                Some(more) if !more.runs.is_empty() && bytes + more.bytes() <= 2 * bytes_max => {
                    bytes += more.bytes();
                    chunk.records += more.records;
                    chunk.next = more.next;
                    chunk.runs.extend(more.runs);
                }
                _ => break,
            }
        }
        Some(chunk)
    }

    fn at_tail(&mut self) -> Step {
        self.live = true;
        self.reader.caught_up(self.next.get());
        if !std::mem::replace(&mut self.caught_up, true) {
            return self.bare(Some(Notice::CaughtUp));
        }
        if let Some(limit) = &mut self.limit
            && limit.until().is_some_and(|until| until_left(until).is_zero())
        {
            limit.end();
            return Step::Again;
        }
        let (topic, next) = (Arc::clone(&self.topic), self.next);
        self.work = Work::Waiting(Box::pin(async move { topic.wait_beyond(next).await }));
        Step::Again
    }

    fn deliver(&mut self, mut chunk: Chunk) -> Step {
        if let Err(Malformed(reason)) = self.cut(&mut chunk) {
            return Step::Out(Some(Err(storage::Error::Damaged(reason.to_owned()).into())));
        }
        self.next = self.next.max(chunk.next);
        if chunk.runs.is_empty() {
            return Step::Again;
        }
        let tail = self.topic.tail();
        self.count(&chunk, tail);
        let caught_up = self.next >= tail && !self.caught_up;
        self.caught_up |= caught_up;
        self.message(chunk.runs, tail, caught_up.then_some(Notice::CaughtUp))
    }

    fn count(&mut self, chunk: &Chunk, tail: Offset) {
        if trace::is_on() {
            self.trace(chunk);
        }
        let counts = self.reader.topic();
        counts.delivered_records.add(chunk.records);
        counts.delivered_bytes.add(chunk.bytes() as u64);
        counts.delivered_messages.inc();
        if self.next >= tail {
            self.live = true;
            self.reader.caught_up(self.next.get());
        } else {
            // What comes next was stored at about the time of what is delivered now.
            let last = chunk.runs.last().and_then(|run| Blocks::new(run).next()?.ok());
            self.reader.behind(self.next.get(), last.map_or(0, |block| block.time().0));
        }
    }

    /// A span for each sampled batch. A traceparent is the last field of its block.
    fn trace(&self, chunk: &Chunk) {
        for block in chunk.runs.iter().flat_map(|run| Blocks::new(run)).map_while(Result::ok) {
            if !block.may_be_traced() {
                continue;
            }
            if let Ok(traceparent) = std::str::from_utf8(block.traceparent()) {
                let topic = self.topic.name().as_str();
                trace::delivered(topic, traceparent, block.first.get(), block.time().0);
            }
        }
    }

    fn cut(&mut self, chunk: &mut Chunk) -> Result<(), Malformed> {
        if chunk.first < self.next && !chunk.runs.is_empty() {
            chunk.runs = runs_starting_at(&chunk.runs, self.next)?;
            chunk.records = chunk.records.saturating_sub(self.next.since(chunk.first));
            chunk.first = self.next;
        }
        if let Some(time) = self.not_before {
            limit::stored_from(chunk, time)?;
            self.not_before = self.not_before.filter(|_| chunk.runs.is_empty());
        }
        self.limit.as_mut().map_or(Ok(()), |limit| limit.cut(chunk))
    }

    fn read_refused(&mut self, error: storage::Error) -> Step {
        self.work = Work::Nothing;
        if error == storage::Error::TopicNotFound {
            return self.lose();
        }
        match self.out_of_range.apply(error, &*self.topic) {
            Ok(offset) => {
                (self.next, self.gap) = (offset, true);
                if let Some(limit) = &mut self.limit {
                    limit.skip_to(offset);
                }
                Step::Again
            }
            Err(error) => Step::Out(Some(Err(error))),
        }
    }

    fn lose(&mut self) -> Step {
        let (topics, topic) = (self.topics.clone(), Arc::clone(&self.topic));
        self.work = Work::Losing(Box::pin(async move { topics.why_gone(topic.name(), topic.epoch()).await }));
        Step::Again
    }

    /// Polled only where nothing else is ready: heartbeat and the end.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let waiting = matches!(self.work, Work::Waiting(_));
        let until = self.limit.as_ref().and_then(|limit| limit.until()).filter(|_| waiting);
        let wake = until.map_or(self.due, |until| self.due.min(Instant::now() + until_left(until)));
        let rest = self.rest.get_or_insert_with(|| Rest {
            timer: Box::pin(tokio::time::sleep_until(wake)),
            shutdown: Box::pin(self.shutdown.cancelled()),
        });
        if rest.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Step::Again);
        }
        // It may have been set before there was a time limit to wait for.
        if wake < rest.timer.deadline() {
            rest.timer.as_mut().reset(wake);
        }
        while rest.timer.as_mut().poll(cx).is_ready() {
            // Deliveries put the heartbeat off without touching the timer.
            rest.timer.as_mut().reset(wake);
            if until.is_some_and(|until| until_left(until).is_zero()) {
                // Looks at the tail once more, and ends there.
                self.work = Work::Nothing;
                return Poll::Ready(Step::Again);
            }
            if Instant::now() >= self.due {
                METRICS.readers.heartbeats.inc();
                return Poll::Ready(self.bare(None));
            }
        }
        Poll::Pending
    }

    fn put_off_heartbeat(&mut self) {
        let jitter = 0.9 + 0.2 * fastrand::f64();
        self.due = Instant::now() + self.heartbeat_interval.mul_f64(jitter);
    }

    fn bare(&mut self, notice: Option<Notice>) -> Step {
        self.message(Vec::new(), self.topic.tail(), notice)
    }

    fn message(&mut self, runs: Vec<Bytes>, tail: Offset, notice: Option<Notice>) -> Step {
        self.begun = true;
        self.put_off_heartbeat();
        // The tail never lies before what was delivered.
        let tail = tail.max(self.next);
        Step::Out(Some(Ok(Delivery { runs, next: self.position(), tail, notice })))
    }
}

/// How long until no batch stored before `until` can become durable any more.
fn until_left(until: UnixMicros) -> Duration {
    let (end, now) = (Duration::from_micros(until.0) + UNTIL_GRACE, UnixMicros::now().0);
    end.saturating_sub(Duration::from_micros(now)).min(FAR)
}

/// Longer than any subscription; keeps sums of times in range.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("next", &self.next).finish_non_exhaustive()
    }
}
