//! The judgement of settlements.

use super::back::Ending;
use super::command::{Done, Effect};
use super::event::{Act, Outcome, Output, Settlement, Ticket};
use super::ids::{Fence, GroupId, Span};
use super::lanes::{Item, spans_of};
use super::owner::{Owner, Then};
use super::state::GroupState;
use super::working::Working;

/// Most settlements that wait until their records are read; one more is refused as lost.
const DEFERRED_MAX: usize = 10_000;

/// Number of outcomes of a settlement from which on offsets that its token does not hold are not looked at: a settlement of
/// 1,000 ranges of a lease of 1,000 records has fewer.
const OUTCOMES_MAX: usize = 4096;

/// Outcomes of one settlement, in order.
#[derive(Default)]
struct Outcomes(Vec<(Span, Outcome)>);

impl Outcomes {
    fn push(&mut self, span: Span, outcome: Outcome) {
        match self.0.last_mut() {
            Some((last, same)) if last.end == span.start && *same == outcome => last.end = span.end,
            _ => self.0.push((span, outcome)),
        }
    }
}

impl Owner {
    /// Judges a settlement, and answers it once what it changed is durable.
    pub(super) fn settle(&mut self, settlement: Settlement) {
        let group = settlement.group;
        let term = self.term;
        let Some(working) = self.at_work(group) else {
            let outcomes = lost(&settlement);
            return self.say(Output::Settled { ticket: settlement.ticket, outcomes });
        };
        if settlement.fence.term() < term && must_wait(working, &settlement) {
            if working.deferred.len() < DEFERRED_MAX {
                working.deferred.push_back(settlement);
                return self.read(group);
            }
            return self.judge_now(settlement);
        }
        self.judge(settlement);
        self.dispatch(group);
    }

    /// Judges the settlements again whose records have been read meanwhile, or will not be.
    pub(super) fn judge_deferred(&mut self, group: GroupId) {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        let is_full = working.known_records >= state.about.settings.lookahead_max;
        let deferred = std::mem::take(&mut working.deferred);
        for settlement in deferred {
            let still = self.groups.get_mut(&group).filter(|working| must_wait(working, &settlement));
            match still {
                Some(working) if !is_full => working.deferred.push_back(settlement),
                Some(_) => self.judge_now(settlement),
                None => self.judge(settlement),
            }
        }
    }

    /// Judges a settlement of which not all records are read, and leaves the others to its holder no more.
    fn judge_now(&mut self, settlement: Settlement) {
        let fence = settlement.fence;
        if self.groups.get(&settlement.group).is_none_or(|working| working.awaited > 0) {
            let outcomes = lost(&settlement);
            return self.answer_when_durable(Output::Settled { ticket: settlement.ticket, outcomes });
        }
        let cursor = self.groups.get(&settlement.group).map_or(0, |working| working.cursor);
        if let Some(lease) = self.leases.get_mut(&fence).filter(|lease| lease.group == settlement.group) {
            let unread =
                settlement.acts.iter().filter_map(|(span, _)| Span::new(span.start.max(cursor), span.end));
            let gone: Vec<Span> = unread.flat_map(|span| lease.let_go(span)).collect();
            let (group, member) = (lease.group, lease.member);
            if !gone.is_empty() {
                self.tell_revoked(group, member, fence, gone);
            }
        }
        self.judge(settlement);
    }

    fn judge(&mut self, settlement: Settlement) {
        let Settlement { ticket, group, fence, held, acts } = settlement;
        let mut outcomes = Outcomes::default();
        let lease = self.leases.get(&fence);
        let (lease_group, member) = (lease.map(|lease| lease.group), lease.map(|lease| lease.member));
        member.into_iter().for_each(|member| self.set_late(member, false));
        for (span, act) in acts {
            if lease_group.is_some_and(|of| of != group) || fence.term() > self.term {
                outcomes.push(span, Outcome::LeaseLost);
            } else if fence.term() == self.term || self.leases.contains_key(&fence) {
                self.judge_held(group, fence, (span, act), &mut outcomes);
            } else {
                self.judge_former(group, (fence, &held), (span, act), &mut outcomes);
            }
        }
        self.drop_if_empty(fence);
        member.into_iter().for_each(|member| self.forget_served(member));
        self.answer(ticket, outcomes);
    }

    fn answer(&mut self, ticket: Ticket, outcomes: Outcomes) {
        self.answer_when_durable(Output::Settled { ticket, outcomes: outcomes.0 });
    }

