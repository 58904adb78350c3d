//! State of an owner beyond what is durable of a group: records that were read and are not settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::{Now, Settlement};
use super::ids::{Fence, KeyHash, Span};
use super::lanes::{Item, LaneId, Lanes, MemberId, spans_of};
use super::marks::Mark;
use super::settings::Poison;
use super::spans::Spans;
use super::state::GroupState;

/// Work that a change of a record's state makes for the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Consider a record that is in no order again at this time.
    FreeAt(u64, u64),
    /// Consider a lane again at this time.
    LaneAt(u64, LaneId),
    /// This record must not be delivered again.
    Poison(Item),
}

/// A record in no order that may not be leased now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delayed {
    pub item: Item,
    /// Time before which it is not considered again.
    pub not_before: u64,
}

/// The group at work.
#[derive(Debug, Default)]
pub(super) struct Working {
    /// The offset up to which the topic was read.
    pub cursor: u64,
    /// Newest tail of the topic that is known.
    pub tail: Option<u64>,
    /// End of the records that were given up and not settled when the owner began. They are read without members too.
    pub dead_to: u64,
    /// True while a read is under way.
    pub is_reading: bool,
    /// Number of changes that must be durable before anything is leased.
    pub awaited: u32,
    /// Unsettled records that were read, the leased ones included.
    pub known: Spans,
    /// Number of those.
    pub known_records: u64,
    /// Records whose settlement is not durable yet.
    pub settling: Spans,
    /// Lanes of a group in order.
    pub lanes: Lanes,
    /// Records in no order that may be leased.
    pub ready: BTreeMap<u64, Item>,
    /// Records in no order that are not leased and may not be now.
    pub delayed: BTreeMap<u64, Delayed>,
    /// Lanes whose first waiting record may be leased to anyone.
    pub idle: BTreeSet<(u64, LaneId)>,
    /// Lanes whose first waiting record may be leased to their holder.
    pub held: BTreeSet<(MemberId, u64, LaneId)>,
    /// Other lanes of which nothing is leased, by their first waiting record.
    pub heads: BTreeMap<u64, LaneId>,
    /// Records whose copy is on its way to the dead letter topic.
    pub dying: BTreeMap<u64, Item>,
    /// Keys that are being set aside.
    pub parking: BTreeSet<KeyHash>,
    /// Records that are being set aside.
    pub parking_spans: Spans,
    /// Records that a former owner handed over, by their first offset: the end of the offsets, and the lease.
    pub handed_over: BTreeMap<u64, (u64, Fence)>,
    /// Members of the group that are connected and have credit left, by the share of it that is in use.
    pub hungry: BTreeSet<(u64, MemberId)>,
    /// Members of the group, and calls that get one lease.
    pub members: BTreeSet<MemberId>,
    /// Number of such calls among the members.
    pub calls: usize,
    /// Those of them that wait for their lease.
    pub waiting: BTreeSet<MemberId>,
    /// Those that wait no longer than for what is being read; some may be gone.
    pub leaving: Vec<MemberId>,
    /// Settlements with tokens of former owners, of records that were not read yet.
    pub deferred: VecDeque<Settlement>,
    /// Work for the owner.
    pub todo: Vec<Todo>,
}

/// State of a record that is not leased, which says when it may be.
enum Readiness {
    Ready,
    At(u64),
    Poison,
    Never,
}

/// Returns true if a record with this mark must not be delivered again.
fn is_poison(state: &GroupState, mark: Mark) -> bool {
    let max = state.about.settings.deliveries_max;
    mark.is_dead() || (max > 0 && mark.failures() >= max)
}

/// End of the unsettled records of a group that are given up; 0 if there are none, or if they are held.
pub(super) fn dead_to(state: &GroupState) -> u64 {
    if state.about.settings.poison == Poison::Hold {
        return 0;
    }
    let dead = state.marks.iter().filter(|(_, mark)| is_poison(state, *mark));
    dead.last().map_or(0, |(span, _)| span.end)
}

impl Working {
    /// A group of which nothing was read.
    pub(super) fn new(state: &GroupState) -> Self {
        Self { cursor: state.progress.floor(), ..Self::default() }
    }

