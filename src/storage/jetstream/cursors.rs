//! Cursors between two reads of one topic: each is kept for whoever goes on reading where it stopped.

use std::sync::Mutex;

use async_nats::jetstream::consumer::PullConsumer;

/// Maximum number of cursors kept between reads of one topic. The least recently used one is dropped first.
const KEPT_MAX: usize = 64;

/// A consumer and the sequence of the message it delivers next.
#[derive(Debug)]
pub struct Cursor {
    /// The consumer.
    pub consumer: PullConsumer,
    /// Sequence of that message.
    pub next: u64,
}

/// Cursors that no reader uses at the moment.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Vec<Cursor>>);

impl Cursors {
    /// Takes the consumer that delivers the message `next` next.
    pub fn take(&self, next: u64) -> Option<PullConsumer> {
        let mut kept = self.0.lock().expect("no panic while it is held");
        let at = kept.iter().position(|cursor| cursor.next == next)?;
        Some(kept.remove(at).consumer)
    }

    /// Keeps a cursor for the next read.
    pub fn keep(&self, cursor: Cursor) {
        let mut kept = self.0.lock().expect("no panic while it is held");
        if kept.len() >= KEPT_MAX {
            // NATS removes its consumer after a while.
            kept.remove(0);
        }
        kept.push(cursor);
    }

    /// Drops all cursors.
    pub fn clear(&self) {
        self.0.lock().expect("no panic while it is held").clear();
    }
}
