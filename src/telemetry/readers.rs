//! Lags of subscriptions. Each stores where it reads, two numbers a delivery, and is observed from outside, so
//! that one that is stuck shows too.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::metric::{Counter, Histogram};
use super::names::{LAG_DURATIONS, LAGS};
use super::topics::Topic;

/// Time behind the tail after which a subscription is slow.
const SLOW: Duration = Duration::from_secs(10);

/// One open subscription.
pub struct Reader {
    entry: Arc<Entry>,
    all: &'static Readers,
}

struct Entry {
    id: u64,
    topic: Arc<Topic>,
    /// Next offset that it reads.
    next: AtomicU64,
    /// Time since when it is behind, in Unix microseconds; 0 while it is not.
    behind_since: AtomicU64,
    tail: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.entry.topic.name).finish()
    }
}

impl Reader {
    /// Counts of the topic that it reads.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.entry.topic
    }

    /// Returns the handle to its lag.
    #[must_use]
    pub fn lag(&self) -> ReaderLag {
        ReaderLag(Arc::clone(&self.entry))
    }

    /// Notes that it reads at `next` now, and has everything.
    pub fn caught_up(&self, next: u64) {
        self.entry.next.store(next, Relaxed);
        self.entry.behind_since.store(0, Relaxed);
    }

    /// Notes that it reads at `next` now, and that what comes there was stored at about `since_us`, in Unix
    /// microseconds.
    pub fn behind(&self, next: u64, since_us: u64) {
        self.entry.next.store(next, Relaxed);
        self.entry.behind_since.store(since_us.max(1), Relaxed);
    }
}

/// Handle to the lag of a subscription.
#[derive(Clone, Debug)]
pub struct ReaderLag(Arc<Entry>);

impl ReaderLag {
    /// Returns the offsets that the subscription is behind the tail.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.0.lag()
    }
}

impl Entry {
    fn lag(&self) -> u64 {
        (self.tail)().saturating_sub(self.next.load(Relaxed))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.all.lock().remove(&self.entry.id);
    }
}

/// Largest lag of the subscriptions of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Offsets behind the tail.
    pub records: u64,
    /// Time since it is behind.
    pub time: Duration,
}

/// Summary of all subscriptions at one moment.
#[derive(Debug, Default)]
pub struct Summary {
    /// Number of subscriptions.
    pub open: u64,
    /// Number of slow ones.
    pub slow: u64,
    /// Largest lag of each topic that is read, by its label.
    pub worst: Vec<(Box<str>, Lag)>,
}

/// All open subscriptions.
#[derive(Debug)]
pub struct Readers {
    open: LazyLock<Mutex<HashMap<u64, Arc<Entry>>>>,
    /// Offsets behind the tail, sampled now and then.
    pub lag_records: Histogram,
    /// Time behind the tail, sampled now and then.
    pub lag_time: Histogram,
    /// Live ones that fell back to reading from disk.
    pub fallbacks: Counter,
    /// Messages without records.
    pub heartbeats: Counter,
    /// Reads answered from memory.
    pub memory: Counter,
    /// Reads from disk.
    pub disk: Counter,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) const fn new() -> Self {
        Self {
            open: LazyLock::new(Mutex::default),
            lag_records: Histogram::new(&LAGS),
            lag_time: Histogram::new(&LAG_DURATIONS),
            fallbacks: Counter::new(),
            heartbeats: Counter::new(),
            memory: Counter::new(),
            disk: Counter::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription that starts at `next`; `tail` returns where its topic ends now.
    pub fn open(
        &'static self,
        topic: Arc<Topic>,
        next: u64,
        tail: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Reader {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let entry = Arc::new(Entry {
            id: IDS.fetch_add(1, Relaxed),
            topic,
            next: AtomicU64::new(next),
            behind_since: AtomicU64::new(0),
            tail: Box::new(tail),
        });
        self.lock().insert(entry.id, Arc::clone(&entry));
        Reader { entry, all: self }
    }

    /// Records the lags of all subscriptions in the histograms.
    pub fn sample(&self) {
        self.visit(unix_micros(), |_, lag| {
            self.lag_records.record(lag.records);
            self.lag_time.record_time(lag.time);
        });
    }

    /// Summarises all subscriptions.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary_at(unix_micros())
    }

    fn summary_at(&self, now_us: u64) -> Summary {
        let (mut summary, mut worst) = (Summary::default(), HashMap::<Box<str>, Lag>::new());
        self.visit(now_us, |topic, lag| {
            summary.open += 1;
            summary.slow += u64::from(lag.time > SLOW);
            let known = worst.entry(topic.name.clone()).or_default();
            known.records = known.records.max(lag.records);
            known.time = known.time.max(lag.time);
        });
        summary.worst = worst.into_iter().collect();
        summary.worst.sort_by(|a, b| a.0.cmp(&b.0));
        summary
    }

    fn visit(&self, now_us: u64, mut each: impl FnMut(&Topic, Lag)) {
        let entries: Vec<_> = self.lock().values().cloned().collect();
        for entry in entries {
            let records = entry.lag();
            if records > 0 {
                // One that is stuck does not say so itself.
                let _ = entry.behind_since.compare_exchange(0, now_us, Relaxed, Relaxed);
            }
            let since = entry.behind_since.load(Relaxed);
            let behind = records > 0 && since > 0;
            let time =
                if behind { Duration::from_micros(now_us.saturating_sub(since)) } else { Duration::ZERO };
            each(&entry.topic, Lag { records, time });
        }
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Lag, Readers, Topic};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000_000_000;

    #[test]
    fn a_stuck_subscriber_is_slow_after_ten_seconds_and_one_that_caught_up_is_not() {
        let readers: &'static Readers = Box::leak(Box::new(Readers::new()));
        let tail = Arc::new(AtomicU64::new(10));
        let asked = tail.clone();
        let reader = readers.open(Arc::new(Topic::default()), 10, move || asked.load(Relaxed));
        let at = |now_us| {
            let summary = readers.summary_at(now_us);
            (summary.slow, summary.worst.first().map(|(_, lag)| *lag))
        };
        let lag = |records, time| Some(Lag { records, time });
        assert_eq!(at(NOW), (0, lag(0, Duration::ZERO)));
        tail.store(15, Relaxed);
        assert_eq!(at(NOW), (0, lag(5, Duration::ZERO)), "it is observed from outside");
        let ten_seconds = Duration::from_secs(10);
        assert_eq!(at(NOW + 10_000_000), (0, lag(5, ten_seconds)));
        assert_eq!(at(NOW + 10_000_001), (1, lag(5, ten_seconds + Duration::from_micros(1))));
        reader.behind(12, NOW - 20_000_000);
        assert_eq!(at(NOW), (1, lag(3, Duration::from_secs(20))));
        reader.caught_up(15);
        assert_eq!(at(NOW), (0, lag(0, Duration::ZERO)));
        drop(reader);
        assert_eq!(at(NOW), (0, None));
    }
}
