//! The history of a test: every call with its time and its answer, every delivery to a subscriber, and the content of the
//! topic at the end. [`check`](check::check) decides once, about the whole history, whether the promises of
//! docs/guarantees.md were kept.

pub mod check;
pub mod clients;
#[cfg(test)]
mod doctored;
#[cfg(test)]
mod doctored_gone;
pub mod gone;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::harness::{Seen, within};
use gone::{Deletion, Gone, Retention, Trim};

/// Outcome of a publish, as reported to its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored: offset of the first record, offset after the last, and whether it was a duplicate.
    Acknowledged { first: u64, next: u64, duplicate: bool },
    /// Stored, according to the summary of a call, at an unknown offset.
    Stored,
    /// Not stored.
    Refused,
    /// Not stored, because its `expected_offset` was not the tail; contains the tail.
    Mismatch { tail: u64 },
    /// Unknown: there was no answer, or one with `side_effects: unknown`.
    Unknown,
}

/// An attempt to publish a batch.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Ticks of the clock shared by all clients, before it was sent and after it was answered.
    pub called: u64,
    pub returned: Option<u64>,
    /// Number of its streaming call and its index there; `None` for a unary call.
    pub place: Option<(u64, u64)>,
    /// Request id; empty for none. Repeats carry the same values.
    pub request_id: String,
    pub expected: Option<u64>,
    /// Values of the records, unique in the whole history.
    pub values: Vec<String>,
    pub outcome: Outcome,
    /// Time before it was sent, since the history began; a stored batch cannot be older.
    pub sent: Duration,
    /// Epoch in the receipt; empty without a receipt.
    pub epoch: String,
}

/// A complete history.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    /// Trims, deletions and retention of the topic.
    pub gone: Gone,
    /// Deliveries to each subscriber, across its resumptions: offset and value.
    pub deliveries: Vec<Vec<(u64, String)>>,
    /// Content of the topic at the end: offset, first offset of its batch, value.
    pub topic: Vec<(u64, u64, String)>,
}

impl History {
    /// The same history with each offset replaced by the number of records before it, which the checker requires for an
    /// engine whose offsets have gaps. An offset that should be a record's but is not becomes one that no topic has.
    pub fn dense(mut self) -> Self {
        let read: Vec<u64> = self.topic.iter().map(|(offset, ..)| *offset).collect();
        assert!(read.is_sorted_by(|a, b| a < b), "offsets rise");
        // Trimmed batches occupied offsets too.
        let trimmed = self.attempts.iter().filter_map(|attempt| match attempt.outcome {
            Outcome::Acknowledged { first, .. } => Some(first..first + attempt.values.len() as u64),
            _ => None,
        });
        let start = read.first().copied().unwrap_or(u64::MAX);
        let trimmed = trimmed.flatten().filter(|at| *at < start);
        let offsets: BTreeSet<u64> = if self.gone.is_nothing() {
            read.iter().copied().collect()
        } else {
            trimmed.chain(read).collect()
        };
        let offsets: Vec<u64> = offsets.into_iter().collect();
        let rank = |offset: u64| offsets.partition_point(|at| *at < offset) as u64;
        let exact = |offset: u64| offsets.binary_search(&offset).map_or(u64::MAX, |at| at as u64);
        for (offset, batch, _) in &mut self.topic {
            (*offset, *batch) = (rank(*offset), exact(*batch));
        }
        for trim in &mut self.gone.trims {
            trim.before = rank(trim.before);
            trim.earliest = trim.earliest.map(rank);
        }
        for (offset, _) in self.deliveries.iter_mut().flatten() {
            *offset = exact(*offset);
        }
        for attempt in &mut self.attempts {
            attempt.expected = attempt.expected.map(rank);
            match &mut attempt.outcome {
                Outcome::Acknowledged { first, next, .. } => (*first, *next) = (exact(*first), rank(*next)),
                Outcome::Mismatch { tail } => *tail = rank(*tail),
                Outcome::Stored | Outcome::Refused | Outcome::Unknown => {}
            }
        }
        self
    }
}

#[derive(Debug)]
struct Inner {
    doubled: bool,
    clock: AtomicU64,
    calls: AtomicU64,
    attempts: Mutex<Vec<Attempt>>,
    gone: Mutex<Gone>,
    began: Instant,
    deliveries: Mutex<Vec<Vec<(u64, String)>>>,
    acknowledged: watch::Sender<u64>,
}

/// Records a history. Clones record into the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

