//! Remainders of messages of which a first frame was sent. Those that can be read from the log again are evicted,
//! least recently used first, when they exceed their part of the budget; others are pinned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Consecutive bytes in several buffers.
pub type Pieces = VecDeque<Bytes>;

/// All evictable remainders of the server.
#[derive(Debug)]
pub(super) struct Remainders {
    stored: Mutex<ByAge>,
    bytes_max: usize,
}

/// Remainders by the ticket they were stored under; tickets rise with time.
#[derive(Debug, Default)]
struct ByAge {
    next_ticket: u64,
    bytes: usize,
    remainders: BTreeMap<u64, (usize, Pieces)>,
}

impl Remainders {
    pub(super) const fn new(bytes_max: usize) -> Self {
        let stored = ByAge { next_ticket: 0, bytes: 0, remainders: BTreeMap::new() };
        Self { stored: Mutex::new(stored), bytes_max }
    }

    /// Bytes of memory that evictable remainders occupy.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, ByAge> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, pieces: Pieces, bytes: usize) -> u64 {
        let mut evicted = Vec::new();
        let mut stored = self.lock();
        stored.bytes += bytes;
        while stored.bytes > self.bytes_max {
            let Some((_, (bytes, pieces))) = stored.remainders.pop_first() else { break };
            stored.bytes -= bytes;
            evicted.push(pieces);
        }
        let ticket = stored.next_ticket;
        stored.next_ticket += 1;
        stored.remainders.insert(ticket, (bytes, pieces));
        // The evicted buffers are freed without the lock.
        drop(stored);
        ticket
    }

    fn remove(&self, ticket: u64) -> Option<Pieces> {
        let mut stored = self.lock();
        let (bytes, pieces) = stored.remainders.remove(&ticket)?;
        stored.bytes -= bytes;
        Some(pieces)
    }
}

/// A slot for the remainder of one message.
#[derive(Debug)]
pub struct Remainder {
    all: Arc<Remainders>,
    /// The ticket of an evictable remainder.
    ticket: Option<u64>,
    pinned: Pieces,
}

impl Remainder {
    pub(super) const fn new(all: Arc<Remainders>) -> Self {
        Self { all, ticket: None, pinned: Pieces::new() }
    }

    /// Stores a remainder that can be read again, and may therefore be evicted. `bytes` is the memory that its
    /// pieces keep allocated, which can be more than their length.
    pub fn put(&mut self, pieces: Pieces, bytes: usize) {
        self.clear();
        self.ticket = Some(self.all.insert(pieces, bytes));
    }

    /// Stores a remainder that cannot be read again, and is never evicted.
    pub fn put_pinned(&mut self, pieces: Pieces) {
        self.clear();
        self.pinned = pieces;
    }

    /// Takes the remainder out; none where it was evicted.
    pub fn take(&mut self) -> Option<Pieces> {
        match self.ticket.take() {
            Some(ticket) => self.all.remove(ticket),
            None if self.pinned.is_empty() => None,
            None => Some(std::mem::take(&mut self.pinned)),
        }
    }

    fn clear(&mut self) {
        drop(self.take());
    }
}

impl Drop for Remainder {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Bytes, Pieces, Remainder, Remainders};

    fn pieces(len: usize) -> Pieces {
        [Bytes::from(vec![7; len])].into()
    }

    #[test]
    fn the_least_recently_used_remainder_is_evicted_and_a_pinned_one_never() {
        let all = Arc::new(Remainders::new(3 << 10));
        let mut slots: Vec<_> = (0..4).map(|_| Remainder::new(Arc::clone(&all))).collect();
        slots[0].put_pinned(pieces(5000));
        for slot in &mut slots[1..3] {
            slot.put(pieces(1), 1000);
        }
        // The first evictable one is used, so that the second is now the least recently used.
        let used = slots[1].take().expect("stored");
        slots[1].put(used, 1000);
        slots[3].put(pieces(1), 1500);
        let left: Vec<_> = slots.iter_mut().map(|slot| slot.take().is_some()).collect();
        assert_eq!(left, [true, true, false, true]);
        slots[1].put(pieces(1), 9000);
        assert!(slots[1].take().is_some(), "a single remainder is stored whatever its size");
        slots[2].put(pieces(1), 10);
        drop(slots);
        assert_eq!(all.bytes(), 0);
    }
}
