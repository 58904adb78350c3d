//! Counts of groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::metric::{Counter, Gauge};

/// Counts of groups, all together, and their lag by topic.
#[derive(Debug)]
pub struct Groups {
    /// Records leased.
    pub leased: Counter,
    /// Records leased again after a delivery that failed.
    pub redelivered: Counter,
    /// Records settled.
    pub settled: Counter,
    /// Records settled when their lease was lost.
    pub lost: Counter,
    /// Records that members lost.
    pub revoked: Counter,
    /// Records of which a copy went to a dead letter topic.
    pub dead_lettered: Counter,
    /// Members whose call is open.
    pub members: Gauge,
    /// Number of groups.
    pub count: Gauge,
    /// Worst lag of each topic's groups when they were sampled.
    worst: Mutex<Worst>,
}

/// Worst lag by the topic's label.
type Worst = BTreeMap<Arc<str>, GroupLag>;

/// How far groups are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLag {
    /// Most records that one of them has not settled.
    pub records: u64,
    /// Age of the oldest record that one of them has not settled.
    pub age: Duration,
}

impl GroupLag {
    /// Returns the worse of each.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { records: self.records.max(other.records), age: self.age.max(other.age) }
    }
}

impl Groups {
    pub(super) const fn new() -> Self {
        Self {
            leased: Counter::new(),
            redelivered: Counter::new(),
            settled: Counter::new(),
            lost: Counter::new(),
            revoked: Counter::new(),
            dead_lettered: Counter::new(),
            members: Gauge::new(),
            count: Gauge::new(),
            worst: Mutex::new(Worst::new()),
        }
    }

    /// Replaces the lags by label.
    pub fn update(&self, worst: Worst) {
        *self.worst.lock().unwrap_or_else(PoisonError::into_inner) = worst;
    }

    pub(super) fn worst(&self) -> Worst {
        self.worst.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
