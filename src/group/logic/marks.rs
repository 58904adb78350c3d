//! Facts about unsettled records that were leased before.

use std::collections::BTreeMap;

use super::ids::{Fence, Span};
use crate::record::UnixMicros;

/// Facts that a group has to remember of an unsettled record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Number of deliveries that ended in a failure, and [`Mark::DEAD`] if its member gave it up for good.
    pub deliveries: u32,
    /// Time before which it is not delivered again.
    pub due: UnixMicros,
    /// Length of that delay, in milliseconds: a new owner waits no longer, whatever its clock says.
    pub delay_ms: u64,
    /// Tokens up to this fence settle the record no more.
    pub void_to: Fence,
}

impl Mark {
    /// Bit of a record that is to be delivered no more.
    pub const DEAD: u32 = 1 << 31;

    /// Number of deliveries that ended in a failure.
    #[must_use]
    pub const fn failures(self) -> u32 {
        self.deliveries & !Self::DEAD
    }

    /// Returns true if the record is to be delivered no more.
    #[must_use]
    pub const fn is_dead(self) -> bool {
        self.deliveries & Self::DEAD != 0
    }
}

/// Marks by span. Neighbours with the same mark are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<u64, (u64, Mark)>);

impl Marks {
    /// The mark of a record.
    #[must_use]
    pub fn get(&self, offset: u64) -> Option<Mark> {
        let (_, &(end, mark)) = self.0.range(..=offset).next_back()?;
        (offset < end).then_some(mark)
    }

    /// Replaces the marks of a span.
    pub fn set(&mut self, span: Span, mark: Mark) {
        self.remove(span);
        let mut span = span;
        if let Some((&start, &(end, same))) = self.0.range(..span.start).next_back()
            && end == span.start
            && same == mark
        {
            span.start = start;
        }
        if let Some(&(end, same)) = self.0.get(&span.end)
            && same == mark
        {
            self.0.remove(&span.end);
            span.end = end;
        }
        self.0.insert(span.start, (span.end, mark));
    }

    /// Voids the tokens of a span up to a fence, and keeps the rest of its marks.
    pub fn void(&mut self, span: Span, void_to: Fence) {
        let mut at = span.start;
        let marked: Vec<(Span, Mark)> = self.within(span).collect();
        for (part, mark) in marked {
            if let Some(bare) = Span::new(at, part.start) {
                self.set(bare, Mark { void_to, ..Mark::default() });
            }
            self.set(part, Mark { void_to: mark.void_to.max(void_to), ..mark });
            at = part.end;
        }
        if let Some(bare) = Span::new(at, span.end) {
            self.set(bare, Mark { void_to, ..Mark::default() });
        }
    }

    /// Forgets the marks of a span.
    pub fn remove(&mut self, span: Span) {
        let cut: Vec<(Span, Mark)> = self.touching(span).collect();
        for (part, mark) in cut {
            self.0.remove(&part.start);
            if part.start < span.start {
                self.0.insert(part.start, (span.start, mark));
            }
            if part.end > span.end {
                self.0.insert(span.end, (part.end, mark));
            }
        }
    }

    /// Shortens delays that would end later than their length from `now` on, as the clock of whoever stored them was ahead
    /// of this one's.
    pub fn shorten_delays(&mut self, now: UnixMicros) {
        for (_, mark) in self.0.values_mut() {
            let latest = now.0.saturating_add(mark.delay_ms.saturating_mul(1000));
            mark.due = mark.due.min(UnixMicros(latest));
        }
    }

    /// All marks in order.
    pub fn iter(&self) -> impl Iterator<Item = (Span, Mark)> + '_ {
        self.0.iter().map(|(&start, &(end, mark))| (Span { start, end }, mark))
    }

    /// The marks of a span, cut to it.
    fn within(&self, span: Span) -> impl Iterator<Item = (Span, Mark)> + '_ {
        self.touching(span).filter_map(move |(part, mark)| Some((part.intersect(span)?, mark)))
    }

    /// The marks that hold an offset of a span, whole.
    fn touching(&self, span: Span) -> impl Iterator<Item = (Span, Mark)> + '_ {
        let before = self.0.range(..span.start).next_back();
        before
            .into_iter()
            .chain(self.0.range(span.start..span.end))
            .map(|(&start, &(end, mark))| (Span { start, end }, mark))
            .filter(move |(part, _)| part.intersect(span).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{Fence, Mark, Marks, Span};

    #[test]
    fn a_mark_is_cut_where_another_one_is_set() {
        let mut marks = Marks::default();
        let mark = |deliveries| Mark { deliveries, ..Mark::default() };
        let span = |start, end| Span { start, end };
        marks.set(span(0, 10), mark(1));
        marks.set(span(3, 5), mark(2));
        marks.void(span(4, 12), Fence(7));
        let seen: Vec<(u64, u64)> =
            (0..13).filter_map(|at| marks.get(at).map(|m| (u64::from(m.deliveries), m.void_to.0))).collect();
        let same = |deliveries, fence, times| vec![(deliveries, fence); times];
        let expected = [same(1, 0, 3), same(2, 0, 1), same(2, 7, 1), same(1, 7, 5), same(0, 7, 2)].concat();
        assert_eq!(seen, expected);
        marks.remove(span(0, 10));
        marks.set(span(8, 10), Mark { void_to: Fence(7), ..Mark::default() });
        assert_eq!(marks.iter().collect::<Vec<_>>().len(), 1, "neighbours merge");
    }
}
