//! The subscription loop: stored records and then live ones through one path, notices, heartbeats, limits and the end.
//! A subscription has no task, channel or buffer of its own. Futures are boxed only while it waits for them, so that an
//! idle subscription costs little.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::delivery::{Delivery, Notice};
use super::error::Error;
use super::limit::{self, Remaining};
use super::shutdown::ShutdownSignal;
use super::start::{self, OutOfRange, Subscribe};
use super::timers::{Event, Timers, time_left};
use crate::record::block::{Blocks, runs_starting_at};
use crate::record::walk::Malformed;
use crate::record::{Offset, Position, UnixMicros};
use crate::storage::{self, BoxFuture, Chunk, Log, TopicLog};
use crate::telemetry::{METRICS, Reader, ReaderLag, trace};

/// Size of one delivery from memory, in bytes.
const LIVE_BYTES: usize = 64 << 10;
/// Size of one delivery from disk, in bytes. Larger reads cost less per byte.
const LAGGING_BYTES: usize = 256 << 10;
/// Largest number of runs in one delivery. Each costs a reference count.
const RUNS_MAX: usize = 64;

/// A subscription to one topic. It ends after an error.
pub struct Subscription {
    log: Arc<dyn Log>,
    topic: Arc<dyn TopicLog>,
    shutdown: ShutdownSignal,
    next: Offset,
    /// Batches stored before this time are skipped, up to the first one that was not.
    not_before: Option<UnixMicros>,
    out_of_range: OutOfRange,
    limit: Option<Box<Remaining>>,
    timers: Timers,
    work: Work,
    phase: Phase,
    /// Records were skipped, which the next message says.
    gap: bool,
    /// The tail has been reached since the last read from disk.
    was_at_tail: bool,
    reader: Reader,
}

/// The progress of a subscription. It only ever advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// No message was sent.
    New,
    /// Messages were sent, and the tail was not reached.
    CatchingUp,
    /// The subscriber was told that the tail was reached.
    CaughtUp,
    /// The subscriber was told that the subscription will end.
    ShuttingDown,
    Ended,
}

