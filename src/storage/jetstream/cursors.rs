//! Consumers of one topic that are stored between two reads. A read that continues where an earlier one stopped uses
//! the consumer of that one.

use std::sync::Mutex;

use async_nats::jetstream::consumer::PullConsumer;

/// Maximum number of cursors stored for one topic. The least recently used one is dropped first.
const KEPT_MAX: usize = 64;

/// Consumer together with the sequence of the message that it delivers next.
#[derive(Debug)]
pub struct Cursor {
    /// Handle of the consumer in NATS.
    pub consumer: PullConsumer,
    /// Sequence of the next message.
    pub next: u64,
}

/// Cursors that no reader uses at the moment, least recently used first.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Vec<Cursor>>);

impl Cursors {
    /// Removes and returns the consumer that delivers the message `next` next.
    pub fn take(&self, next: u64) -> Option<PullConsumer> {
        let mut kept = self.0.lock().expect("no panic while it is held");
        let at = kept.iter().position(|cursor| cursor.next == next)?;
        Some(kept.remove(at).consumer)
    }

    /// Stores a cursor for the next read.
    pub fn keep(&self, cursor: Cursor) {
        let mut kept = self.0.lock().expect("no panic while it is held");
        if kept.len() >= KEPT_MAX {
            // NATS removes the consumer once it has been idle for a while.
            kept.remove(0);
        }
        kept.push(cursor);
    }

    /// Drops all cursors.
    pub fn clear(&self) {
        self.0.lock().expect("no panic while it is held").clear();
    }
}
