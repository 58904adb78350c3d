//! The publishes of one call, which are gathered, admitted, and appended and acknowledged in order. A publish needs no
//! task and no channel of its own.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::admission::Permit;
use super::{Connection, Error, ReceiptBudget};
use crate::record::{Batch, Receipt, TopicName};
use crate::storage::{self, Appended, Appender, BoxFuture, Hold, TopicLog};
use crate::telemetry::trace::Publishing;
use crate::telemetry::{self, BatchTotals, Batches, METRICS};

/// Largest number of batches in one append: enough to make an append cheap, and few enough that the log syncs the first
/// ones while the next are received.
const GATHER_BATCHES: usize = 256;
/// Size of an append in bytes, which its last batch may exceed.
const GATHER_BYTES: usize = 1 << 20;

/// Largest number of appends in flight, as their results stay in memory until the client reads its receipts. Above it,
/// batches are gathered into fewer and larger appends.
const INFLIGHT_MAX: usize = 64;

/// A publisher of batches to one topic, with several appends in flight.
pub struct Publisher {
    connection: Arc<Connection>,
    appender: Box<dyn Appender>,
    gathered: Vec<Batch>,
    /// Number of batches in the last append.
    gathered_last: usize,
    gathered_bytes: usize,
    /// Set while the gathered batches wait for admission. No batch is added meanwhile.
    admitting: Option<BoxFuture<'static, Result<Permit, Error>>>,
    /// Appends in their order, in which they also complete, so that only the first is polled.
    inflight: VecDeque<InFlight>,
    unacknowledged: usize,
    name: TopicName,
    counts: Arc<telemetry::Topic>,
    sizes: Batches,
    /// Spans of those gathered batches that are sampled.
    traced: Vec<Publishing>,
}

struct InFlight {
    append: BoxFuture<'static, Appended>,
    batches: usize,
    handed: BatchTotals,
    since: Instant,
    traced: Vec<Publishing>,
}

impl InFlight {
    fn start(
        appender: &mut dyn Appender,
        batches: Vec<Batch>,
        permit: Permit,
        handed: BatchTotals,
        traced: Vec<Publishing>,
    ) -> Self {
        let (count, since) = (batches.len(), Instant::now());
        Self { append: appender.append(batches, Hold::of(permit)), batches: count, handed, since, traced }
    }

    /// Polls for the result, and counts and traces it.
    fn poll(&mut self, cx: &mut Context<'_>, topic: &TopicName, counts: &telemetry::Topic) -> Poll<Appended> {
        let appended = ready!(self.append.as_mut().poll(cx));
        let duplicates = appended.receipts.iter().filter(|receipt| receipt.duplicate).count();
        let stored = (appended.receipts.len() - duplicates) as u64;
        METRICS.publish.acknowledged(counts, self.handed, stored, duplicates as u64, self.since);
        for traced in std::mem::take(&mut self.traced) {
            let outcome = match (appended.receipts.get(traced.index), &appended.failure) {
                (Some(receipt), _) => Ok(receipt.first.get()),
                (None, Some(failure)) => Err((failure.kind(), failure.to_string())),
                (None, None) => Err((no_answer().kind(), no_answer().to_string())),
            };
            traced.end(topic.as_str(), outcome, appended.steps);
        }
        Poll::Ready(appended)
    }
}

impl Publisher {
    /// A publisher to this topic on this connection.
    #[must_use]
    pub fn new(topic: &dyn TopicLog, connection: Arc<Connection>) -> Self {
        Self {
            connection,
            appender: topic.appender(),
            gathered: Vec::new(),
            gathered_last: 0,
            gathered_bytes: 0,
            admitting: None,
            inflight: VecDeque::new(),
            unacknowledged: 0,
            name: topic.name().clone(),
            counts: METRICS.topics.of(topic.name().as_str()),
            sizes: Batches::default(),
            traced: Vec::new(),
        }
    }

    /// A new counter of the memory that this call's publishes occupy until their receipts are taken.
    #[must_use]
    pub fn receipt_budget(&self) -> ReceiptBudget {
        ReceiptBudget::new(&self.connection.send_budget)
    }