/// The operation in progress.
enum Work {
    None,
    /// Waiting for the tail to move.
    Waiting(BoxFuture<'static, ()>),
    Reading(BoxFuture<'static, Result<Chunk, storage::Error>>),
    /// Finding out why the topic is gone.
    Gone(BoxFuture<'static, Error>),
}

/// The outcome of one round of the loop.
enum Step {
    Continue,
    Return(Option<Result<Delivery, Error>>),
}

impl Subscription {
    pub(super) async fn start(
        log: Arc<dyn Log>,
        topic: Arc<dyn TopicLog>,
        request: Subscribe,
        default_heartbeat: Duration,
        shutdown: ShutdownSignal,
    ) -> Result<Self, Error> {
        let (next, gap) = start::resolve(&*topic, &request).await?;
        let limit =
            (!request.limit.is_none()).then(|| Box::new(Remaining::new(&request.limit, next, topic.tail())));
        let asked = Arc::clone(&topic);
        let counts = METRICS.topics.of(topic.name().as_str());
        let reader = METRICS.readers.open(counts, next.get(), move || asked.tail().get());
        Ok(Self {
            log,
            topic,
            shutdown,
            next,
            not_before: request.not_before(),
            out_of_range: request.out_of_range,
            limit,
            timers: Timers::new(request.heartbeat_interval.unwrap_or(default_heartbeat)),
            work: Work::None,
            phase: Phase::New,
            gap,
            was_at_tail: false,
            reader,
        })
    }

    /// The topic of the subscription.
    #[must_use]
    pub fn topic(&self) -> &dyn TopicLog {
        &*self.topic
    }

    /// A handle to the topic of the subscription.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TopicLog> {
        Arc::clone(&self.topic)
    }

    /// The position to resume at.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.topic.epoch(), offset: self.next }
    }

    /// A handle to the lag of the subscription.
    #[must_use]
    pub fn lag(&self) -> ReaderLag {
        self.reader.lag()
    }

    /// Waits for the next message; none once a limit was reached. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next message, as [`Self::next`] does.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, Error>>> {
        loop {
            let step = match self.before_reading() {
                Step::Continue => self.poll_work(cx),
                out => Poll::Ready(out),
            };
            match step {
                Poll::Ready(Step::Continue) => {}
                Poll::Ready(Step::Return(out)) => {
                    if !matches!(out, Some(Ok(_))) {
                        self.advance(Phase::Ended);
                    }
                    return Poll::Ready(out);
                }
                Poll::Pending => match self.poll_timers(cx) {
                    Poll::Ready(Step::Continue) => {}
                    Poll::Ready(Step::Return(out)) => return Poll::Ready(out),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Handles what comes before any record: the end, a notice of a gap, and limits.
    fn before_reading(&mut self) -> Step {
        if self.phase == Phase::Ended {
            return Step::Return(None);
        }
        if let Some(cause) = self.shutdown.cause() {
            if self.phase == Phase::ShuttingDown {
                return Step::Return(Some(Err(cause.into())));
            }
            self.advance(Phase::ShuttingDown);
            return self.without_records(Notice::of(cause));
        }
        if std::mem::take(&mut self.gap) {
            return self.without_records(Some(Notice::Gap));
        }
        if self.limit.as_ref().is_some_and(|limit| limit.is_reached()) {
            if self.phase != Phase::New {
                return Step::Return(None);
            }
            let caught_up = (self.next >= self.topic.tail()).then_some(Notice::CaughtUp);
            return self.without_records(caught_up);
        }
        Step::Continue
    }

    fn advance(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let step = match &mut self.work {
            Work::None => return Poll::Ready(self.start_work()),
            Work::Waiting(wait) => wait.as_mut().poll(cx).map(|()| Step::Continue),
            Work::Gone(reason) => reason.as_mut().poll(cx).map(|error| Step::Return(Some(Err(error)))),
            Work::Reading(read) => match read.as_mut().poll(cx) {
                Poll::Ready(Ok(chunk)) => Poll::Ready(self.deliver(chunk)),
                Poll::Ready(Err(error)) => return Poll::Ready(self.read_failed(error)),
                Poll::Pending => Poll::Pending,
            },
        };
        if step.is_ready() {
            self.work = Work::None;
        }
        step
    }

    /// Delivers from memory, or starts to read or to wait.
    fn start_work(&mut self) -> Step {
        if self.topic.is_deleted() {
            return self.find_why_gone();
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
        if std::mem::take(&mut self.was_at_tail) {
            METRICS.readers.fallbacks.inc();
        }
        let (topic, from, bytes) = (Arc::clone(&self.topic), self.next, LAGGING_BYTES.min(wanted));
        self.work = Work::Reading(Box::pin(async move { topic.read(from, bytes).await }));
        Step::Continue
    }

    /// Gathers the records that are in memory, so that many small batches make one message.
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
        self.was_at_tail = true;
        self.reader.caught_up(self.next.get());
        if self.phase < Phase::CaughtUp {
            self.advance(Phase::CaughtUp);
            return self.without_records(Some(Notice::CaughtUp));
        }
        if let Some(limit) = &mut self.limit
            && limit.until().is_some_and(|until| time_left(until).is_zero())
        {
            limit.end();
            return Step::Continue;
        }
        let (topic, next) = (Arc::clone(&self.topic), self.next);
        self.work = Work::Waiting(Box::pin(async move { topic.wait_beyond(next).await }));
        Step::Continue
    }

    fn deliver(&mut self, mut chunk: Chunk) -> Step {
        if let Err(Malformed(reason)) = self.cut(&mut chunk) {
            return Step::Return(Some(Err(storage::Error::Damaged(reason.to_owned()).into())));
        }
        self.next = self.next.max(chunk.next);
        if chunk.runs.is_empty() {
            return Step::Continue;
        }
        let tail = self.topic.tail();
        self.count(&chunk, tail);
        let caught_up = self.next >= tail && self.phase < Phase::CaughtUp;
        if caught_up {
            self.advance(Phase::CaughtUp);
        }
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
            self.was_at_tail = true;
            self.reader.caught_up(self.next.get());
        } else {
            // The next record was stored at about the time of the last one delivered.
            let last = chunk.runs.last().and_then(|run| Blocks::new(run).next()?.ok());
            self.reader.behind(self.next.get(), last.map_or(0, |block| block.time().0));
        }
    }

    /// Records a span for each sampled batch.
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

    fn read_failed(&mut self, error: storage::Error) -> Step {
        self.work = Work::None;
        if error == storage::Error::TopicNotFound {
            return self.find_why_gone();
        }
        match self.out_of_range.apply(error, &*self.topic) {
            Ok(offset) => {
                (self.next, self.gap) = (offset, true);
                if let Some(limit) = &mut self.limit {
                    limit.skip_to(offset);
                }
                Step::Continue
            }
            Err(error) => Step::Return(Some(Err(error))),
        }
    }

    fn find_why_gone(&mut self) -> Step {
        let (log, topic, next) = (Arc::clone(&self.log), Arc::clone(&self.topic), self.position());
        self.work = Work::Gone(Box::pin(async move { why_gone(&*log, &*topic, next).await }));
        Step::Continue
    }

    /// Waits for the timers, where nothing else is ready.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let waiting = matches!(self.work, Work::Waiting(_));
        let until = self.limit.as_ref().and_then(|limit| limit.until()).filter(|_| waiting);
        self.timers.poll(cx, &self.shutdown, until).map(|event| match event {
            Event::Shutdown => Step::Continue,
            Event::TimeLimit => {
                // Checks the tail once more, and ends there.
                self.work = Work::None;
                Step::Continue
            }
            Event::Heartbeat => {
                METRICS.readers.heartbeats.inc();
                self.without_records(None)
            }
        })
    }

    fn without_records(&mut self, notice: Option<Notice>) -> Step {
        self.message(Vec::new(), self.topic.tail(), notice)
    }

    fn message(&mut self, runs: Vec<Bytes>, tail: Offset, notice: Option<Notice>) -> Step {
        self.advance(Phase::CatchingUp);
        self.timers.postpone_heartbeat();
        // The tail is never before the records that were delivered.
        let tail = tail.max(self.next);
        Step::Return(Some(Ok(Delivery { runs, next: self.position(), tail, notice })))
    }
}

/// The reason why a topic is gone: it was deleted, or deleted and created again. If it was restored since and the
/// position is valid in it, the caller resumes there.
async fn why_gone(log: &dyn Log, topic: &dyn TopicLog, next: Position) -> Error {
    match log.get(topic.name()).await {
        Ok(current) if current.epoch() != topic.epoch() => {
            let state = current.state();
            let restored = storage::Error::Restoring { cut: state.lineage.cut() };
            state.lineage.offset(state.epoch, next).map_or_else(Error::from, |_| restored.into())
        }
        Ok(_) => storage::Error::TopicNotFound.into(),
        Err(error) => error.into(),
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("next", &self.next).finish_non_exhaustive()
    }
}
