//! The state of a group in a backup, and the group that is restored from it.

use std::time::Duration;

use super::command::{About, Piece};
use super::event::{Output, Refusal, Ticket};
use super::ids::{Fence, GroupId, Span, Term};
use super::marks::{Mark, Marks};
use super::owner::{Owner, Then};
use super::state::GroupState;
use crate::record::Epoch;

/// Terms that a restore leaves to owners that came after the backup, so that no fence of theirs is as high as one that
/// is given after the restore. The server that made the backup counts its terms on, so this matters only for another one,
/// which cannot know how many there were.
pub const TERMS_PER_RESTORE: u64 = 4096;
/// Time for which a restore leaves one more term: more owners than that follow each other only for a while.
const TIME_PER_TERM: Duration = Duration::from_secs(60);

impl About {
    /// The terms before a restore of a state that was saved this long ago. None if they leave too few for the owners
    /// after it.
    #[must_use]
    pub fn past_terms_restored(&self, age: Duration) -> Option<Term> {
        let of_time = age.as_secs() / TIME_PER_TERM.as_secs();
        let past = self.past_terms.0.checked_add(TERMS_PER_RESTORE)?.checked_add(of_time)?;
        (past <= Term::MAX.0 / 2).then_some(Term(past))
    }
}

impl Owner {
    /// The durable state of a group for a backup, in parts.
    #[must_use]
    pub fn saved(&self, group: GroupId) -> Option<Vec<Piece>> {
        let mut state = self.shard().group(group)?.clone();
        state.about.past_terms.0 += self.term.0;
        Some(state.parts())
    }

    /// Creates a group as a backup of it was.
    pub(super) fn restore(&mut self, ticket: Ticket, group: GroupId, state: &GroupState) {
        if self.projected(group).is_some() {
            return self.say(Output::Refused { ticket, reason: Refusal::GroupExists });
        }
        let mut state = state.clone();
        state.marks.shorten_delays(self.now.wall);
        self.append_state(group, &state, Then::Nothing, vec![Output::Done { ticket }]);
    }
}

impl GroupState {
    /// Joins the parts of a backup to the state of the group in a restored topic, which is of this epoch and holds the
    /// records before `cut`, and which was saved this long ago. Leases of the time before are not known any more, and their tokens settle nothing, as they
    /// name the earlier epoch. None if the parts are not of one group, or it leaves too few terms.
    #[must_use]
    pub fn restored(parts: &[Piece], epoch: Epoch, cut: u64, age: Duration) -> Option<Self> {
        let (first, rest) = parts.split_first()?;
        let mut state = Self::begin(first);
        for part in rest {
            if part.about != first.about {
                return None;
            }
            state.join(part);
        }
        state.about.epoch = epoch;
        state.about.past_terms = state.about.past_terms_restored(age)?;
        state.void_to = Fence::default();
        // The dead letter topic may be restored too, and to an earlier end.
        state.redriven_to = 0;
        state.clip(cut);
        Some(state)
    }

    /// Forgets what is known of records from `cut` on: those that the topic gets there are others.
    fn clip(&mut self, cut: u64) {
        self.progress.clip(cut);
        if let Some(beyond) = Span::new(cut, u64::MAX) {
            self.parked.remove(beyond);
            self.marks.remove(beyond);
        }
        let parked = self.parked.iter().map(|span| span.end - span.start).sum();
        self.parked_records = self.parked_records.min(parked);
        let mut marks = Marks::default();
        for (span, mark) in self.marks.iter() {
            let mark = Mark { void_to: Fence::default(), ..mark };
            if mark != Mark::default() {
                marks.set(span, mark);
            }
        }
        self.marks = marks;
    }
}
