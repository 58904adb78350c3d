//! The shard: a pure fold of commands, which every replica computes alike.

use std::collections::BTreeMap;

use super::command::{Command, Effect, HandedLease, Piece};
use super::ids::{CommandId, GroupId};
use super::state::GroupState;
use crate::record::{Offset, UnixMicros};

/// Effect of a stored command, or the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was the next one of the current owner, or began the next term.
    Valid,
    /// It was of another term, a repeat, after a hole, or the begin of a term that came too late.
    Ignored,
}

/// State of all groups of a shard.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The last valid command; none before the first one of a trimmed shard.
    last: Option<CommandId>,
    /// Place of that command.
    last_at: Offset,
    /// True once the current term was handed over.
    is_released: bool,
    groups: BTreeMap<GroupId, Stored>,
    /// A state of which not all parts have come.
    unfinished: Option<Unfinished>,
    /// Leases of the last term, if it was handed over.
    handed_over: Vec<HandedLease>,
    /// Bytes of all commands so far.
    bytes: u64,
}

/// A group, and where its newest state is stored.
#[derive(Clone, Debug)]
struct Stored {
    state: GroupState,
    /// Place of the first part of the newest state.
    at: Offset,
    /// Bytes of the commands before that part.
    bytes_before: u64,
    /// Bytes of the newest state.
    size: u64,
}

#[derive(Clone, Debug)]
struct Unfinished {
    group: GroupId,
    next_part: u32,
    stored: Stored,
}

impl Shard {
    /// A shard that is folded from its very first command.
    #[must_use]
    pub fn new() -> Self {
        Self { last: Some(CommandId::default()), ..Self::trimmed() }
    }

    /// A shard whose first commands were trimmed away. Its owner trimmed it before a valid command.
    #[must_use]
    pub fn trimmed() -> Self {
        Self {
            last: None,
            last_at: Offset::ZERO,
            is_released: false,
            groups: BTreeMap::new(),
            unfinished: None,
            handed_over: Vec::new(),
            bytes: 0,
        }
    }

    /// Applies the command that is stored at `at` and takes `size` bytes.
    pub fn apply(&mut self, at: Offset, size: usize, command: &Command) -> Verdict {
        let bytes_before = self.bytes;
        self.bytes += size as u64;
        if !self.is_valid(command) {
            return Verdict::Ignored;
        }
        (self.last, self.last_at) = (Some(command.id), at);
        self.take(at, bytes_before, command);
        Verdict::Valid
    }

    fn is_valid(&self, command: &Command) -> bool {
        let Some(last) = self.last else { return true };
        let CommandId { term, number } = command.id;
        match &command.effect {
            Effect::Own { after, .. } => *after == last && term.0 == last.term.0 + 1 && number == 1,
            _ => term == last.term && number == last.number + 1 && !self.is_released,
        }
    }

    fn take(&mut self, at: Offset, bytes_before: u64, command: &Command) {
        if let Effect::State { group, part, is_last, piece } = &command.effect {
            let size = self.bytes - bytes_before;
            self.take_part(*group, *part, piece, Place { at, bytes_before, size });
            if *is_last {
                self.finish();
            }
            return;
        }
        self.unfinished = None;
        match &command.effect {
            Effect::Own { .. } => {
                if !self.is_released {
                    self.handed_over.clear();
                }
                self.is_released = false;
            }
            Effect::Handover { leases } => {
                self.is_released = true;
                self.handed_over.clone_from(leases);
            }
            Effect::Removed { group } => {
                self.groups.remove(group);
            }
            Effect::Settled { group, .. }
            | Effect::Failed { group, .. }
            | Effect::Returned { group, .. }
            | Effect::Sought { group, .. }
            | Effect::Parked { group, .. }
            | Effect::Reopened { group, .. }
            | Effect::Unparked { group, .. } => {
                if let Some(stored) = self.groups.get_mut(group) {
                    stored.state.apply(&command.effect);
                }
            }
            Effect::Renew | Effect::State { .. } => {}
        }
    }

    fn take_part(&mut self, group: GroupId, part: u32, piece: &Piece, place: Place) {
        let Place { at, bytes_before, size } = place;
        if part == 0 {
            let stored = Stored { state: GroupState::begin(piece), at, bytes_before, size };
            self.unfinished = Some(Unfinished { group, next_part: 1, stored });
            return;
        }
        match &mut self.unfinished {
            Some(unfinished) if unfinished.group == group && unfinished.next_part == part => {
                unfinished.next_part += 1;
                unfinished.stored.size += size;
                unfinished.stored.state.join(piece);
            }
            _ => self.unfinished = None,
        }
    }

    fn finish(&mut self) {
        if let Some(finished) = self.unfinished.take() {
            self.groups.insert(finished.group, finished.stored);
        }
    }

    /// The last valid command; term 0 and number 0 where there is none.
    #[must_use]
    pub fn last(&self) -> CommandId {
        self.last.unwrap_or_default()
    }

    /// Returns true if a trimmed shard holds no command.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Returns true if nobody owns the shard.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.is_released || self.last == Some(CommandId::default())
    }

    /// Leases that were handed over to the current owner; none if the one before it ended without a handover.
    #[must_use]
    pub fn handed_over(&self) -> &[HandedLease] {
        &self.handed_over
    }

    /// A group.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&GroupState> {
        self.groups.get(&id).map(|stored| &stored.state)
    }

    /// All groups in the order of their ids.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupState)> {
        self.groups.iter().map(|(&id, stored)| (id, &stored.state))
    }

    /// Shortens the delays of all groups to those of a clock that says `now`, as [`Marks::shorten_delays`] does.
    pub(super) fn shorten_delays(&mut self, now: UnixMicros) {
        self.groups.values_mut().for_each(|stored| stored.state.marks.shorten_delays(now));
    }

    /// The offset before which the shard may be trimmed: it names a valid command, and nothing before it is needed.
    #[must_use]
    pub fn needed_from(&self) -> Offset {
        self.groups.values().map(|stored| stored.at).min().unwrap_or(self.last_at)
    }

    /// Bytes of all commands so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The group whose newest state is the oldest one, if the commands since then take more than twice the bytes of all
    /// states and `slack` bytes more.
    #[must_use]
    pub fn to_rewrite(&self, slack: u64) -> Option<GroupId> {
        let (&id, oldest) = self.groups.iter().min_by_key(|(_, stored)| stored.at)?;
        let live: u64 = self.groups.values().map(|stored| stored.size).sum();
        (self.bytes - oldest.bytes_before > 2 * live + slack).then_some(id)
    }
}

/// Place and size of a part.
struct Place {
    at: Offset,
    bytes_before: u64,
    size: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self::new()
    }
}
