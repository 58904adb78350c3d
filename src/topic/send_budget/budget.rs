//! The counters of the budget, for the server and for one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::remainders::Remainders;

/// The frames of one connection become small once they use this fraction (1/4) of the budget for all frames.
const CONNECTION_SHARE: usize = 4;

/// One counter of bytes with its limit. The last addition may exceed the limit.
#[derive(Debug)]
pub(super) struct Counter {
    used: AtomicUsize,
    max: usize,
}

impl Counter {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    pub(super) fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.max
    }

    pub(super) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A handle to the server's budget, or to one connection's part of it.
#[derive(Clone, Debug)]
pub struct SendBudget {
    frames: Arc<Counter>,
    /// The connection's own frames; the same counter as `frames` in a handle to the server's budget.
    connection: Arc<Counter>,
    pub(super) receipts: Arc<Counter>,
    pub(super) remainders: Arc<Remainders>,
}

impl SendBudget {
    /// A budget of `bytes_max` bytes: four eighths for frames, three for remainders, one for receipts.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let eighth = (bytes_max / 8).max(1);
        let frames = Counter::new(4 * eighth);
        let remainders = Arc::new(Remainders::new(3 * eighth));
        Self { connection: Arc::clone(&frames), frames, receipts: Counter::new(eighth), remainders }
    }

    /// A new connection's part of the budget.
    #[must_use]
    pub fn for_connection(&self) -> Self {
        Self { connection: Counter::new(self.frames.max / CONNECTION_SHARE), ..self.clone() }
    }

    /// Returns true while so much is unread that frames are small.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.frames.is_full() || self.connection.is_full()
    }

    /// Bytes in use by all connections.
    #[must_use]
    pub fn used(&self) -> usize {
        let counted = [&self.frames, &self.receipts].map(|counter| counter.used.load(Ordering::Relaxed));
        counted.iter().sum::<usize>() + self.remainders.bytes()
    }

    pub(super) fn add_frame(&self, bytes: usize) {
        self.frames.add(bytes);
        if !Arc::ptr_eq(&self.frames, &self.connection) {
            self.connection.add(bytes);
        }
    }

    pub(super) fn release_frame(&self, bytes: usize) {
        self.frames.release(bytes);
        if !Arc::ptr_eq(&self.frames, &self.connection) {
            self.connection.release(bytes);
        }
    }
}
