//! Marks of followers. The mark of a follower is the newest message that it wrote or that holds batches it handed over.
//!
//! A follower hands over batches together with the sequence up to which it has read. The batches are not stored up to
//! that sequence. Until the follower learns their outcome, it may hand over the same batches again or append them
//! itself. So of everything that it handed over since that sequence, only the first copy may be stored. A replica that
//! stores a message has read all earlier ones, so the marks show if a copy is stored already.

use std::collections::HashMap;
use std::time::Duration;

use super::bus::Address;
use super::message::Head;
use crate::record::UnixMicros;

/// Maximum number of followers that are remembered. A replica has one follower per topic, and a new one after a minute
/// without use.
const REMEMBERED_MAX: usize = 1024;

/// Marks of all followers in the messages after a sequence.
#[derive(Debug, Default)]
pub struct Marks {
    /// Sequence after which all marks are known.
    since: u64,
    /// Two ends of the topic with the times at which they were read. Messages after the older end are recent.
    ends: [(UnixMicros, u64); 2],
    newest: HashMap<Address, u64>,
}

/// State of batches that were built on a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The batches are not stored up to the end that was read.
    Open,
    /// These batches, or others of the same follower, are stored.
    Over,
    /// The marks since that sequence are not known.
    Unknown,
}

impl Marks {
    /// Forgets all marks. From now on, the marks after `sequence` are known.
    pub fn begin(&mut self, sequence: u64) {
        *self = Self { since: sequence, ..Self::default() };
    }

    /// Forgets marks that are so old that a `request_id` stored after them may have left the window. Messages after a
    /// sequence that is still known were read less than half the window ago, by this replica's steady clock. `end` is
    /// the newest sequence that was read.
    pub fn forget_old(&mut self, now: UnixMicros, end: u64, window: Duration) {
        let age = u128::from(now.0.saturating_sub(self.ends[1].0.0));
        let newest = (now, end);
        if age >= window.as_micros() / 4 {
            // The last call was so long ago that every message may be old.
            self.ends = [newest, newest];
        } else if age >= window.as_micros() / 8 {
            self.ends = [self.ends[1], newest];
        }
        self.since = self.since.max(self.ends[0].1);
    }

    /// Records the marks of a message.
    pub fn note(&mut self, sequence: u64, head: &Head) {
        let marked = head.handed.iter().map(|handed| handed.from).chain(head.by);
        self.newest.extend(marked.map(|address| (address, sequence)));
        while self.newest.len() > REMEMBERED_MAX
            && let Some((&oldest, &at)) = self.newest.iter().min_by_key(|(_, at)| **at)
        {
            self.newest.remove(&oldest);
            self.since = self.since.max(at);
        }
    }

    /// Returns the state of batches that `from` built on `base`.
    #[must_use]
    pub fn standing(&self, from: Address, base: u64) -> Standing {
        match self.newest.get(&from) {
            Some(newest) if *newest > base => Standing::Over,
            _ if base < self.since => Standing::Unknown,
            _ => Standing::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Duration, Head, Marks, Standing, UnixMicros};
    use crate::storage::jetstream::message::Handed;

    fn head(by: Option<Address>, handed: &[Address]) -> Head {
        let handed = handed.iter().map(|from| Handed { from: *from, nonce: 1, index: 0 }).collect();
        Head { by, handed, ..Head::default() }
    }

    #[test]
    fn a_mark_ends_what_was_built_before_it() {
        let [a, b, c] = [(); 3].map(|()| Address::random());
        let mut marks = Marks::default();
        marks.begin(10);
        assert_eq!(marks.standing(a, 10), Standing::Open);
        assert_eq!(marks.standing(a, 9), Standing::Unknown);
        marks.note(11, &head(Some(a), &[b]));
        assert_eq!(
            [a, b, c].map(|who| marks.standing(who, 10)),
            [Standing::Over, Standing::Over, Standing::Open]
        );
        assert_eq!([a, b, c].map(|who| marks.standing(who, 11)), [Standing::Open; 3]);
        assert_eq!(marks.standing(a, 9), Standing::Over, "known although the rest is not");
    }

    /// A base is known only if all messages after it were read less than half the window ago, whatever the timing.
    #[test]
    fn a_base_is_known_only_while_all_that_follows_it_is_new() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (window, who) = (Duration::from_secs(600), Address::random());
        let (mut now, mut marks, mut seen) = (1 << 50, Marks::default(), vec![1 << 50]);
        marks.begin(0);
        marks.forget_old(UnixMicros(now), 0, window);
        for _ in 0..10_000 {
            let most = if random.u8(..) == 0 { 2_000_000_000 } else { 5_000_000 };
            now += random.u64(..most);
            // A message is recorded before any batch is judged.
            if random.bool() {
                seen.push(now);
            }
            let end = seen.len() as u64 - 1;
            marks.forget_old(UnixMicros(now), end, window);
            for base in end.saturating_sub(300)..=end {
                let follows = seen.get(base as usize + 1).map_or(0, |at| now - at);
                let is_open = marks.standing(who, base) == Standing::Open;
                assert!(!is_open || follows < 300_000_000, "{follows} µs");
            }
            assert_eq!(marks.standing(who, end), Standing::Open);
        }
    }

    #[test]
    fn a_base_is_known_for_an_eighth_of_the_window() {
        let (window, who, mut marks) = (Duration::from_secs(600), Address::random(), Marks::default());
        for end in 0..1000 {
            marks.forget_old(UnixMicros((1 << 50) + end * 1_000_000), end, window);
            if end > 300 {
                assert_eq!(marks.standing(who, end - 75), Standing::Open);
                assert_eq!(marks.standing(who, end - 300), Standing::Unknown);
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let (first, mut marks) = (Address::random(), Marks::default());
        marks.note(1, &head(Some(first), &[]));
        for sequence in 2..2000 {
            marks.note(sequence, &head(Some(Address::random()), &[]));
        }
        assert_eq!(marks.standing(first, 0), Standing::Unknown);
        assert_eq!(marks.standing(first, 1999), Standing::Open);
        assert!(marks.newest.len() <= super::REMEMBERED_MAX);
    }
}
