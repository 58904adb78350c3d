//! The state that all tasks of a run share: its plan, clock, counters and histograms.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::listener::Web;

/// Largest latency in nanoseconds, one minute. Longer ones count as this.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// The plan of a run, with all defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) topic: String,
    /// Size of a record's payload, in bytes.
    pub(super) size: usize,
    /// Number of records in a batch.
    pub(super) batch: u32,
    /// Largest number of unacknowledged batches of one publisher.
    pub(super) window: u32,
    pub(super) publishers: u32,
    /// Number of subscribers that follow what is published.
    pub(super) subscribers: u32,
    /// Number of subscribers that repeatedly read the topic from its beginning.
    pub(super) replayers: u32,
    /// Number of connections that subscribers and replayers share.
    pub(super) connections: u32,
    /// Rate of all publishers together in records per second; 0 for no limit.
    pub(super) rate: u64,
    /// Duration of the load before the measurement.
    pub(super) warmup: Duration,
    /// Duration of the measurement.
    pub(super) duration: Duration,
    pub(super) request_ids: bool,
    /// Reads back what was acknowledged when there are no subscribers.
    pub(super) verify: bool,
    /// HTTP listener that publishers and subscribers use, where they do not use gRPC.
    pub(super) web: Option<Web>,
}

/// A histogram of latencies in nanoseconds.
#[derive(Debug)]
pub(super) struct Latencies(Mutex<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, DIGITS);
        Self(Mutex::new(histogram.expect("the bounds are constants")))
    }
}

impl Latencies {
    pub(super) fn add(&self, others: &Histogram<u64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.add(others).expect("all histograms have the same bounds");
    }

    /// A histogram for one task.
    pub(super) fn local() -> Histogram<u64> {
        Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, DIGITS).expect("the bounds are constants")
    }

    pub(super) fn snapshot(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) id: u32,
    started: Instant,
    /// Set when no more batches are to be sent.
    over: AtomicBool,
    /// Number of acknowledged records.
    pub(super) acknowledged: Counted,
    /// Number of records delivered to subscribers and replayers.
    pub(super) delivered: Counted,
    pub(super) acknowledging: Latencies,
    pub(super) delivering: Latencies,
    pub(super) missing: AtomicU64,
    pub(super) repeated: AtomicU64,
}

/// A count of the whole run, and of the measurement.
#[derive(Debug, Default)]
pub(super) struct Counted {
    all: AtomicU64,
    measured: AtomicU64,
}

impl Counted {
    pub(super) fn add(&self, count: u64, measured: bool) {
        self.all.fetch_add(count, Ordering::Relaxed);
        if measured {
            self.measured.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    pub(super) fn measured(&self) -> u64 {
        self.measured.load(Ordering::Relaxed)
    }
}

impl Run {
    /// Starts a run.
    pub(super) fn start(plan: Plan) -> Self {
        Self {
            plan,
            id: fastrand::u32(..),
            started: Instant::now(),
            over: AtomicBool::new(false),
            acknowledged: Counted::default(),
            delivered: Counted::default(),
            acknowledging: Latencies::default(),
            delivering: Latencies::default(),
            missing: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run started.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time `nanos` nanoseconds after the start.
    pub(super) fn at(&self, nanos: u64) -> Instant {
        self.started + Duration::from_nanos(nanos)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Returns true if no more batches are to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
            || self.started.elapsed() >= self.plan.warmup.saturating_add(self.plan.duration)
    }

    /// Returns true if that time is within the measurement.
    pub(super) fn is_measured(&self, nanos: u64) -> bool {
        let of = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let begin = of(self.plan.warmup);
        let end = begin.saturating_add(of(self.plan.duration));
        (begin..end).contains(&nanos)
    }
}
