//! Ends of leases without success: failures, which count, and returns, which do not.

use std::collections::BTreeMap;

use super::command::Effect;
use super::event::Output;
use super::ids::{Fence, GroupId, Span};
use super::lanes::{Item, MemberId, spans_of};
use super::lease::{Lease, Timer};
use super::marks::Mark;
use super::owner::{Owner, Then};
use crate::record::UnixMicros;

/// The end of one record's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A failure, and the delay until the next delivery; none for the group's back-off.
    Failed(Option<u64>),
    /// A failure for good.
    Rejected,
    /// A return.
    Returned,
}

impl Owner {
    /// Ends the lease of records that were removed from it. In a lane, the later records of the holder go back too:
    /// they must not be handled before this one.
    pub(super) fn take_back(&mut self, group: GroupId, member: MemberId, mut ended: Vec<(Item, Ending)>) {
        if ended.is_empty() {
            return;
        }
        self.give_back_credit(member, &ended.iter().map(|(item, _)| *item).collect::<Vec<_>>());
        let followers = self.take_back_followers(group, member, &ended);
        ended.extend(followers.into_iter().map(|item| (item, Ending::Returned)));
        ended.sort_unstable_by_key(|(item, _)| item.offset);
        if let Some(working) = self.groups.get_mut(&group) {
            for lane in ended.iter().filter_map(|(item, _)| item.lane) {
                working.lanes.lane_mut(lane).pending += 1;
            }
        }
        let (returned, failed): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|(_, ending)| *ending == Ending::Returned);
        let void_to = self.newest_fence();
        if !failed.is_empty() {
            let marks = self.marks(group, &failed, void_to);
            let items = failed.into_iter().map(|(item, _)| item).collect();
            self.append(Effect::Failed { group, marks }, Then::Back(items), Vec::new());
        }
        if !returned.is_empty() {
            let items: Vec<Item> = returned.into_iter().map(|(item, _)| item).collect();
            let effect = Effect::Returned { group, void_to, spans: spans_of(&items) };
            self.append(effect, Then::Back(items), Vec::new());
        }
        self.forget_served(member);
    }

    /// Takes the records back that follow ended ones in their lanes, tells their holder, and returns them.
    fn take_back_followers(
        &mut self,
        group: GroupId,
        member: MemberId,
        ended: &[(Item, Ending)],
    ) -> Vec<Item> {
        let Some(working) = self.groups.get_mut(&group) else {
            return Vec::new();
        };
        let mut followers = Vec::new();
        for (item, _) in ended {
            let Some(lane) = item.lane else { continue };
            working.unlist(lane);
            followers.extend(working.lanes.take_back(lane, item.offset));
        }
        followers.retain(|follower| ended.iter().all(|(item, _)| item.offset != follower.offset));
        let mut revoked: BTreeMap<Fence, Vec<Item>> = BTreeMap::new();
        for follower in &followers {
            if let Some(fence) = self.remove_from_lease(member, follower.offset) {
                revoked.entry(fence).or_default().push(*follower);
            }
        }
        self.give_back_credit(member, &followers);
        for (fence, mut items) in revoked {
            items.sort_unstable_by_key(|item| item.offset);
            self.tell_revoked(group, member, fence, spans_of(&items));
        }
        followers
    }

    /// Removes a record from the lease in which a member holds it, and returns the lease's fence.
    fn remove_from_lease(&mut self, member: MemberId, offset: u64) -> Option<Fence> {
        let fences: Vec<Fence> = self.members.get(&member)?.leases.iter().copied().collect();
        for fence in fences {
            let lease = self.leases.get_mut(&fence)?;
            if let Ok(at) = lease.items.binary_search_by_key(&offset, |item| item.offset) {
                lease.items.remove(at);
                self.drop_if_empty(fence);
                return Some(fence);
            }
        }
        None
    }

    /// Forgets a lease that holds nothing any more.
    pub(super) fn drop_if_empty(&mut self, fence: Fence) {
        let is_empty = |lease: &&Lease| lease.items.is_empty() && self.spans_held(lease).is_empty();
        if self.leases.get(&fence).filter(is_empty).is_some() {
            self.remove_lease(fence);
        }
    }

    /// Tells a member that is connected that it lost records.
    pub(super) fn tell_revoked(&mut self, group: GroupId, member: MemberId, fence: Fence, spans: Vec<Span>) {
        let Some(member) = self.members.get(&member) else {
            return;
        };
        if let Some(stream) = member.stream {
            let session = member.session;
            self.say(Output::Revoked { session, stream, group, fence, spans });
        }
    }

    /// The new marks of records whose delivery failed.
    fn marks(&self, group: GroupId, failed: &[(Item, Ending)], void_to: Fence) -> Vec<(Span, Mark)> {
        let Some(state) = self.shard.group(group) else {
            return Vec::new();
        };
        let mut marks: Vec<(Span, Mark)> = Vec::new();
        for (item, ending) in failed {
            let before = state.marks.get(item.offset).map_or(0, Mark::failures);
            let failures = (before + 1).min(Mark::DEAD - 1);
            let deliveries = if *ending == Ending::Rejected { failures | Mark::DEAD } else { failures };
            let delay_ms = match ending {
                Ending::Failed(Some(delay)) => *delay,
                Ending::Failed(None) => state.about.settings.delay_ms(deliveries),
                Ending::Rejected | Ending::Returned => 0,
            };
            let due = UnixMicros(self.now.wall.0.saturating_add(delay_ms.saturating_mul(1000)));
            let (span, mark) = (item.span(), Mark { deliveries, due, delay_ms, void_to });
            match marks.last_mut() {
                Some((last, same)) if last.end == span.start && *same == mark => last.end = span.end,
                _ => marks.push((span, mark)),
            }
        }
        marks
    }

    /// The records may be leased again: that they were not settled is durable.
    pub(super) fn after_back(&mut self, group: Option<GroupId>, items: &[Item]) {
        let Some(group) = group else { return };
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        for item in items {
            match item.lane {
                None => working.add_free(*item, 0, state, self.now),
                Some(lane) => {
                    working.unlist(lane);
                    let waiting = working.lanes.lane_mut(lane);
                    waiting.pending -= 1;
                    working.consider_lane(lane, state, self.now);
                }
            }
        }
    }

    /// Ends a whole lease, and tells its holder.
    pub(super) fn end_lease(&mut self, fence: Fence, ending: Ending) {
        let Some(lease) = self.remove_lease(fence) else {
            return;
        };
        let spans = self.spans_held(&lease);
        self.tell_revoked(lease.group, lease.member, fence, spans);
        let ended = lease.items.into_iter().map(|item| (item, ending)).collect();
        self.take_back(lease.group, lease.member, ended);
        self.forget_served(lease.member);
    }

    /// The deadline of a lease has come, unless it was extended.
    pub(super) fn expire(&mut self, fence: Fence) {
        let Some(lease) = self.leases.get_mut(&fence) else {
            return;
        };
        if lease.deadline > self.now.millis {
            let at = lease.deadline;
            lease.rings = at;
            self.set_timer(at, Timer::Lease(fence));
            return;
        }
        let (group, member) = (lease.group, lease.member);
        let ending = self.failure_of(member);
        // A member that is paused or hangs would get the record again and again, until it is given up.
        self.set_late(member, true);
        self.end_lease(fence, ending);
        self.dispatch(group);
    }
}
