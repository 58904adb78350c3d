//! State of one group, as the fold of its commands.

use std::collections::BTreeSet;

use super::command::{About, Done, Effect, Piece};
use super::ids::{Fence, KeyHash, Span};
use super::marks::Marks;
use super::progress::Progress;
use super::spans::Spans;

/// Entries of one part of a state. An entry takes at most 60 bytes, so that a part stays below 1 MiB, the smallest limit
/// of a batch.
const PART_ENTRIES: usize = 16_384;

/// Durable state of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Identity and settings.
    pub about: About,
    /// Settled records, those set aside included.
    pub progress: Progress,
    /// Records that are set aside.
    pub parked: Spans,
    /// Number of records that are set aside.
    pub parked_records: u64,
    /// The offset up to which the dead letter topic was searched for records to open again.
    pub redriven_to: u64,
    /// Keys that are set aside.
    pub parked_keys: BTreeSet<KeyHash>,
    /// Marks of unsettled records.
    pub marks: Marks,
    /// Tokens up to this fence settle nothing any more.
    pub void_to: Fence,
    /// Records that went to the dead letter topic.
    pub dead_lettered: u64,
    /// Records that the topic lost before they were settled.
    pub skipped: u64,
}

impl GroupState {
    /// A new group that begins at an offset.
    #[must_use]
    pub fn new(about: About, start: u64) -> Self {
        Self {
            about,
            progress: Progress::at(start),
            parked: Spans::default(),
            parked_records: 0,
            redriven_to: 0,
            parked_keys: BTreeSet::new(),
            marks: Marks::default(),
            void_to: Fence::default(),
            dead_lettered: 0,
            skipped: 0,
        }
    }

    /// Applies an effect on this group, except for parts of a state and the group's end.
    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Settled { how, records, spans, .. } => {
                spans.iter().for_each(|&span| self.settle(span));
                match how {
                    Done::Acked => {}
                    Done::DeadLettered => self.dead_lettered += records,
                    Done::Skipped => self.skipped += records,
                }
            }
            Effect::Failed { marks, .. } => marks.iter().for_each(|&(span, mark)| self.marks.set(span, mark)),
            Effect::Returned { void_to, spans, .. } => {
                spans.iter().for_each(|&span| self.marks.void(span, *void_to));
            }
            Effect::Sought { to, void_to, .. } => {
                let counts = (self.dead_lettered, self.skipped, self.redriven_to);
                *self = Self::new(self.about.clone(), *to);
                self.void_to = *void_to;
                (self.dead_lettered, self.skipped, self.redriven_to) = counts;
            }
            Effect::Reopened { void_to, redriven_to, spans, .. } => {
                spans.iter().for_each(|&span| self.reopen(span));
                self.void_to = *void_to;
                self.redriven_to = self.redriven_to.max(*redriven_to);
            }
            Effect::Unparked { void_to, .. } => {
                let parked: Vec<Span> = std::mem::take(&mut self.parked).iter().collect();
                parked.into_iter().for_each(|span| self.reopen(span));
                self.void_to = *void_to;
                self.parked_records = 0;
                self.parked_keys.clear();
            }
            Effect::Parked { key, records, spans, .. } => {
                for &span in spans {
                    self.settle(span);
                    self.parked.insert(span);
                }
                self.parked_records += records;
                self.parked_keys.extend(key);
            }
            Effect::Own { .. }
            | Effect::Renew
            | Effect::State { .. }
            | Effect::Removed { .. }
            | Effect::Handover { .. } => {}
        }
    }

    fn reopen(&mut self, span: Span) {
        self.progress.reopen(span);
        self.marks.remove(span);
    }

    fn settle(&mut self, span: Span) {
        self.progress.settle(span);
        self.marks.remove(span);
    }

    /// The whole state in parts.
    #[must_use]
    pub fn parts(&self) -> Vec<Piece> {
        let mut parts = vec![self.empty_part()];
        let mut room = PART_ENTRIES;
        let mut add = |entry: &dyn Fn(&mut Piece)| {
            if room == 0 {
                parts.push(self.empty_part());
                room = PART_ENTRIES;
            }
            room -= 1;
            entry(parts.last_mut().expect("there is always one"));
        };
        self.progress.open().iter().for_each(|span| add(&|part| part.open.push(span)));
        self.parked.iter().for_each(|span| add(&|part| part.parked.push(span)));
        self.marks.iter().for_each(|mark| add(&|part| part.marks.push(mark)));
        self.parked_keys.iter().for_each(|&key| add(&|part| part.parked_keys.push(key)));
        parts
    }

    fn empty_part(&self) -> Piece {
        Piece {
            about: self.about.clone(),
            head: self.progress.head(),
            void_to: self.void_to,
            dead_lettered: self.dead_lettered,
            skipped: self.skipped,
            parked_records: self.parked_records,
            redriven_to: self.redriven_to,
            open: Vec::new(),
            parked: Vec::new(),
            marks: Vec::new(),
            parked_keys: Vec::new(),
        }
    }

    /// The state that has these parts; none if there are no parts.
    #[must_use]
    pub fn of_parts(parts: &[Piece]) -> Option<Self> {
        let (first, others) = parts.split_first()?;
        let mut state = Self::begin(first);
        others.iter().for_each(|part| state.join(part));
        Some(state)
    }

    /// Begins a state with its first part.
    pub(super) fn begin(part: &Piece) -> Self {
        let mut state = Self::new(part.about.clone(), part.head);
        state.void_to = part.void_to;
        state.dead_lettered = part.dead_lettered;
        state.skipped = part.skipped;
        state.parked_records = part.parked_records;
        state.redriven_to = part.redriven_to;
        state.join(part);
        state
    }

    /// Joins the lists of a part to this state.
    pub(super) fn join(&mut self, part: &Piece) {
        let mut open = std::mem::take(&mut self.progress).into_open();
        part.open.iter().for_each(|&span| open.insert(span));
        self.progress = Progress::of(part.head, open);
        part.parked.iter().for_each(|&span| self.parked.insert(span));
        part.marks.iter().for_each(|&(span, mark)| self.marks.set(span, mark));
        self.parked_keys.extend(&part.parked_keys);
    }
}
