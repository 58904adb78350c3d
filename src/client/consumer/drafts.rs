//! Settlements on their way: results that were not sent, and settlements that were not answered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::received::{Handled, Rejection};
use crate::proto::v1;

/// Most ranges of a settlement; the server takes 1,000.
const RANGES_MAX: usize = 500;
/// Longest reason in bytes that the server takes.
const REASON_BYTES_MAX: usize = 1024;

/// The parts of a settlement, which take effect in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Ack,
    Nack,
    DeadLetter,
    Return,
}

/// Results of records of one lease.
#[derive(Debug)]
struct Draft {
    fence: u64,
    message: v1::Settlement,
    ranges: usize,
    last: Part,
    /// The part of each record, by offset. Records are removed as they are answered.
    parts: BTreeMap<u64, Part>,
}

/// Settlements in the order in which they take effect.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    /// True where records are handled in an order, so that their results must take effect in that order too.
    pub(super) keeps_order: bool,
    unsent: VecDeque<Draft>,
    /// Settlements without an answer, by number.
    sent: BTreeMap<u64, Draft>,
    number: u64,
}

impl Drafts {
    /// Adds the result of a record.
    pub(super) fn add(&mut self, fence: u64, offset: u64, handled: Handled) {
        let part = match &handled {
            Ok(()) => Part::Ack,
            Err(Rejection::Retry { .. }) => Part::Nack,
            Err(Rejection::DeadLetter { .. }) => Part::DeadLetter,
            Err(Rejection::Return) => Part::Return,
        };
        let takes = |draft: &Draft| draft.fence == fence && draft.ranges < RANGES_MAX;
        let draft = if self.keeps_order {
            self.unsent.back_mut().filter(|draft| takes(draft) && draft.last <= part)
        } else {
            self.unsent.iter_mut().rev().find(|draft| takes(draft))
        };
        if let Some(draft) = draft {
            return draft.add(offset, part, handled);
        }
        let mut draft = Draft {
            fence,
            message: v1::Settlement::default(),
            ranges: 0,
            last: part,
            parts: BTreeMap::new(),
        };
        draft.add(offset, part, handled);
        self.unsent.push_back(draft);
    }

    /// Gives back ranges that nothing is known about.
    pub(super) fn give_back(&mut self, fence: u64, ranges: Vec<v1::OffsetRange>) {
        for ranges in ranges.chunks(RANGES_MAX) {
            let message = v1::Settlement { returns: ranges.to_vec(), ..v1::Settlement::default() };
            let parts: BTreeMap<_, _> = ranges.iter().map(|range| (range.start, Part::Return)).collect();
            self.unsent.push_back(Draft { fence, message, ranges: ranges.len(), last: Part::Return, parts });
        }
    }

    /// Returns true if something is to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Returns true if nothing is to be sent, and everything was answered.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.sent.is_empty()
    }

    /// The next settlement to send, for the token of its lease. A result whose lease was lost before it was ever sent is
    /// dropped: its records come again.
    pub(super) fn next(&mut self, token: impl Fn(u64) -> Option<bytes::Bytes>) -> Option<v1::Settlement> {
        let mut draft = loop {
            let mut draft = self.unsent.pop_front()?;
            if let Some(token) = token(draft.fence) {
                draft.message.token = token;
            }
            if !draft.message.token.is_empty() {
                break draft;
            }
        };
        if draft.message.number == 0 {
            self.number += 1;
            draft.message.number = self.number;
        }
        let message = draft.message.clone();
        self.sent.insert(message.number, draft);
        Some(message)
    }

    /// Sends again what was not answered by a call that broke.
    pub(super) fn resend(&mut self) {
        let mut again: VecDeque<Draft> = std::mem::take(&mut self.sent).into_values().collect();
        again.append(&mut self.unsent);
        self.unsent = again;
    }

    /// Takes the answer to a range: the lease's fence, and the part of each record that it answers.
    pub(super) fn answered(&mut self, outcome: &v1::Outcome) -> Option<(u64, Vec<(u64, Part)>)> {
        let range = outcome.range?;
        let draft = self.sent.get_mut(&outcome.number)?;
        let offsets: Vec<u64> =
            draft.parts.range(range.start..range.end.max(range.start)).map(|(at, _)| *at).collect();
        let answered: Vec<_> = offsets.into_iter().filter_map(|at| draft.parts.remove_entry(&at)).collect();
        let fence = draft.fence;
        if draft.parts.is_empty() {
            self.sent.remove(&outcome.number);
        }
        Some((fence, answered))
    }
}

