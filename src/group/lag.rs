//! The records that a group has not settled, counted.

use serde::{Deserialize, Serialize};

use super::logic::{GroupState, Load, Progress, Span};
use crate::record::Offset;
use crate::storage::{Error, Numbering, TopicLog};

/// Most ranges that are counted one by one: each costs two requests to NATS. All records after the last of them count as not
/// settled.
const RANGES_MAX: usize = 32;

/// Distance of a group from the tail of its topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// Records that are not settled, without the uncounted ones.
    pub records: u64,
    pub uncounted: Uncounted,
    /// Offset of the oldest record that is not settled.
    pub oldest: u64,
}

/// Records that are not settled and must be counted. Where offsets are dense, there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uncounted {
    /// Ranges of them, in order.
    #[serde(default, rename = "uncounted_ranges")]
    ranges: Vec<Span>,
    /// The offset from which on all are.
    #[serde(rename = "uncounted_from")]
    from: Option<Offset>,
}

impl Uncounted {
    /// Returns true if there are no such records.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.from.is_none()
    }

    /// Returns true if a topic holds none of them.
    pub(super) fn is_empty_in(&self, topic: &dyn TopicLog) -> bool {
        self.ranges.is_empty() && self.from.is_none_or(|from| from >= topic.tail())
    }

    /// Counts them.
    ///
    /// # Errors
    /// The storage's own.
    pub(super) async fn count(&self, topic: &dyn TopicLog) -> Result<u64, Error> {
        let mut records = 0;
        for range in &self.ranges {
            records += topic.records_between(Offset::new(range.start), Offset::new(range.end)).await?;
        }
        if let Some(from) = self.from {
            records += topic.records_between(from, topic.tail()).await?;
        }
        Ok(records)
    }
}

/// Finds how far a group is behind. In a topic with gaps between its offsets, records are known once they were read.
pub(super) fn behind(state: &GroupState, load: &Load, topic: &dyn TopicLog) -> Behind {
    let (earliest, tail) = (topic.earliest().get(), topic.tail().get());
    let is_dense = topic.state().numbering() == Numbering::Dense;
    let head = state.progress.head().clamp(earliest, tail.max(earliest));
    let oldest = state.progress.next_open(earliest).min(tail);
    if is_dense {
        let open = state.progress.open().iter();
        let open = open.map(|span| span.end.saturating_sub(span.start.max(earliest))).sum::<u64>();
        return Behind { records: tail.saturating_sub(head) + open, uncounted: Uncounted::default(), oldest };
    }
    let (records, read_to) = load.read_to.map_or((0, oldest), |read_to| (load.known, read_to.max(oldest)));
    Behind { records, uncounted: unread(&state.progress, read_to, head), oldest }
}

/// Records that a group has not settled from `read_to` on. From `head` on it has settled nothing.
fn unread(progress: &Progress, read_to: u64, head: u64) -> Uncounted {
    let below = Span::new(read_to, head);
    let mut open = below.into_iter().flat_map(|below| progress.open().within(below));
    let ranges: Vec<Span> = open.by_ref().take(RANGES_MAX).collect();
    let from = open.next().map_or(head.max(read_to), |next| next.start);
    Uncounted { ranges, from: Some(Offset::new(from)) }
}

#[cfg(test)]
mod tests {
    use super::{Offset, RANGES_MAX, Span, Uncounted, unread};
    use crate::group::logic::Progress;

    #[test]
    fn what_is_settled_behind_an_open_range_is_not_counted() {
        let mut progress = Progress::at(0);
        progress.settle(Span { start: 10, end: 500 });
        progress.settle(Span { start: 520, end: 3000 });
        let span = |start, end| Span { start, end };
        let expected = Uncounted { ranges: vec![span(0, 10), span(500, 520)], from: Some(Offset::new(3000)) };
        assert_eq!(unread(&progress, 0, 3000), expected);
        let expected = Uncounted { ranges: vec![span(505, 520)], from: Some(Offset::new(3000)) };
        assert_eq!(unread(&progress, 505, 3000), expected, "the rest was read");
        assert_eq!(
            unread(&progress, 4000, 3000),
            Uncounted { ranges: vec![], from: Some(Offset::new(4000)) }
        );
    }

    #[test]
    fn the_ranges_that_are_counted_one_by_one_are_bounded() {
        let mut progress = Progress::at(0);
        (0..100).for_each(|n| progress.settle(Span { start: n * 10 + 5, end: n * 10 + 10 }));
        let uncounted = unread(&progress, 0, 1000);
        let after = Offset::new(RANGES_MAX as u64 * 10);
        assert_eq!((uncounted.ranges.len(), uncounted.from), (RANGES_MAX, Some(after)));
    }
}
