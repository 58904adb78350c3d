//! The history of a group: what its members were leased, what they acknowledged, and what was confirmed, in the order in
//! which they saw it. [`judge`](judge::judge) decides once, about the whole history, whether P11 to P14 were kept.

#[cfg(test)]
mod doctored;
pub mod judge;
pub mod load;
pub mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::harness::within;

/// Something that a member did or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record came.
    Leased { session: u64, process: u64, fence: u64, offset: u64 },
    /// A session that was taken up again holds a record, which may never have come.
    Held { session: u64, offset: u64 },
    /// An acknowledgement is about to be sent.
    Acking { fence: u64, offset: u64 },
    /// An acknowledgement was confirmed.
    Settled { process: u64, fence: u64, offset: u64 },
    /// An acknowledgement was refused.
    Lost { fence: u64, offset: u64 },
}

/// Recorder of a history. All members share one, so that the order of its events is one that they agree on.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    events: Mutex<Vec<Event>>,
    settled: watch::Sender<u64>,
    /// Number of the server's process. It is counted while no process lives, so that a member that reads the same number
    /// before and after its join knows its process.
    process: AtomicU64,
}

impl Recorder {
    pub fn record(&self, event: Event) {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        if matches!(event, Event::Settled { .. }) {
            self.0.settled.send_modify(|count| *count += 1);
        }
    }

    /// Number of confirmations.
    pub fn settled(&self) -> u64 {
        *self.0.settled.borrow()
    }

    /// Waits for so many more confirmations.
    pub async fn reach(&self, more: u64) {
        let mut count = self.0.settled.subscribe();
        let want = self.settled() + more;
        within(180, "confirmations", count.wait_for(|count| *count >= want)).await.expect("we hold it");
    }

    pub fn process(&self) -> u64 {
        self.0.process.load(Ordering::SeqCst)
    }

    /// Counts the next process, between the end of one and the start of the next.
    pub fn next_process(&self) {
        self.0.process.fetch_add(1, Ordering::SeqCst);
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
