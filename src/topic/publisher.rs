//! The publishes of one call: gathered, admitted, appended in order, acknowledged in order.
//! Never: spawns a task or makes a channel for a publish.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::admission::Permit;
use super::{Admission, Error, Topics};
use crate::record::{Batch, Receipt};
use crate::storage::{self, Appended, Appender, BoxFuture, Hold, TopicLog};
use crate::telemetry::trace::Publishing;
use crate::telemetry::{self, Batches, Handed, METRICS};

/// Most batches handed to the log at once: enough to make the hand-over cheap, few enough that the
/// log syncs the first while the next are read.
const GATHER_BATCHES: usize = 256;
/// Most bytes gathered before they are handed to the log; one batch more may be on top.
const GATHER_BYTES: usize = 1 << 20;

/// Publishes batches to one topic, several appends in flight at once.
pub struct Publisher {
    admission: Admission,
    appender: Box<dyn Appender>,
    gathered: Vec<Batch>,
    gathered_bytes: usize,
    /// Set while the gathered batches wait for admission; they do not change meanwhile.
    admitting: Option<BoxFuture<'static, Result<Permit, Error>>>,
    /// In the order appended, which is the order they resolve in: only the first is polled.
    inflight: VecDeque<InFlight>,
    unacknowledged: usize,
    name: Box<str>,
    counts: Arc<telemetry::Topic>,
    sizes: Batches,
    /// Of the gathered batches, those that are sampled.
    traced: Vec<Publishing>,
}

struct InFlight {
    append: BoxFuture<'static, Appended>,
    batches: usize,
    handed: Handed,
    since: Instant,
    traced: Vec<Publishing>,
}

impl Publisher {
    pub(super) fn new(topics: &Topics, topic: &dyn TopicLog) -> Self {
        Self {
            admission: topics.admission().clone(),
            appender: topic.appender(),
            gathered: Vec::new(),
            gathered_bytes: 0,
            admitting: None,
            inflight: VecDeque::new(),
            unacknowledged: 0,
            name: topic.name().as_str().into(),
            counts: METRICS.topics.of(topic.name().as_str()),
            sizes: Batches::default(),
            traced: Vec::new(),
        }
    }

    /// Takes from a connection's part of the budget.
    #[must_use]
    pub fn within(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Batches taken and not acknowledged yet.
    #[must_use]
    pub const fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// Whether no batch may be pushed until [`Self::poll_flush`] is ready.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.admitting.is_some()
            || self.gathered.len() >= GATHER_BATCHES
            || self.gathered_bytes >= GATHER_BYTES
    }

    /// Batches taken and not handed to the log yet.
    #[must_use]
    pub const fn unflushed(&self) -> usize {
        self.gathered.len()
    }

    /// Forgets what was gathered and in flight, as an append failed and all later ones with it.
    pub fn give_up(&mut self) {
        (self.gathered, self.gathered_bytes, self.admitting) = (Vec::new(), 0, None);
        // The log keeps their bytes in the budget until they are resolved.
        self.inflight.clear();
        self.unacknowledged = 0;
    }

    /// Takes a batch. Only while not [`Self::is_full`].
    pub fn push(&mut self, batch: Batch) {
        self.gathered_bytes += batch.weight();
        self.sizes.take(u64::from(batch.count()), batch.records().len() as u64);
        let index = self.gathered.len();
        self.traced.extend(Publishing::begin(
            batch.traceparent(),
            batch.count(),
            batch.records().len(),
            index,
        ));
        self.gathered.push(batch);
        self.unacknowledged += 1;
    }

    /// Hands what was gathered to the log, once admitted.
    ///
    /// # Errors
    /// [`Error::Overloaded`]: what was gathered is not stored.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let permit = match &mut self.admitting {
            Some(admitting) => ready!(admitting.as_mut().poll(cx)),
            None => match self.admission.try_acquire(self.gathered_bytes) {
                Some(permit) => Ok(permit),
                None => {
                    let mut admitting = Box::pin(self.admission.clone().acquire(self.gathered_bytes));
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
        let (handed, since) = (self.sizes.hand_over(), Instant::now());
        let traced = std::mem::take(&mut self.traced);
        match permit {
            Ok(permit) => {
                let append = self.appender.append(batches, Hold::of(permit));
                self.inflight.push_back(InFlight { append, batches: count, handed, since, traced });
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                METRICS.publish.failed.add(count as u64);
                self.unacknowledged -= count;
                Poll::Ready(Err(error))
            }
        }
    }

    /// What became of the oldest append in flight; none where nothing is in flight.
    pub fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Appended>> {
        let Some(first) = self.inflight.front_mut() else { return Poll::Ready(None) };
        let appended = ready!(first.append.as_mut().poll(cx));
        self.unacknowledged -= first.batches;
        let duplicates = appended.receipts.iter().filter(|receipt| receipt.duplicate).count();
        let stored = (appended.receipts.len() - duplicates) as u64;
        METRICS.publish.acknowledged(&self.counts, first.handed, stored, duplicates as u64, first.since);
        for traced in std::mem::take(&mut first.traced) {
            let outcome = match (appended.receipts.get(traced.index), &appended.failure) {
                (Some(receipt), _) => Ok(receipt.first.get()),
                (None, Some(failure)) => Err((failure.kind(), failure.to_string())),
                (None, None) => Err((no_answer().kind(), no_answer().to_string())),
            };
            traced.end(&self.name, outcome, appended.steps);
        }
        self.inflight.pop_front();
        Poll::Ready(Some(appended))
    }

    /// Publishes one batch, and waits until it is durable.
    ///
    /// # Errors
    /// The storage's refusal, or too much is in flight.
    pub async fn publish(mut self, batch: Batch) -> Result<Receipt, Error> {
        self.push(batch);
        poll_fn(|cx| self.poll_flush(cx)).await?;
        let appended = poll_fn(|cx| self.poll_acknowledged(cx)).await.unwrap_or_default();
        match (appended.receipts.first(), appended.failure) {
            (Some(receipt), _) => Ok(*receipt),
            (None, Some(failure)) => Err(failure.into()),
            (None, None) => Err(no_answer().into()),
        }
    }
}

/// An engine broke its contract: say so rather than guess.
fn no_answer() -> storage::Error {
    let reason = "the storage gave no answer".to_owned();
    storage::Error::Unavailable { reason, stored: storage::Stored::Unknown }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("unacknowledged", &self.unacknowledged).finish_non_exhaustive()
    }
}