    /// Number of batches that were pushed and are not acknowledged.
    #[must_use]
    pub const fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// Returns true if no batch may be pushed until [`Self::poll_flush`] is ready.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.admitting.is_some()
            || self.inflight.len() >= INFLIGHT_MAX
            || self.gathered.len() >= GATHER_BATCHES
            || self.gathered_bytes >= GATHER_BYTES
    }

    /// Number of batches that were pushed and not appended.
    #[must_use]
    pub const fn unflushed(&self) -> usize {
        self.gathered.len()
    }

    /// Drops all batches, as an append failed and all later ones with it.
    pub fn give_up(&mut self) {
        (self.gathered, self.gathered_bytes, self.admitting) = (Vec::new(), 0, None);
        // The log keeps their bytes in the budget until they complete.
        self.inflight.clear();
        self.unacknowledged = 0;
    }

    /// Adds a batch. Must not be called while [`Self::is_full`].
    pub fn push(&mut self, batch: Batch) {
        self.gathered_bytes += batch.weight();
        self.sizes.take(u64::from(batch.count()), batch.records().len() as u64);
        let index = self.gathered.len();
        if index == 0 {
            self.gathered.reserve(self.gathered_last);
        }
        self.traced.extend(Publishing::begin(
            batch.traceparent(),
            batch.count(),
            batch.records().len(),
            index,
        ));
        self.gathered.push(batch);
        self.unacknowledged += 1;
    }

    /// Appends the gathered batches to the log once they are admitted.
    ///
    /// # Errors
    /// [`Error::Overloaded`]: the gathered batches are not stored.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let permit = match &mut self.admitting {
            Some(admitting) => ready!(admitting.as_mut().poll(cx)),
            None => match self.connection.admission.try_acquire(self.gathered_bytes) {
                Some(permit) => Ok(permit),
                None => {
                    let mut admitting =
                        Box::pin(self.connection.admission.clone().acquire(self.gathered_bytes));
                    match admitting.as_mut().poll(cx) {
                        Poll::Ready(permit) => permit,
                        Poll::Pending => {
                            self.admitting = Some(admitting);
                            return Poll::Pending;
                        }
                    }
                }
            },
        };
        self.admitting = None;
        let batches = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let count = batches.len();
        self.gathered_last = count;
        let handed = self.sizes.hand_over();
        let traced = std::mem::take(&mut self.traced);
        match permit {
            Ok(permit) => {
                let appender = &mut *self.appender;
                self.inflight.push_back(InFlight::start(appender, batches, permit, handed, traced));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                METRICS.publish.failed.add(count as u64);
                self.unacknowledged -= count;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Polls for the result of the oldest append in flight; none if nothing is in flight.
    pub fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Appended>> {
        let Some(first) = self.inflight.front_mut() else { return Poll::Ready(None) };
        let appended = ready!(first.poll(cx, &self.name, &self.counts));
        self.unacknowledged -= first.batches;
        self.inflight.pop_front();
        Poll::Ready(Some(appended))
    }
}

/// Acquires what one batch occupies until it is durable, for [`publish`].
///
/// # Errors
/// [`Error::Overloaded`].
pub async fn admit(connection: &Connection, batch: &Batch) -> Result<Permit, Error> {
    let admitted = connection.admit(batch.weight()).await;
    admitted.inspect_err(|_| METRICS.publish.failed.inc())
}

/// Publishes one batch that was admitted, and waits until it is durable.
///
/// # Errors
/// The storage fails or refuses.
pub async fn publish(topic: Arc<dyn TopicLog>, permit: Permit, batch: Batch) -> Result<Receipt, Error> {
    let (mut append, counts) = hand_over(&*topic, batch, permit);
    let appended = poll_fn(|cx| append.poll(cx, topic.name(), &counts)).await;
    match (appended.receipts.first(), appended.failure) {
        (Some(receipt), _) => Ok(*receipt),
        (None, Some(failure)) => Err(failure.into()),
        (None, None) => Err(no_answer().into()),
    }
}

fn hand_over(topic: &dyn TopicLog, batch: Batch, permit: Permit) -> (InFlight, Arc<telemetry::Topic>) {
    let mut sizes = Batches::default();
    sizes.take(u64::from(batch.count()), batch.records().len() as u64);
    let traced = Publishing::begin(batch.traceparent(), batch.count(), batch.records().len(), 0);
    let (handed, traced) = (sizes.hand_over(), traced.into_iter().collect());
    let append = InFlight::start(&mut *topic.appender(), vec![batch], permit, handed, traced);
    (append, METRICS.topics.of(topic.name().as_str()))
}

/// The error for an engine that broke its contract.
fn no_answer() -> storage::Error {
    let reason = "the storage gave no answer".to_owned();
    storage::Error::Unavailable { reason, stored: storage::Stored::Unknown }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("unacknowledged", &self.unacknowledged).finish_non_exhaustive()
    }
}