    /// Judges a part of a settlement with a token of this term.
    fn judge_held(&mut self, group: GroupId, fence: Fence, part: (Span, Act), outcomes: &mut Outcomes) {
        let (span, act) = part;
        let Some((from, to)) = self.leases.get(&fence).map(|lease| {
            let from = lease.items.partition_point(|item| item.offset < span.start);
            (from, lease.items.partition_point(|item| item.offset < span.end))
        }) else {
            return self.judge_rest(group, span, act, outcomes);
        };
        let (Some(working), Some(lease)) = (self.groups.get_mut(&group), self.leases.get_mut(&fence)) else {
            return;
        };
        let member = lease.member;
        let mut ended = Vec::new();
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        for item in lease.items.drain(from..to) {
            let ending = match act {
                Act::Ack | Act::Skip => None,
                Act::Nack(delay) => Some(Ending::Failed(delay)),
                Act::Reject => Some(Ending::Rejected),
                Act::Return => Some(Ending::Returned),
            };
            let is_next =
                |lane| working.lanes.first_open(lane).is_some_and(|next| next.offset == item.offset);
            match ending {
                Some(ending) => ended.push((item, ending)),
                None if item.lane.is_none_or(is_next) => {
                    leave_lane(working, &item);
                    taken.push(item);
                }
                None => kept.push(item),
            }
        }
        (from..).zip(&kept).for_each(|(at, item)| lease.items.insert(at, *item));
        working.settle_spans(&taken);
        let mut all: Vec<(Item, Outcome)> = taken.iter().map(|item| (*item, Outcome::Settled)).collect();
        all.extend(ended.iter().map(|(item, _)| (*item, Outcome::Settled)));
        all.extend(kept.iter().map(|item| (*item, Outcome::OutOfKeyOrder)));
        all.sort_unstable_by_key(|(item, _)| item.offset);
        self.give_back_credit(member, &taken);
        self.settled(group, taken, act);
        self.take_back(group, member, ended);
        let mut at = span.start;
        for (item, outcome) in all {
            if let Some(rest) = Span::new(at, item.offset) {
                self.judge_rest(group, rest, act, outcomes);
            }
            // A record's last offsets belong to it, though the caller may not have named them.
            let end = item.span().end.min(span.end);
            outcomes.push(Span { start: item.offset, end }, outcome);
            at = end;
        }
        if let Some(rest) = Span::new(at, span.end) {
            self.judge_rest(group, rest, act, outcomes);
        }
    }

    /// Judges offsets that the token does not hold: a repeated acknowledgement is confirmed.
    fn judge_rest(&self, group: GroupId, span: Span, act: Act, outcomes: &mut Outcomes) {
        let (Some(working), Some(state)) = (self.groups.get(&group), self.shard.group(group)) else {
            return outcomes.push(span, Outcome::LeaseLost);
        };
        let mut at = span.start;
        while at < span.end {
            let bounds = Span { start: at, end: span.end };
            if outcomes.0.len() >= OUTCOMES_MAX {
                return outcomes.push(bounds, Outcome::LeaseLost);
            }
            let next = next_change(working, state, bounds);
            let is_settled = at < working.cursor
                && !working.known.contains(at)
                && !state.parked.contains(at)
                && !working.parking_spans.contains(at)
                && (state.progress.is_settled(at) || working.settling.contains(at));
            let outcome = if is_settled && act == Act::Ack { Outcome::Settled } else { Outcome::LeaseLost };
            outcomes.push(Span { start: at, end: next }, outcome);
            at = next;
        }
    }

