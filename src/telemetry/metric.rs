//! Counters, gauges and histograms on relaxed atomics, so that counting costs a few nanoseconds and takes no
//! lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Creates it at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Returns the count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Creates it at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Replaces the value. A value beyond 63 bits becomes the largest one.
    pub fn set(&self, value: u64) {
        self.0.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds one until the guard is dropped.
    #[must_use]
    pub fn hold(&'static self) -> GaugeGuard {
        self.add(1);
        GaugeGuard(self)
    }

    /// Returns the value now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One unit of a [`Gauge`], until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(&'static Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Maximum number of a histogram's upper bounds.
pub const BOUNDS_MAX: usize = 20;

/// Upper bounds of a histogram's buckets (inclusive), and their unit in that of the metric.
#[derive(Debug)]
pub struct Scale {
    /// The bounds in rising order; at most [`BOUNDS_MAX`].
    pub bounds: &'static [u64],
    /// Factor to the metric's unit: 1e-9 where nanoseconds are counted and seconds are shown.
    pub unit: f64,
}

/// Distribution of values over buckets.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

/// Content of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bounds of all buckets but the last, which has none.
    pub bounds: Vec<f64>,
    /// Number of values in each bucket; one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// Creates it empty.
    #[must_use]
    pub const fn new(scale: &'static Scale) -> Self {
        assert!(scale.bounds.len() <= BOUNDS_MAX, "more bounds than a histogram has room for");
        Self { scale, counts: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1], sum: AtomicU64::new(0) }
    }

    /// Records a value, in the unit of the bounds.
    pub fn record(&self, value: u64) {
        self.counts[bucket(self.scale, value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Records a duration; for bounds in nanoseconds only.
    pub fn record_time(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns its content.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let buckets = self.scale.bounds.len() + 1;
        HistogramSnapshot {
            bounds: self.scale.bounds.iter().map(|bound| *bound as f64 * self.scale.unit).collect(),
            counts: self.counts[..buckets].iter().map(|count| count.load(Relaxed)).collect(),
            sum: self.sum.load(Relaxed) as f64 * self.scale.unit,
        }
    }
}

fn bucket(scale: &Scale, value: u64) -> usize {
    scale.bounds.partition_point(|bound| *bound < value)
}

/// Histogram of one task, which is added to the shared one at once.
#[derive(Debug)]
pub struct LocalHistogram {
    scale: &'static Scale,
    counts: [u32; BOUNDS_MAX + 1],
    sum: u64,
}

impl LocalHistogram {
    /// Creates it empty.
    #[must_use]
    pub const fn new(scale: &'static Scale) -> Self {
        Self { scale, counts: [0; BOUNDS_MAX + 1], sum: 0 }
    }

    /// Records a value.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(self.scale, value)] += 1;
        self.sum += value;
    }

    /// Adds all values to `histogram`, which has the same scale, and starts again empty.
    pub fn flush(&mut self, histogram: &Histogram) {
        debug_assert!(std::ptr::eq(self.scale, histogram.scale), "another scale");
        for (count, shared) in self.counts.iter_mut().zip(&histogram.counts) {
            if *count > 0 {
                shared.fetch_add(u64::from(std::mem::take(count)), Relaxed);
            }
        }
        histogram.sum.fetch_add(std::mem::take(&mut self.sum), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, LocalHistogram, Scale};
    use std::time::Duration;

    static SCALE: Scale = Scale { bounds: &[0, 10, 100], unit: 0.5 };

    #[test]
    fn bounds_are_inclusive_and_larger_values_have_a_bucket() {
        let histogram = Histogram::new(&SCALE);
        for value in [0, 1, 10, 11, 100, 101, 1000] {
            histogram.record(value);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.bounds, [0.0, 5.0, 50.0]);
        assert_eq!(snapshot.counts, [1, 2, 2, 2]);
        assert_eq!(snapshot.sum, 1223.0 / 2.0);
        histogram.record_time(Duration::from_nanos(7));
        assert_eq!(histogram.snapshot().counts, [1, 3, 2, 2]);
    }

    #[test]
    fn a_local_histogram_adds_what_recording_directly_adds() {
        let (direct, flushed) = (Histogram::new(&SCALE), Histogram::new(&SCALE));
        let mut local = LocalHistogram::new(&SCALE);
        for value in [3, 30, 300, 0] {
            direct.record(value);
            local.record(value);
        }
        local.flush(&flushed);
        local.flush(&flushed);
        assert_eq!(direct.snapshot(), flushed.snapshot());
    }
}
