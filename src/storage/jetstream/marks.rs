//! Which messages bear whose mark: a follower's own commits, and those that hold batches it handed over.
//!
//! Batches that a follower hands over were stored nowhere up to a sequence that it had read, and while
//! nobody knows what became of them it hands over the same again, or appends them itself. So of all that
//! it handed over since that sequence at most one may be stored: the first. Whoever stores a message has
//! read everything before it, and sees here whether one was.
//!
//! Never: guesses; what it does not know, it says.

use std::collections::HashMap;

use super::bus::Address;
use super::message::Head;

/// Most followers remembered: each replica has one at a time, and a new one after a minute without use.
const REMEMBERED_MAX: usize = 1024;

/// Who left marks after a sequence.
#[derive(Debug, Default)]
pub struct Marks {
    /// All marks after this are known.
    since: u64,
    newest: HashMap<Address, u64>,
}

/// Whether batches may still be stored that were built on a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are stored nowhere before the end that was read.
    Open,
    /// They, or others in their place, are stored.
    Over,
    /// What was stored so early is not known here.
    Unknown,
}

impl Marks {
    /// Knows nothing up to a sequence.
    pub fn begin(&mut self, sequence: u64) {
        *self = Self { since: sequence, newest: HashMap::new() };
    }

    /// Takes notice of a message.
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

    /// How it stands with batches of `from` that were built on `base`.
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
    use super::{Address, Head, Marks, Standing};
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