    /// Judges a part of a settlement with a token of a former owner. An acknowledgement counts until the record is leased
    /// again. Only the last owner's tokens count: what the owners before it leased, the last one may have leased again
    /// without a trace.
    fn judge_former(
        &mut self,
        group: GroupId,
        token: (Fence, &[Span]),
        part: (Span, Act),
        outcomes: &mut Outcomes,
    ) {
        let (span, act) = part;
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return outcomes.push(span, Outcome::LeaseLost);
        };
        let (fence, held) = token;
        // A token is what its holder says: its spans are in order, and as large as it likes.
        let holds = |offset| {
            let after = held.partition_point(|span| span.start <= offset);
            after.checked_sub(1).and_then(|at| held.get(at)).is_some_and(|span| span.contains(offset))
        };
        let is_of_last_owner = fence.term().0 + 1 == self.term.0;
        let voided = |offset| {
            fence <= state.void_to || state.marks.get(offset).is_some_and(|mark| fence <= mark.void_to)
        };
        let counts = |offset| is_of_last_owner && holds(offset) && !voided(offset);
        let mut taken = Vec::new();
        if act == Act::Ack {
            for offset in working.free_within(span) {
                if counts(offset)
                    && let Some(item) = working.remove_free(offset)
                {
                    taken.push(item);
                }
            }
            let mut from = span.start;
            while from < span.end
                && let Some((offset, lane)) = working.next_head(from, span.end)
            {
                let item = working.lanes.waiting(lane).filter(|_| counts(offset));
                let Some(item) = item else {
                    from = offset + 1;
                    continue;
                };
                working.unlist(lane);
                leave_lane(working, &item);
                // The lane's holder did not handle this record, so that it gets no later one before this is durable.
                working.lanes.lane_mut(lane).holder = None;
                taken.push(item);
                working.consider_lane(lane, state, self.now);
            }
        }
        taken.sort_unstable_by_key(|item| item.offset);
        working.settle_spans(&taken);
        let settled = spans_of(&taken);
        self.settled(group, taken, act);
        let mut at = span.start;
        for done in settled.into_iter().filter_map(|done| done.intersect(span)) {
            if let Some(rest) = Span::new(at, done.start) {
                self.judge_rest(group, rest, act, outcomes);
            }
            outcomes.push(done, Outcome::Settled);
            at = done.end;
        }
        if let Some(rest) = Span::new(at, span.end) {
            self.judge_rest(group, rest, act, outcomes);
        }
    }

    fn settled(&mut self, group: GroupId, taken: Vec<Item>, act: Act) {
        if taken.is_empty() {
            return;
        }
        let how = if act == Act::Skip { Done::Skipped } else { Done::Acked };
        if self.settled_with_last(group, how, &taken) {
            return;
        }
        let effect = Effect::Settled { group, how, records: taken.len() as u64, spans: spans_of(&taken) };
        let in_lanes = taken.into_iter().filter(|item| item.lane.is_some()).collect();
        self.append(effect, Then::Settled(in_lanes), Vec::new());
    }

    /// The settlement of these records is durable: their lanes go on.
    pub(super) fn after_settled(&mut self, effect: &Effect, items: &[Item]) {
        let (Effect::Settled { group, spans, .. } | Effect::Parked { group, spans, .. }) = effect else {
            return;
        };
        let (Some(working), Some(state)) = (self.groups.get_mut(group), self.shard.group(*group)) else {
            return;
        };
        spans.iter().for_each(|&span| working.settling.remove(span));
        if let Effect::Parked { key, .. } = effect {
            spans.iter().for_each(|&span| working.parking_spans.remove(span));
            key.iter().for_each(|key| {
                working.parking.remove(key);
            });
        }
        for lane in items.iter().filter_map(|item| item.lane) {
            working.unlist(lane);
            if working.lanes.finish_settling(lane) {
                working.consider_lane(lane, state, self.now);
            }
        }
    }

    /// Extends a lease, up to the longest time of one.
    pub(super) fn extend(&mut self, ticket: Ticket, group: GroupId, fence: Fence, millis: u64) {
        let now = self.now.millis;
        let holder = self.leases.get(&fence).map(|lease| lease.member);
        holder.into_iter().for_each(|holder| self.set_late(holder, false));
        let left_ms = match self.leases.get_mut(&fence) {
            Some(lease) if lease.group != group => None,
            Some(lease) => {
                // The deadline's timer looks at the deadline when it rings, so that it must not ring too late.
                lease.deadline = lease.deadline.max(now.saturating_add(millis).min(lease.latest));
                Some(lease.deadline - now)
            }
            None => None,
        };
        self.say(Output::Extended { ticket, left_ms });
    }
}

/// Removes the first open record from its lane, if it is in one: it is being settled.
fn leave_lane(working: &mut Working, item: &Item) {
    if let Some(lane) = item.lane {
        working.unlist(lane);
        working.lanes.begin_settling(lane);
    }
}

/// Returns true if a settlement names offsets that exist and were not read yet.
fn must_wait(working: &Working, settlement: &Settlement) -> bool {
    let named = settlement.acts.iter().map(|(span, _)| span.end).max();
    let can_come = |end| working.tail.is_none_or(|tail| end <= tail);
    working.awaited > 0 || named.is_some_and(|end| end > working.cursor && can_come(end))
}

/// All of a settlement is lost.
fn lost(settlement: &Settlement) -> Vec<(Span, Outcome)> {
    settlement.acts.iter().map(|(span, _)| (*span, Outcome::LeaseLost)).collect()
}

/// The end of the offsets from the start of `bounds` on that are in the same state.
fn next_change(working: &Working, state: &GroupState, bounds: Span) -> u64 {
    let mut end = bounds.end;
    if bounds.start < working.cursor {
        end = end.min(working.cursor);
    }
    let sets =
        [&working.known, &state.parked, &working.parking_spans, &working.settling, state.progress.open()];
    for set in sets {
        if let Some(span) = set.within(bounds).next() {
            end = end.min(if span.start > bounds.start { span.start } else { span.end });
        }
    }
    if bounds.start < state.progress.head() { end.min(state.progress.head()) } else { end }
}
