//! The history of a test: what every client called, when, and what it was answered; what every
//! subscriber was delivered; and what the topic holds at the end. [`check`](check::check) decides
//! whether the promises of docs/guarantees.md held.
//! Never: a decision while the test runs; a history is judged once, as a whole.

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

/// What became of one publish, as its client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored: offset of the first record, position after the last, whether it was there before.
    Acknowledged { first: u64, next: u64, duplicate: bool },
    /// Stored, by a call that sums up without saying where.
    Stored,
    /// Definitely not stored.
    Refused,
    /// Not stored, as its `expected_offset` was not the tail, which was this.
    Mismatch { tail: u64 },
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One attempt to publish one batch.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Ticks of one clock for all clients: before it was sent, and after it was answered.
    pub called: u64,
    pub returned: Option<u64>,
    /// The streaming call it was part of, and its place there; none for a unary one.
    pub place: Option<(u64, u64)>,
    /// Idempotency key; empty for none. Repeats of a key carry the same values.
    pub request_id: String,
    pub expected: Option<u64>,
    /// The records' values: unique in the whole history.
    pub values: Vec<String>,
    pub outcome: Outcome,
    /// Before it was sent, since the history began: what was stored is no older.
    pub sent: Duration,
    /// The incarnation of the topic that the receipt named; empty where there was none.
    pub epoch: String,
}

/// All there is to know.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    /// What else was done to the topic.
    pub gone: Gone,
    /// What each subscriber was delivered, across its resumptions: offset and value.
    pub deliveries: Vec<Vec<(u64, String)>>,
    /// What the topic holds at the end: offset, first offset of its batch, value.
    pub topic: Vec<(u64, u64, String)>,
}

impl History {
    /// The same history with each offset replaced by how many records are before it: what the judge
    /// asks for, of an engine whose offsets have gaps. An offset that must be a record's and is none's
    /// becomes one that no topic has.
    pub fn dense(mut self) -> Self {
        let read: Vec<u64> = self.topic.iter().map(|(offset, ..)| *offset).collect();
        assert!(read.is_sorted_by(|a, b| a < b), "offsets rise");
        // What was acknowledged and trimmed had its place too.
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

/// Writes a history down. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

/// An attempt that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    pub fn new() -> Self {
        Self::with(false)
    }

    /// Of clients whose network sends everything twice: beside each attempt there is another, whose
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

    /// The number of a new streaming call.
    pub fn call(&self) -> u64 {
        self.0.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Before a batch is sent.
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

    /// The topic forgets what is beyond this, from its creation on.
    pub fn retains(&self, retention: Retention) {
        lock(&self.0.gone).retention = retention;
    }

    /// Before a trim is asked for.
    pub fn begin_trim(&self, before: u64) -> Begun {
        let mut gone = lock(&self.0.gone);
        gone.trims.push(Trim { returned: None, before, earliest: None, refused: false });
        Begun(gone.trims.len() - 1)
    }

    /// After it was answered: where the topic begins now, or none where it was refused.
    pub fn end_trim(&self, begun: Begun, earliest: Option<u64>) {
        let mut gone = lock(&self.0.gone);
        let trim = &mut gone.trims[begun.0];
        (trim.returned, trim.earliest, trim.refused) = (Some(self.tick()), earliest, earliest.is_none());
    }

    /// Before the topic is deleted.
    pub fn begin_deletion(&self, epoch: &str) -> Begun {
        let mut gone = lock(&self.0.gone);
        gone.deletions.push(Deletion { returned: None, epoch: epoch.to_owned() });
        Begun(gone.deletions.len() - 1)
    }

    /// After it was.
    pub fn end_deletion(&self, begun: Begun) {
        let returned = Some(self.tick());
        lock(&self.0.gone).deletions[begun.0].returned = returned;
    }

    /// The incarnation that a receipt names.
    pub fn of_epoch(&self, begun: Begun, epoch: &str) {
        lock(&self.0.attempts)[begun.0].epoch = epoch.to_owned();
    }

    /// After the answer came.
    pub fn end(&self, begun: Begun, outcome: Outcome) {
        let acknowledged = matches!(outcome, Outcome::Acknowledged { .. } | Outcome::Stored);
        let mut attempts = lock(&self.0.attempts);
        let attempt = &mut attempts[begun.0];
        (attempt.returned, attempt.outcome) = (Some(self.tick()), outcome);
        drop(attempts);
        self.0.acknowledged.send_modify(|count| *count += u64::from(acknowledged));
    }

    /// What one subscriber was delivered in all.
    pub fn delivered(&self, seen: &[Seen]) {
        let seen = seen.iter().map(|seen| (seen.offset, seen.text())).collect();
        lock(&self.0.deliveries).push(seen);
    }

    pub fn acknowledged(&self) -> u64 {
        *self.0.acknowledged.borrow()
    }

    /// Waits until so many more batches are acknowledged.
    pub async fn reach(&self, more: u64) {
        let mut count = self.0.acknowledged.subscribe();
        let want = self.acknowledged() + more;
        within(60, "acknowledgements", count.wait_for(|count| *count >= want)).await.expect("we hold it");
    }

    /// The history, with what the topic holds now that all clients have ended.
    pub fn history(&self, topic: &[Seen]) -> History {
        self.history_of("", topic)
    }

    /// The same, with the topic's incarnation.
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
