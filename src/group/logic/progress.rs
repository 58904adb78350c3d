//! The offsets of a topic that a group has settled.

use super::ids::Span;
use super::spans::Spans;

/// The settled offsets of a topic. It holds the unsettled ones below the head, of which there are few, rather than the
/// settled ones above the floor.
///
/// ```text
///   settled        │ settled, except for `open`      │ unsettled
///  ────────────────┼─────────────────────────────────┼───────────▶ offsets
///                floor                             head
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    head: u64,
    open: Spans,
}

impl Progress {
    /// Everything before `offset` is settled, and nothing else.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { head: offset, open: Spans::default() }
    }

    /// Rebuilds it from what [`Self::head`] and [`Self::open`] returned.
    #[must_use]
    pub const fn of(head: u64, open: Spans) -> Self {
        Self { head, open }
    }

    /// Marks a span as settled.
    pub fn settle(&mut self, span: Span) {
        if span.end > self.head {
            if let Some(gap) = Span::new(self.head, span.start) {
                self.open.insert(gap);
            }
            self.head = span.end;
        }
        self.open.remove(span);
    }

    /// Marks what is settled of a span as unsettled.
    pub fn reopen(&mut self, span: Span) {
        if let Some(below) = Span::new(span.start, span.end.min(self.head)) {
            self.open.insert(below);
        }
    }

    /// Marks everything from `cut` on as unsettled.
    pub fn clip(&mut self, cut: u64) {
        self.head = self.head.min(cut);
        if let Some(beyond) = Span::new(self.head, u64::MAX) {
            self.open.remove(beyond);
        }
    }

    /// Returns true if this offset is settled.
    #[must_use]
    pub fn is_settled(&self, offset: u64) -> bool {
        offset < self.head && !self.open.contains(offset)
    }

    /// Smallest unsettled offset that is not below `from`.
    #[must_use]
    pub fn next_open(&self, from: u64) -> u64 {
        if from >= self.head { from } else { self.open.next_from(from).unwrap_or(self.head) }
    }

    /// The offset before which everything is settled.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.next_open(0)
    }

    /// The offset from which on nothing is settled.
    #[must_use]
    pub const fn head(&self) -> u64 {
        self.head
    }

    /// The unsettled offsets below the head, by value.
    #[must_use]
    pub fn into_open(self) -> Spans {
        self.open
    }

    /// The unsettled offsets below the head.
    #[must_use]
    pub const fn open(&self) -> &Spans {
        &self.open
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Span};

    #[test]
    fn the_floor_rises_only_when_everything_before_is_settled() {
        let mut progress = Progress::at(10);
        progress.settle(Span { start: 12, end: 20 });
        assert_eq!((progress.floor(), progress.head(), progress.next_open(12)), (10, 20, 20));
        assert!(progress.is_settled(9) && !progress.is_settled(11) && progress.is_settled(12));
        progress.settle(Span { start: 10, end: 11 });
        assert_eq!(progress.floor(), 11);
        progress.settle(Span { start: 5, end: 13 });
        assert_eq!((progress.floor(), progress.open().is_empty()), (20, true));
    }

    #[test]
    fn one_stuck_record_under_any_number_of_settled_ones_costs_one_span() {
        let mut progress = Progress::at(0);
        progress.settle(Span { start: 1, end: 1 << 50 });
        assert_eq!(progress.open().iter().count(), 1);
    }
}
