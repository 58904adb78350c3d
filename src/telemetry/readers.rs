//! How far subscriptions are behind: each says where it reads, and is looked at from outside, so
//! that one that is stuck shows too.
//! Never: slows a subscription; it stores two numbers a delivery.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::metric::{Counter, Histogram};
use super::names::{LAG_DURATIONS, LAGS};
use super::topics::Topic;

/// A subscription this far behind is slow.
const SLOW: Duration = Duration::from_secs(10);

/// One open subscription.
pub struct Reader(Arc<Entry>);

struct Entry {
    id: u64,
    topic: Arc<Topic>,
    /// The offset it reads next.
    next: AtomicU64,
    /// Since when it is behind, in Unix microseconds; 0 while it is not.
    behind_since: AtomicU64,
    tail: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.0.topic.name).finish()
    }
}

impl Reader {
    /// The counts of what it reads.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// It reads at `next` now, and has everything.
    pub fn caught_up(&self, next: u64) {
        self.0.next.store(next, Relaxed);
        self.0.behind_since.store(0, Relaxed);
    }

    /// It reads at `next` now, and what comes there was stored at about `since_us`, in Unix microseconds.
    pub fn behind(&self, next: u64, since_us: u64) {
        self.0.next.store(next, Relaxed);
        self.0.behind_since.store(since_us.max(1), Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        super::METRICS.readers.lock().remove(&self.0.id);
    }
}

/// The worst of the subscriptions of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Offsets behind the tail.
    pub records: u64,
    /// How long it has been behind.
    pub time: Duration,
}

/// What a look at all subscriptions found.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many there are.
    pub open: u64,
    /// How many are slow.
    pub slow: u64,
    /// The worst of each topic that is read, by its label.
    pub worst: Vec<(Box<str>, Lag)>,
}

/// All open subscriptions.
#[derive(Debug)]
pub struct Readers {
    open: LazyLock<Mutex<HashMap<u64, Arc<Entry>>>>,
    /// Looked at now and then.
    pub lag_records: Histogram,
    /// Looked at now and then.
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subscription that begins at `next`; `tail` is asked where its topic ends now.
    pub fn open(&self, topic: &str, next: u64, tail: impl Fn() -> u64 + Send + Sync + 'static) -> Reader {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let entry = Arc::new(Entry {
            id: IDS.fetch_add(1, Relaxed),
            topic: super::METRICS.topics.of(topic),
            next: AtomicU64::new(next),
            behind_since: AtomicU64::new(0),
            tail: Box::new(tail),
        });
        self.lock().insert(entry.id, entry.clone());
        Reader(entry)
    }

    /// Looks at every subscription, and takes the spread of their lags in.
    pub fn sample(&self) {
        self.visit(|_, lag| {
            self.lag_records.record(lag.records);
            self.lag_time.record_time(lag.time);
        });
    }

    /// Looks at every subscription.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (mut summary, mut worst) = (Summary::default(), HashMap::<Box<str>, Lag>::new());
        self.visit(|topic, lag| {
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

    fn visit(&self, mut each: impl FnMut(&Topic, Lag)) {
        let now = unix_micros();
        let entries: Vec<_> = self.lock().values().cloned().collect();
        for entry in entries {
            let records = (entry.tail)().saturating_sub(entry.next.load(Relaxed));
            if records > 0 {
                // One that is stuck does not say so itself.
                let _ = entry.behind_since.compare_exchange(0, now, Relaxed, Relaxed);
            }
            let since = entry.behind_since.load(Relaxed);
            let behind = records > 0 && since > 0;
            let time = if behind { Duration::from_micros(now.saturating_sub(since)) } else { Duration::ZERO };
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
    use super::{Lag, SLOW, unix_micros};
    use crate::telemetry::METRICS;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    fn worst(topic: &str) -> Option<Lag> {
        let summary = METRICS.readers.summary();
        summary.worst.iter().find(|(name, _)| **name == *topic).map(|(_, lag)| *lag)
    }

    #[test]
    fn a_stuck_subscriber_shows_and_one_that_is_level_does_not() {
        let tail = Arc::new(AtomicU64::new(10));
        let asked = tail.clone();
        let reader = METRICS.readers.open("lag-test", 10, move || asked.load(Relaxed));
        assert_eq!(worst("lag-test"), Some(Lag::default()));
        tail.store(15, Relaxed);
        assert_eq!(worst("lag-test").map(|lag| lag.records), Some(5), "seen from outside");
        std::thread::sleep(Duration::from_millis(2));
        assert!(worst("lag-test").is_some_and(|lag| lag.time >= Duration::from_millis(2)));
        reader.behind(12, unix_micros() - 20_000_000);
        assert!(worst("lag-test").is_some_and(|lag| lag.records == 3 && lag.time > SLOW));
        reader.caught_up(15);
        assert_eq!(worst("lag-test"), Some(Lag::default()));
        drop(reader);
        assert_eq!(worst("lag-test"), None);
    }
}
