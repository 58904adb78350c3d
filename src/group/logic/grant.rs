//! Handing records out: the member with the smallest share of its credit in use gets the next ones.

use super::event::{Grant, Now, Output};
use super::ids::{GroupId, Span};
use super::lanes::{Item, LaneId, MemberId};
use super::lease::Lease;
use super::marks::Mark;
use super::owner::Owner;
use super::state::GroupState;
use super::working::Working;

/// Most bytes of one lease, so that a client with gRPC's usual limit of 4 MiB a message can take it. A record that is
/// larger comes alone.
const LEASE_BYTES_MAX: u64 = 1 << 20;
/// Most records of one lease, so that a member with much credit does not take everything.
const LEASE_RECORDS_MAX: u64 = 1000;

/// Distance of late members from the others in the list of hungry ones, more than any share.
const LATE: u64 = 1 << 40;

impl Owner {
    /// Gives what is available to those who have credit for it, and asks for more.
    pub(super) fn lease_available(&mut self, group: GroupId) {
        self.do_todo(group);
        while self.may_lease()
            && let Some(member) = self.next_hungry(group)
        {
            if !self.grant(group, member) {
                self.unlist_member(member);
            }
            self.do_todo(group);
        }
        let mut before = None;
        while self.may_lease()
            && let Some(member) = self.next_holder(group, before)
        {
            while self.grant(group, member) {
                self.do_todo(group);
            }
            before = Some(member);
        }
        self.read(group);
        self.answer_empty(group);
    }

    fn may_lease(&self) -> bool {
        self.is_owning() && self.has_right()
    }

    /// The next member to get records that anyone may have; none if there are none.
    fn next_hungry(&self, group: GroupId) -> Option<MemberId> {
        let working = self.groups.get(&group)?;
        let is_available = working.awaited == 0 && !(working.ready.is_empty() && working.idle.is_empty());
        let &(_, member) = working.hungry.first()?;
        is_available.then_some(member)
    }

    /// The next member after `before` that holds a lane in which something is available to it.
    fn next_holder(&self, group: GroupId, before: Option<MemberId>) -> Option<MemberId> {
        let working = self.groups.get(&group).filter(|working| working.awaited == 0)?;
        let from = before.map_or(MemberId(0), |member| MemberId(member.0 + 1));
        working.held.range((from, 0, LaneId::FIRST)..).next().map(|(member, _, _)| *member)
    }

    /// Leases to a member what is available to it and what it has credit for. Returns false if that is nothing.
    fn grant(&mut self, group: GroupId, id: MemberId) -> bool {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return false;
        };
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let Some(stream) = member.stream else {
            return false;
        };
        let mut records = member.credit.0.saturating_sub(member.used.0).min(LEASE_RECORDS_MAX);
        let credit = member.credit.1.saturating_sub(member.used.1);
        let mut bytes = credit.min(LEASE_BYTES_MAX);
        let mut items = Vec::new();
        // A record that is larger than a lease, or than all credit, comes alone.
        let comes_alone = |item: &Item| item.bytes() <= credit || member.used == (0, 0);
        while records > 0
            && let Some(item) = working.candidate(id)
            && (item.bytes() <= bytes || (items.is_empty() && comes_alone(&item)))
        {
            working.take(item, id, state, self.now);
            (records, bytes) = (records - 1, bytes.saturating_sub(item.bytes()));
            items.push(item);
        }
        if items.is_empty() {
            return false;
        }
        let (session, settings) = (member.session, &state.about.settings);
        let (left_ms, latest) = (settings.ack_deadline_ms, self.now.millis + settings.lease_max_ms);
        let spans = with_deliveries(&items, state);
        let count = items.len() as u64;
        let fence = self.next_fence();
        let deadline = self.now.millis + left_ms;
        self.use_credit(id, &items);
        let handed_over = Vec::new();
        let lease =
            Lease { group, member: id, deadline, rings: deadline, latest, items: items.into(), handed_over };
        self.add_lease(fence, lease);
        self.served(group, id);
        self.say(Output::Lease(Grant { session, stream, group, fence, spans, records: count, left_ms }));
        true
    }

    /// Counts records that a member holds against its credit.
    pub(super) fn use_credit(&mut self, id: MemberId, items: &[Item]) {
        if let Some(member) = self.members.get_mut(&id) {
            member.used.0 += items.len() as u64;
            member.used.1 += items.iter().map(Item::bytes).sum::<u64>();
        }
        self.refresh(id);
    }

    /// Gives a member its credit for these records back.
    pub(super) fn give_back_credit(&mut self, id: MemberId, items: &[Item]) {
        if let Some(member) = self.members.get_mut(&id) {
            member.used.0 -= items.len() as u64;
            member.used.1 -= items.iter().map(Item::bytes).sum::<u64>();
        }
        self.refresh(id);
    }

    /// Lists a member as hungry no more, until [`Self::refresh`].
    pub(super) fn unlist_member(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if let (Some(share), Some(working)) = (member.listed.take(), self.groups.get_mut(&member.group)) {
            working.hungry.remove(&(share, id));
        }
    }

    /// Lists a member by its share of credit in use, if it may get records.
    pub(super) fn refresh(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let Some(working) = self.groups.get_mut(&member.group) else {
            return;
        };
        if let Some(share) = member.listed.take() {
            working.hungry.remove(&(share, id));
        }
        if member.stream.is_some() && member.used.0 < member.credit.0 && member.used.1 < member.credit.1 {
            let share = (u128::from(member.used.0) << 32) / u128::from(member.credit.0);
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            let share = if member.is_late { share.saturating_add(LATE) } else { share };
            member.listed = Some(share);
            working.hungry.insert((share, id));
        }
    }
}

impl Working {
    /// The first record that a member may get.
    fn candidate(&self, member: MemberId) -> Option<Item> {
        let free = self.ready.first_key_value().map(|(_, item)| *item);
        let idle = self.idle.first().map(|&(_, lane)| lane);
        let held = self.held.range((member, 0, LaneId::FIRST)..).next();
        let held = held.filter(|(holder, _, _)| *holder == member).map(|&(_, _, lane)| lane);
        let lanes = [idle, held].into_iter().flatten().filter_map(|lane| self.lanes.waiting(lane));
        free.into_iter().chain(lanes).min_by_key(|item| item.offset)
    }

    /// Removes a record that is leased to a member from what is available.
    fn take(&mut self, item: Item, member: MemberId, state: &GroupState, now: Now) {
        match item.lane {
            None => {
                self.remove_free(item.offset);
            }
            Some(lane) => {
                self.unlist(lane);
                self.lanes.lease(lane, member);
                self.consider_lane(lane, state, now);
            }
        }
    }
}

/// The spans of records, cut where the number of deliveries changes.
fn with_deliveries(items: &[Item], state: &GroupState) -> Vec<(Span, u32)> {
    let mut spans: Vec<(Span, u32)> = Vec::new();
    for item in items {
        let failed = state.marks.get(item.offset).map_or(0, Mark::failures);
        let (span, delivery) = (item.span(), failed.saturating_add(1));
        match spans.last_mut() {
            Some((last, same)) if last.end == span.start && *same == delivery => last.end = span.end,
            _ => spans.push((span, delivery)),
        }
    }
    spans
}
