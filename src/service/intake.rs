//! The publishes of one streaming call: those that are ready are handed to the log together, and receipts are collected in
//! order. Intake stops at the first fault, and acknowledges all before it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::quota::Quota;
use super::status::Error;
use crate::auth::Caller;
use crate::record::{Batch, Position, Receipt};
use crate::storage::TopicLog;
use crate::topic::{self, Cause, Connection, Publisher, ReceiptBudget, ShutdownSignal};

/// Most groups handed to the log in one poll, before the thread's other tasks run.
const GROUPS_MAX: usize = 8;
/// Most receipts of a message: some 60 bytes each, so that it fits a frame.
const RECEIPTS_MAX: usize = 1024;
/// Most receipts of a message while peers leave too much unread.
const RECEIPTS_MIN: usize = 128;

/// Reason why the call fails, once everything before it is acknowledged.
#[derive(Debug)]
pub(super) struct Fault {
    /// Number of the publish that failed, if one did.
    pub(super) number: Option<u64>,
    pub(super) error: Error,
}

/// Publishing half of a call.
pub(super) struct Intake {
    publisher: Publisher,
    /// Most publishes taken and not acknowledged.
    window: usize,
    /// Memory of the publishes until the client has read their receipts.
    unread: ReceiptBudget,
    /// Number of the last publish taken, counted from 1.
    taken: u64,
    /// Number of the last publish acknowledged.
    acknowledged: u64,
    /// End of the topic when the call began: nothing of the call is stored before it.
    start: Position,
    /// Just after the last durable batch of this call.
    durable: Option<Position>,
    fault: Option<Fault>,
    /// True while the client is read from.
    reading: bool,
    quota: Quota,
    shutdown: ShutdownSignal,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Intake {
    pub(super) fn new(
        topic: &dyn TopicLog,
        connection: Arc<Connection>,
        window: usize,
        (caller, shutdown): (Caller, ShutdownSignal),
    ) -> Self {
        let start = Position { epoch: topic.epoch(), offset: topic.tail() };
        let publisher = Publisher::new(topic, connection);
        Self {
            unread: publisher.receipt_budget(),
            publisher,
            window,
            taken: 0,
            acknowledged: 0,
            start,
            durable: None,
            fault: None,
            reading: true,
            quota: Quota::new(caller),
            ended: Box::pin(shutdown.cancelled()),
            shutdown,
        }
    }

    /// Number of the last publish acknowledged.
    pub(super) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Just after the last durable batch of this call.
    pub(super) const fn durable(&self) -> Option<Position> {
        self.durable
    }

    /// Position from which on nothing of this call is durable: where the client goes on after a failure.
    pub(super) fn resume(&self) -> Position {
        self.durable.unwrap_or(self.start)
    }

    /// Returns true once nothing more is read, and everything read was acknowledged or has failed.
    pub(super) const fn is_finished(&self) -> bool {
        !self.reading && self.publisher.unacknowledged() == 0
    }

    /// Returns true if the call will fail.
    pub(super) const fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Takes the reason why the call fails, once it is finished.
    pub(super) const fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Takes a publish that was read before the first poll.
    pub(super) fn take(&mut self, batch: Batch) {
        self.taken += 1;
        self.quota.take(&batch);
        self.publisher.push(batch);
    }

    /// Stops reading, and fails for this reason once all before it is acknowledged.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.reading = false;
        self.fault.get_or_insert(fault);
    }

    /// Does all that can be done without waiting. Appends to `receipts`; `check` makes a batch of the message with the
    /// given number.
    pub(super) fn poll<R, S>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut S,
        mut check: impl FnMut(R, u64) -> Result<Batch, Error>,
        receipts: &mut Vec<Receipt>,
    ) where
        S: Stream<Item = Result<R, Status>> + Unpin,
    {
        self.take_and_collect(cx, requests, &mut check, receipts);
        self.unread.set(self.publisher.unacknowledged());
    }

    fn take_and_collect<R, S>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut S,
        check: &mut impl FnMut(R, u64) -> Result<Batch, Error>,
        receipts: &mut Vec<Receipt>,
    ) where
        S: Stream<Item = Result<R, Status>> + Unpin,
    {
        let receipts_max = if self.unread.is_tight() { RECEIPTS_MIN } else { RECEIPTS_MAX };
        for _ in 0..GROUPS_MAX {
            self.collect(cx, receipts, receipts_max);
            if receipts.len() >= receipts_max {
                return;
            }
            self.read(cx, requests, check);
            self.quota.consume();
            let before = self.publisher.unflushed();
            if let Poll::Ready(Err(error)) = self.publisher.poll_flush(cx) {
                let number = self.taken - before as u64 + 1;
                // This batch came before the fault found behind it.
                self.fault = None;
                self.fail(Fault { number: Some(number), error: error.into() });
            }
            if before == 0 || self.publisher.unflushed() > 0 {
                return;
            }
        }
        if receipts.is_empty() {
            cx.waker().wake_by_ref();
        }
    }

    fn collect(&mut self, cx: &mut Context<'_>, receipts: &mut Vec<Receipt>, receipts_max: usize) {
        while receipts.len() < receipts_max {
            let Poll::Ready(Some(appended)) = self.publisher.poll_acknowledged(cx) else { return };
            self.acknowledged += appended.receipts.len() as u64;
            self.durable = appended.receipts.last().map(|last| last.next).or(self.durable);
            receipts.extend(appended.receipts);
            if let Some(error) = appended.failure {
                // All later ones were refused because of this one, which the client must know.
                self.fault = None;
                self.fail(Fault { number: Some(self.acknowledged + 1), error: error.into() });
                self.publisher.give_up();
            }
        }
    }

    /// Returns why the call must end, or registers to be woken when it must.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Option<Cause> {
        self.shutdown.cause().or_else(|| {
            let cancelled = self.ended.as_mut().poll(cx).is_ready();
            self.shutdown.cause().filter(|_| cancelled)
        })
    }

    fn read<R, S>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut S,
        check: &mut impl FnMut(R, u64) -> Result<Batch, Error>,
    ) where
        S: Stream<Item = Result<R, Status>> + Unpin,
    {
        if self.reading
            && let Some(cause) = self.poll_shutdown(cx)
        {
            self.fail(Fault { number: None, error: topic::Error::from(cause).into() });
        }
        let window = self.unread.window(self.window);
        while self.reading && !self.publisher.is_full() && self.publisher.unacknowledged() < window {
            if self.quota.poll_admit(cx).is_pending() {
                return;
            }
            let request = match Pin::new(&mut *requests).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => {
                    self.reading = false;
                    return;
                }
                Poll::Ready(Some(request)) => request.map_err(Error::Transport),
            };
            match request.and_then(|request| check(request, self.taken + 1)) {
                Ok(batch) => self.take(batch),
                Err(error) => self.fail(Fault { number: Some(self.taken + 1), error }),
            }
        }
    }
}
