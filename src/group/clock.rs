//! The clock of leases, and the right to hand them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time since the machine was started, that in which it slept included.
pub(super) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Right to hand out the leases of an owner, which another one may follow. It ends unless it is prolonged. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Right(Arc<AtomicU64>);

impl Right {
    /// Prolongs it up to a time since the machine's start.
    pub(super) fn prolong(&self, until: Duration) {
        self.0.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns true until it has ended.
    pub(super) fn holds(&self) -> bool {
        since_boot() < Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}