    /// The same members and settlements, with a state that was replaced.
    pub(super) fn renewed(&mut self, state: &GroupState) -> Self {
        Self {
            tail: self.tail,
            awaited: self.awaited,
            hungry: std::mem::take(&mut self.hungry),
            members: std::mem::take(&mut self.members),
            calls: self.calls,
            waiting: std::mem::take(&mut self.waiting),
            leaving: std::mem::take(&mut self.leaving),
            deferred: std::mem::take(&mut self.deferred),
            ..Self::new(state)
        }
    }

    /// Number of members that have a session.
    pub(super) fn sessions(&self) -> usize {
        self.members.len() - self.calls
    }

    fn readiness(&self, state: &GroupState, offset: u64, not_before: u64, now: Now) -> Readiness {
        let mark = state.marks.get(offset).unwrap_or_default();
        if is_poison(state, mark) && !self.can_be_discarded(state) {
            return Readiness::Never;
        }
        let left = mark.due.0.saturating_sub(now.wall.0).div_ceil(1000);
        let at = (now.millis + left).max(not_before);
        match (at > now.millis, is_poison(state, mark)) {
            (true, _) => Readiness::At(at),
            (false, true) => Readiness::Poison,
            (false, false) => Readiness::Ready,
        }
    }

    /// The lease that was handed over with a record. It may have ended.
    pub(super) fn handed_over(&self, offset: u64) -> Option<Fence> {
        let (_, &(end, fence)) = self.handed_over.range(..=offset).next_back()?;
        (offset < end).then_some(fence)
    }

    /// Adds a record that was read and is not settled: it waits, or is a holder's whose lease goes on. Returns the record
    /// if it is the holder's. The caller adds it to those that are known.
    pub(super) fn know(
        &mut self,
        record: Item,
        key: Option<KeyHash>,
        holder: Option<MemberId>,
        state: &GroupState,
        now: Now,
    ) -> Option<Item> {
        let Some(key) = key else {
            if holder.is_none() {
                self.add_free(record, 0, state, now);
            }
            return holder.map(|_| record);
        };
        let lane = self.lanes.push(key, record.offset, record.units, record.len);
        if self.lanes.waiting(lane).is_none_or(|first| first.offset != record.offset) {
            return None;
        }
        self.unlist(lane);
        let held = holder.filter(|member| self.lanes.lane(lane).is_open_to(*member));
        if let Some(member) = held {
            self.lanes.lease(lane, member);
        }
        self.consider_lane(lane, state, now);
        held.map(|_| Item { lane: Some(lane), ..record })
    }

    /// Returns true if the group has a place for poison.
    fn can_be_discarded(&self, state: &GroupState) -> bool {
        /// Most keys that a group sets aside.
        const PARKED_KEYS_MAX: usize = 100_000;
        /// Most records that a group sets aside: 4 bytes each if they are apart.
        const PARKED_RECORDS_MAX: u64 = 4_000_000;
        match state.about.settings.poison {
            Poison::DeadLetter => state.about.settings.dead_letter_topic.is_some(),
            Poison::ParkKey => {
                state.parked_keys.len() + self.parking.len() < PARKED_KEYS_MAX
                    && state.parked_records < PARKED_RECORDS_MAX
            }
            Poison::Hold => false,
        }
    }

    /// Adds a record in no order that is not leased.
    pub(super) fn add_free(&mut self, item: Item, not_before: u64, state: &GroupState, now: Now) {
        let offset = item.offset;
        match self.readiness(state, offset, not_before, now) {
            Readiness::Ready => {
                self.ready.insert(offset, item);
            }
            Readiness::At(at) => {
                self.delayed.insert(offset, Delayed { item, not_before });
                self.todo.push(Todo::FreeAt(at, offset));
            }
            Readiness::Poison => self.todo.push(Todo::Poison(item)),
            Readiness::Never => {
                self.delayed.insert(offset, Delayed { item, not_before });
            }
        }
    }

    /// Decides again what may be done with a record in no order that was delayed.
    pub(super) fn consider_free(&mut self, offset: u64, state: &GroupState, now: Now) {
        if let Some(Delayed { item, not_before }) = self.delayed.remove(&offset) {
            self.add_free(item, not_before, state, now);
        }
    }

