//! Handles to what is open, by slot. What is open keeps its slot, so that a list continues where a page ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;

/// Handles by slot.
#[derive(Debug)]
pub(super) struct Slots<T>(Mutex<Slab<Weak<T>>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Slots<T> {
    /// Adds what `make` makes for its slot.
    pub(super) fn add(&self, make: impl FnOnce(usize) -> T) -> Arc<T> {
        let mut slots = self.lock();
        let slot = slots.vacant_entry();
        let made = Arc::new(make(slot.key()));
        slot.insert(Arc::downgrade(&made));
        made
    }

    /// Frees a slot.
    pub(super) fn remove(&self, slot: usize) {
        self.lock().try_remove(slot);
    }

    /// Returns the number of slots in use.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Looks at `limit` slots from `first` on. Returns what is open in them, and the slot to continue at; none where
    /// there are no more.
    pub(super) fn page(&self, first: usize, limit: usize) -> (Vec<Arc<T>>, Option<usize>) {
        let slots = self.lock();
        let end = slots.capacity();
        let next = first.saturating_add(limit).min(end);
        // Nothing may be dropped under the lock: dropping the last handle takes the lock.
        let found = (first..next).filter_map(|slot| slots.get(slot)?.upgrade()).collect();
        drop(slots);
        (found, (next < end).then_some(next))
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn what_stays_open_is_listed_once_whatever_comes_and_goes() {
        let slots = Slots::default();
        let mut open: Vec<_> = (0..10).map(|i| (i, slots.add(|slot| (slot, i)))).collect();
        let mut remove = |i: usize| {
            let at = open.iter().position(|(known, _)| *known == i).unwrap();
            slots.remove(open.remove(at).1.0);
        };
        (0..5).for_each(|i| remove(2 * i));
        let (first, next) = slots.page(0, 4);
        assert_eq!(first.iter().map(|entry| entry.1).collect::<Vec<_>>(), [1, 3]);
        let new = slots.add(|slot| (slot, 100));
        assert!(new.0 < 9, "a free slot is used again");
        let (second, after) = slots.page(next.unwrap(), usize::MAX);
        let seen: Vec<_> = second.iter().map(|entry| entry.1).filter(|i| *i < 100).collect();
        assert_eq!((seen, after, slots.len()), (vec![5, 7, 9], None, 6));
        assert!(slots.page(usize::MAX, 1).0.is_empty());
    }
}