impl Draft {
    fn add(&mut self, offset: u64, part: Part, handled: Handled) {
        let range = v1::OffsetRange { start: offset, end: offset + 1 };
        match handled {
            Ok(()) => self.ranges += extend(&mut self.message.acks, range),
            Err(Rejection::Return) => self.ranges += extend(&mut self.message.returns, range),
            Err(Rejection::Retry { delay, reason }) => {
                let (delay, reason) = (delay.map(duration), shortened(reason));
                self.message.nacks.push(v1::Nack { range: Some(range), delay, reason });
                self.ranges += 1;
            }
            Err(Rejection::DeadLetter { reason }) => {
                let reason = shortened(reason);
                self.message.dead_letters.push(v1::DeadLetter { range: Some(range), reason });
                self.ranges += 1;
            }
        }
        self.last = part;
        self.parts.insert(offset, part);
    }
}

/// Adds a range to the last one if it continues that. Returns the number of new ranges.
fn extend(ranges: &mut Vec<v1::OffsetRange>, range: v1::OffsetRange) -> usize {
    if let Some(last) = ranges.last_mut()
        && last.end == range.start
    {
        last.end = range.end;
        return 0;
    }
    ranges.push(range);
    1
}

fn duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

fn shortened(mut reason: String) -> String {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
    reason.truncate(end.unwrap_or(0));
    reason
}

#[cfg(test)]
mod tests {
    use super::{Drafts, Part};
    use crate::client::consumer::received::Rejection;
    use crate::proto::v1;

    fn range(start: u64, end: u64) -> v1::OffsetRange {
        v1::OffsetRange { start, end }
    }

    #[test]
    fn acknowledgements_of_one_lease_are_one_settlement_with_few_ranges() {
        let mut drafts = Drafts::default();
        for (fence, offset) in [(1, 0), (2, 9), (1, 1), (1, 3)] {
            drafts.add(fence, offset, Ok(()));
        }
        let first = drafts.next(|_| Some("one".into())).unwrap();
        assert_eq!((first.number, &first.token[..]), (1, &b"one"[..]));
        assert_eq!(first.acks, [range(0, 2), range(3, 4)]);
        assert_eq!(drafts.next(|_| Some("two".into())).unwrap().acks, [range(9, 10)]);
        assert!(!drafts.has_unsent());
        let outcome = v1::Outcome { number: 1, range: Some(range(0, 2)), result: 1 };
        assert_eq!(drafts.answered(&outcome), Some((1, vec![(0, Part::Ack), (1, Part::Ack)])));
        assert_eq!(drafts.answered(&outcome), Some((1, vec![])), "an answer that is repeated");
        // The call breaks: what was not answered is sent again, before what is new, under its number.
        drafts.add(3, 20, Ok(()));
        drafts.resend();
        let again = [drafts.next(|_| None).unwrap(), drafts.next(|_| None).unwrap()];
        assert_eq!(again.map(|draft| draft.number), [1, 2]);
        assert!(drafts.next(|_| None).is_none(), "a lease that was lost before it was settled has no token");
        drafts.add(3, 21, Ok(()));
        assert_eq!(drafts.next(|_| Some("three".into())).unwrap().number, 3);
    }

    /// The parts of one message take effect in the order of its fields, not in that of the results.
    #[test]
    fn results_take_effect_in_their_order_where_records_have_one() {
        let mut drafts = Drafts { keeps_order: true, ..Drafts::default() };
        drafts.add(1, 0, Err(Rejection::dead_letter("x")));
        drafts.add(1, 1, Ok(()));
        drafts.add(2, 5, Ok(()));
        drafts.add(1, 2, Ok(()));
        let sent: Vec<_> = std::iter::from_fn(|| drafts.next(|_| Some("one".into()))).collect();
        assert_eq!(sent.len(), 4, "{sent:?}");
        assert_eq!(sent[0].dead_letters[0].range, Some(range(0, 1)));
        assert_eq!((&sent[1].acks, &sent[3].acks), (&vec![range(1, 2)], &vec![range(2, 3)]));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut drafts = Drafts::default();
        drafts.add(1, 0, Err(Rejection::retry("ü".repeat(600) + "x")));
        let reason = &drafts.next(|_| Some("one".into())).unwrap().nacks[0].reason;
        assert_eq!(reason.len(), 1024);
    }
}