    /// Decides again what may be done with all records in no order.
    pub(super) fn reconsider_free(&mut self, state: &GroupState, now: Now) {
        let delayed = std::mem::take(&mut self.delayed).into_values();
        let ready = std::mem::take(&mut self.ready).into_values();
        let ready = ready.map(|item| Delayed { item, not_before: 0 });
        for Delayed { item, not_before } in ready.chain(delayed) {
            self.add_free(item, not_before, state, now);
        }
    }

    /// Removes a record in no order, which is to be leased or settled.
    pub(super) fn remove_free(&mut self, offset: u64) -> Option<Item> {
        let ready = self.ready.remove(&offset);
        ready.or_else(|| self.delayed.remove(&offset).map(|delayed| delayed.item))
    }

    /// Offsets of the records in no order that are not leased.
    pub(super) fn free_within(&self, span: Span) -> Vec<u64> {
        let bounds = span.start..span.end;
        let (ready, delayed) = (self.ready.range(bounds.clone()), self.delayed.range(bounds));
        ready.map(|(offset, _)| *offset).chain(delayed.map(|(offset, _)| *offset)).collect()
    }

    /// The first lane of which nothing is leased and whose first waiting record lies in these bounds.
    pub(super) fn next_head(&self, from: u64, to: u64) -> Option<(u64, LaneId)> {
        let idle = self.idle.range((from, LaneId::FIRST)..(to, LaneId::FIRST)).next().copied();
        let other = self.heads.range(from..to).next().map(|(&offset, &lane)| (offset, lane));
        idle.into_iter().chain(other).min()
    }

    /// Takes a lane from the lists of what is available. Every change of a lane is between this and
    /// [`Self::consider_lane`].
    pub(super) fn unlist(&mut self, id: LaneId) {
        let lane = self.lanes.lane_mut(id);
        if let Some(offset) = lane.listed.take() {
            match lane.holder {
                Some(member) => self.held.remove(&(member, offset, id)),
                None => self.idle.remove(&(offset, id)),
            };
        }
        if let Some(offset) = lane.head.take() {
            self.heads.remove(&offset);
        }
    }

    /// Decides again what may be done with a lane that is not listed.
    pub(super) fn consider_lane(&mut self, id: LaneId, state: &GroupState, now: Now) {
        let Some(item) = self.lanes.waiting(id) else {
            return;
        };
        let lane = self.lanes.lane(id);
        let is_head = lane.leased() == 0 && lane.pending == 0;
        // Nobody may get it before the settlements of a former owner's tokens are durable.
        let is_closed = lane.pending > 0 || (lane.holder.is_none() && !lane.is_idle());
        if !is_closed {
            match self.readiness(state, item.offset, lane.not_before, now) {
                Readiness::Ready => {
                    let holder = lane.holder;
                    self.lanes.lane_mut(id).listed = Some(item.offset);
                    let Some(member) = holder else {
                        self.idle.insert((item.offset, id));
                        return;
                    };
                    self.held.insert((member, item.offset, id));
                }
                Readiness::At(at) => self.todo.push(Todo::LaneAt(at, id)),
                // What is before it must be settled first.
                Readiness::Poison if !lane.is_idle() => {}
                Readiness::Poison => {
                    self.lanes.lane_mut(id).pending += 1;
                    self.todo.push(Todo::Poison(item));
                    return;
                }
                Readiness::Never => {}
            }
        }
        if is_head {
            self.heads.insert(item.offset, id);
            self.lanes.lane_mut(id).head = Some(item.offset);
        }
    }

    /// Notes that these records, in order, are being settled.
    pub(super) fn settle_spans(&mut self, items: &[Item]) {
        for span in spans_of(items) {
            self.known.remove(span);
            self.settling.insert(span);
        }
        self.known_records -= items.len() as u64;
    }

    /// Smallest offset from `from` on that is neither settled nor being settled.
    pub(super) fn next_open(&self, state: &GroupState, from: u64) -> u64 {
        let mut at = from;
        loop {
            let open = state.progress.next_open(at);
            let bounds = Span { start: open, end: u64::MAX };
            match self.settling.within(bounds).next() {
                Some(span) if span.start == open => at = span.end,
                _ => return open,
            }
        }
    }
}
