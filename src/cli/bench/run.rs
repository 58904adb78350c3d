//! What all tasks of a run share: its plan, its clock, its counters, its histograms.
//! Never: talks to a server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// One minute in nanoseconds: what lasts longer counts as this long.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// What to do, every default filled in.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) topic: String,
    /// Bytes of a record's payload.
    pub(super) size: usize,
    /// Records of a batch.
    pub(super) batch: u32,
    /// Batches of one publisher that are not acknowledged yet.
    pub(super) window: u32,
    pub(super) publishers: u32,
    /// Subscribers of what is published live.
    pub(super) subscribers: u32,
    /// Subscribers that read the topic from its beginning, over and over.
    pub(super) replayers: u32,
    /// Connections that subscribers and replayers share.
    pub(super) connections: u32,
    /// Records a second of all publishers together; 0 for as fast as they can.
    pub(super) rate: u64,
    /// Not measured.
    pub(super) warmup: Duration,
    /// Measured.
    pub(super) duration: Duration,
    pub(super) request_ids: bool,
    /// Whether what was acknowledged is read back where nobody subscribed.
    pub(super) verify: bool,
}

/// Latencies in nanoseconds.
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

    /// One that a task records into by itself.
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
    begun: Instant,
    /// Batches are not sent after this.
    over: AtomicBool,
    /// Records acknowledged, and those within the measured time.
    pub(super) acknowledged: Counted,
    /// Records delivered to live subscribers and replayers, and those within the measured time.
    pub(super) delivered: Counted,
    pub(super) acknowledging: Latencies,
    pub(super) delivering: Latencies,
    pub(super) missing: AtomicU64,
    pub(super) repeated: AtomicU64,
}

/// A count of the whole run, and of its measured part.
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
    /// A run that begins now.
    pub(super) fn begin(plan: Plan) -> Self {
        Self {
            plan,
            id: fastrand::u32(..),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            acknowledged: Counted::default(),
            delivered: Counted::default(),
            acknowledging: Latencies::default(),
            delivering: Latencies::default(),
            missing: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// When it was `nanos` old.
    pub(super) fn at(&self, nanos: u64) -> Instant {
        self.begun + Duration::from_nanos(nanos)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more is to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
            || self.begun.elapsed() >= self.plan.warmup.saturating_add(self.plan.duration)
    }

    /// Whether what happens then counts.
    pub(super) fn is_measured(&self, nanos: u64) -> bool {
        let of = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let begin = of(self.plan.warmup);
        let end = begin.saturating_add(of(self.plan.duration));
        (begin..end).contains(&nanos)
    }
}
