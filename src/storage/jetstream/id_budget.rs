//! Limit on the request ids that the windows of all topics hold together: `storage.request_ids_max`, the same number as
//! for a server with a single window. Above the limit, a window that holds more than an equal share drops its oldest
//! ids. It does so at its follower's next tick; until then, windows that hold less may exceed the limit by an eighth.
//! While a follower reads older ids, the window of those newer ones that are stored meanwhile keeps its share in any case:
//! the window of the older ones gives way with the next id that is read.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::record::UnixMicros;
use crate::storage::window::Window;

/// Count of the ids in all windows.
#[derive(Debug)]
pub struct IdBudget {
    ids_max: usize,
    held: AtomicUsize,
    /// Number of windows that hold at least one id.
    windows: AtomicUsize,
}

impl IdBudget {
    /// Creates a budget of at most `ids_max` ids.
    #[must_use]
    pub const fn new(ids_max: usize) -> Self {
        Self { ids_max, held: AtomicUsize::new(0), windows: AtomicUsize::new(0) }
    }

    /// Number of ids held by all windows.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Number of ids that a window which holds `own` may keep once the others have dropped what exceeds their share.
    fn fair(&self, own: usize) -> usize {
        let share = (self.ids_max / self.windows.load(Ordering::Acquire).max(1)).max(1);
        self.within(self.ids_max, own).max(share)
    }

    /// Number of ids that a window which holds `own` may keep now.
    fn allowed(&self, own: usize) -> usize {
        self.fair(own).min(self.within(self.ids_max + self.ids_max / 8, own))
    }

    /// Number of ids that a window which holds `own` may keep so that all windows hold at most `max`.
    fn within(&self, max: usize, own: usize) -> usize {
        own.saturating_sub(self.held().saturating_sub(max))
    }

    /// Updates the counts for a window that held `before` ids and now holds `after`.
    fn count(&self, before: usize, after: usize) {
        if after >= before {
            self.held.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.held.fetch_sub(before - after, Ordering::AcqRel);
        }
        match (before, after) {
            (0, 1..) => drop(self.windows.fetch_add(1, Ordering::AcqRel)),
            (1.., 0) => drop(self.windows.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
    }
}

/// Window whose ids are counted in the budget.
#[derive(Debug)]
pub struct CountedWindow {
    window: Window,
    budget: Arc<IdBudget>,
    counted: usize,
}

impl CountedWindow {
    /// Wraps a window that holds no ids yet.
    #[must_use]
    pub const fn new(window: Window, budget: Arc<IdBudget>) -> Self {
        Self { window, budget, counted: 0 }
    }

    /// Creates an empty window with the same keys and limits, counted in the same budget.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self::new(self.window.empty(), self.budget.clone())
    }

    /// Changes the window, then drops the ids that exceed the budget.
    pub fn change(&mut self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window);
        self.recount();
        self.keep_to_budget();
    }

    /// Changes a window of ids that are stored while older ones are read.
    pub fn change_newest(&mut self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window);
        self.recount();
        self.keep_share();
    }

    /// Drops ids that exceed the budget because other windows hold more than before.
    pub fn keep_to_budget(&mut self) {
        self.keep(self.budget.allowed(self.counted));
    }

    /// Drops ids that exceed an equal share of the budget if other windows need theirs.
    pub fn keep_share(&mut self) {
        self.keep(self.budget.fair(self.counted));
    }

    fn keep(&mut self, allowed: usize) {
        if allowed < self.counted {
            self.window.forget_beyond(allowed);
            self.recount();
        }
    }

    /// Adds all ids of a window that was made by [`Self::empty`].
    pub fn absorb(&mut self, mut other: Self, now: UnixMicros) {
        let empty = other.window.empty();
        let window = std::mem::replace(&mut other.window, empty);
        drop(other);
        self.change(|own| own.absorb(window, now));
    }

    fn recount(&mut self) {
        let count = self.window.count();
        self.budget.count(self.counted, count);
        self.counted = count;
    }
}

impl Deref for CountedWindow {
    type Target = Window;

    fn deref(&self) -> &Window {
        &self.window
    }
}

impl Drop for CountedWindow {
    fn drop(&mut self) {
        self.budget.count(self.counted, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{CountedWindow, IdBudget};
    use crate::record::{Offset, Scope, UnixMicros};
    use crate::storage::window::{Owner, Stored, Window};
    use std::sync::Arc;
    use std::time::Duration;

    fn windows(budget: &Arc<IdBudget>, count: usize) -> Vec<CountedWindow> {
        let new = || Window::new(Duration::from_secs(600), usize::MAX, UnixMicros(0));
        (0..count).map(|_| CountedWindow::new(new(), budget.clone())).collect()
    }

    fn add(window: &mut Window, n: u64) {
        let (key, time) = (window.key(0, Scope::NONE, &n.to_be_bytes()), UnixMicros(n));
        let (first, owner) = (Offset::new(n), Owner::of(Scope::NONE));
        window.insert(key, Stored { first, span: 1, content: 0, owner, time, at: time }, time);
    }

    fn insert(counted: &mut CountedWindow, n: u64) {
        counted.change(|window| add(window, n));
    }

    fn knows(counted: &CountedWindow, n: u64) -> bool {
        counted.find(0, Scope::NONE, &n.to_be_bytes(), UnixMicros(n)).1.is_some()
    }

    #[test]
    fn one_window_may_hold_all_and_keeps_the_newest() {
        let budget = Arc::new(IdBudget::new(80));
        let mut window = windows(&budget, 1).remove(0);
        (0..200).for_each(|n| insert(&mut window, n));
        assert_eq!((budget.held(), window.count()), (80, 80));
        assert!(knows(&window, 120) && !knows(&window, 119));
        drop(window);
        assert_eq!((budget.held(), windows(&budget, 1)[0].count()), (0, 0));
    }

    #[test]
    fn ids_stored_while_older_ones_are_read_are_kept_in_their_place() {
        let budget = Arc::new(IdBudget::new(80));
        let mut older = windows(&budget, 1).remove(0);
        (0..200).for_each(|n| insert(&mut older, n));
        let mut later = older.empty();
        for n in 200..230 {
            later.change_newest(|window| add(window, n));
        }
        assert_eq!((older.count(), later.count()), (80, 30));
        insert(&mut older, 200);
        assert_eq!(budget.held(), 80);
        older.absorb(later, UnixMicros(230));
        assert_eq!(budget.held(), older.count());
        assert!((200..230).all(|n| knows(&older, n)));
    }

    #[test]
    fn windows_never_hold_more_together_and_a_new_one_gets_its_share() {
        let budget = Arc::new(IdBudget::new(80));
        let mut windows = windows(&budget, 4);
        (0..200).for_each(|n| insert(&mut windows[0], n));
        for n in 0..100 {
            for window in &mut windows[1..] {
                insert(window, n);
                assert!(budget.held() <= 90, "{}", budget.held());
            }
            // The window with the most ids drops some at its next tick.
            windows[0].keep_to_budget();
            assert!(n == 0 || budget.held() <= 80, "{}", budget.held());
        }
        let counts: Vec<_> = windows.iter().map(|window| window.count()).collect();
        assert!(counts.iter().all(|count| *count >= 16), "{counts:?}");
        assert!(windows.iter().zip([199, 99, 99, 99]).all(|(window, newest)| knows(window, newest)));
        // The other windows may use the ids that a dropped window held.
        windows.truncate(1);
        (200..300).for_each(|n| insert(&mut windows[0], n));
        assert_eq!(windows[0].count(), 80);
    }
}