/// An attempt that has been started.
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    pub fn new() -> Self {
        Self::with(false)
    }

    /// A recorder for clients whose network duplicates everything: each attempt is accompanied by another one whose
    /// answer nobody sees.
    pub fn of_doubled() -> Self {
        Self::with(true)
    }

    fn with(doubled: bool) -> Self {
        Self(Arc::new(Inner {
            doubled,
            clock: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            attempts: Mutex::default(),
            gone: Mutex::default(),
            began: Instant::now(),
            deliveries: Mutex::default(),
            acknowledged: watch::channel(0).0,
        }))
    }

    fn tick(&self) -> u64 {
        self.0.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Allocates the number of a new streaming call.
    pub fn call(&self) -> u64 {
        self.0.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Records an attempt; call it before the batch is sent.
    pub fn begin(
        &self,
        place: Option<(u64, u64)>,
        values: &[String],
        request_id: &str,
        expected: Option<u64>,
    ) -> Begun {
        let mut attempts = lock(&self.0.attempts);
        let attempt = Attempt {
            called: self.tick(),
            returned: None,
            place,
            request_id: request_id.to_owned(),
            expected,
            values: values.to_vec(),
            outcome: Outcome::Unknown,
            sent: self.0.began.elapsed(),
            epoch: String::new(),
        };
        if self.0.doubled {
            attempts.push(attempt.clone());
        }
        attempts.push(attempt);
        Begun(attempts.len() - 1)
    }

    /// Records the retention that the topic has had since its creation.
    pub fn retains(&self, retention: Retention) {
        lock(&self.0.gone).retention = retention;
    }

    /// Records a trim; call it before the request is sent.
    pub fn begin_trim(&self, before: u64) -> Begun {
        let mut gone = lock(&self.0.gone);
        gone.trims.push(Trim { returned: None, before, earliest: None, refused: false });
        Begun(gone.trims.len() - 1)
    }

    /// Records the answer to a trim: the new earliest offset, or `None` if it was refused.
    pub fn end_trim(&self, begun: Begun, earliest: Option<u64>) {
        let mut gone = lock(&self.0.gone);
        let trim = &mut gone.trims[begun.0];
        (trim.returned, trim.earliest, trim.refused) = (Some(self.tick()), earliest, earliest.is_none());
    }

    /// Records a deletion; call it before the request is sent.
    pub fn begin_deletion(&self, epoch: &str) -> Begun {
        let mut gone = lock(&self.0.gone);
        gone.deletions.push(Deletion { returned: None, epoch: epoch.to_owned() });
        Begun(gone.deletions.len() - 1)
    }

    /// Records that the topic has been deleted.
    pub fn end_deletion(&self, begun: Begun) {
        let returned = Some(self.tick());
        lock(&self.0.gone).deletions[begun.0].returned = returned;
    }

    /// Records the epoch in a receipt.
    pub fn of_epoch(&self, begun: Begun, epoch: &str) {
        lock(&self.0.attempts)[begun.0].epoch = epoch.to_owned();
    }

    /// Records the outcome of an attempt.
    pub fn end(&self, begun: Begun, outcome: Outcome) {
        let acknowledged = matches!(outcome, Outcome::Acknowledged { .. } | Outcome::Stored);
        let mut attempts = lock(&self.0.attempts);
        let attempt = &mut attempts[begun.0];
        (attempt.returned, attempt.outcome) = (Some(self.tick()), outcome);
        drop(attempts);
        self.0.acknowledged.send_modify(|count| *count += u64::from(acknowledged));
    }

    /// Records everything delivered to one subscriber.
    pub fn delivered(&self, seen: &[Seen]) {
        let seen = seen.iter().map(|seen| (seen.offset, seen.text())).collect();
        lock(&self.0.deliveries).push(seen);
    }

    pub fn acknowledged(&self) -> u64 {
        *self.0.acknowledged.borrow()
    }

    /// Waits until that many more batches have been acknowledged.
    pub async fn reach(&self, more: u64) {
        let mut count = self.0.acknowledged.subscribe();
        let want = self.acknowledged() + more;
        within(60, "acknowledgements", count.wait_for(|count| *count >= want)).await.expect("we hold it");
    }

    /// Returns the history with the content of the topic, after all clients have ended.
    pub fn history(&self, topic: &[Seen]) -> History {
        self.history_of("", topic)
    }

    /// Returns the same with the topic's epoch.
    pub fn history_of(&self, epoch: &str, topic: &[Seen]) -> History {
        let gone = lock(&self.0.gone).clone();
        History {
            gone: Gone { read: self.0.began.elapsed(), epoch: epoch.to_owned(), ..gone },
            attempts: lock(&self.0.attempts).clone(),
            deliveries: lock(&self.0.deliveries).clone(),
            topic: topic.iter().map(|seen| (seen.offset, seen.batch, seen.text())).collect(),
        }
    }
}
