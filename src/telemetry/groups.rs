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

/// Lag of the groups of a topic, and the counts that explain it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLag {
    /// Most records that one of them has not settled.
    pub records: u64,
    /// Age of the oldest record that one of them has not settled.
    pub age: Duration,
    /// Most keys that are blocked in one of them.
    pub blocked_keys: u64,
    /// Number of those that read no further.
    pub stalled: u64,
}

impl GroupLag {
    /// Returns the worse of each, and the number of all stalled ones.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            records: self.records.max(other.records),
            age: self.age.max(other.age),
            blocked_keys: self.blocked_keys.max(other.blocked_keys),
            stalled: self.stalled + other.stalled,
        }
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
