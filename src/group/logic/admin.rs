//! Changes of groups, the shard's size, and the end of a term.

use std::collections::VecDeque;

use super::command::{About, Effect, HandedLease};
use super::event::{Now, Outcome, Output, Refusal, Ticket};
use super::ids::{Fence, GroupId, SessionId, Span};
use super::lanes::MemberId;
use super::lease::{Kind, Lease, Timer};
use super::owner::{Owner, Then};
use super::settings::Settings;
use super::state::GroupState;
use super::working::dead_to;

/// Bytes of commands that a shard may hold beyond twice its live size.
const SLACK_BYTES: u64 = if cfg!(test) { 512 } else { 1 << 20 };

impl Owner {
    /// Creates a group.
    pub(super) fn create(&mut self, ticket: Ticket, group: GroupId, about: About, start: u64) {
        if self.projected(group).is_some() || self.unfolded_effects(group).next().is_some() {
            return self.say(Output::Refused { ticket, reason: Refusal::GroupExists });
        }
        let state = GroupState::new(about, start);
        self.append_state(group, &state, Then::Nothing, vec![Output::Done { ticket }]);
    }

    /// Replaces a group's settings.
    pub(super) fn update(&mut self, ticket: Ticket, group: GroupId, settings: Settings) {
        let Some(mut state) = self.projected(group) else {
            return self.say(Output::Refused { ticket, reason: Refusal::NoSuchGroup });
        };
        if settings.order != state.about.settings.order {
            return self.say(Output::Refused { ticket, reason: Refusal::OrderFixed });
        }
        state.about.settings = settings;
        self.append_state(group, &state, Then::Reconsider(group), vec![Output::Done { ticket }]);
    }

    /// Deletes a group: its members lose what they hold.
    pub(super) fn remove(&mut self, ticket: Ticket, group: GroupId) {
        if self.projected(group).is_none() {
            return self.say(Output::Refused { ticket, reason: Refusal::NoSuchGroup });
        }
        self.begin_anew(group);
        self.append(Effect::Removed { group }, Then::Begin(group), vec![Output::Done { ticket }]);
    }

    /// Continues a group at another offset: its members lose what they hold.
    pub(super) fn seek(&mut self, ticket: Ticket, group: GroupId, to: u64) {
        let void_to = self.newest_fence();
        self.change_anew(ticket, group, Effect::Sought { group, to, void_to });
    }

    /// Opens records again that were given up. The group begins anew, so that they come in the order of their keys.
    pub(super) fn reopen(&mut self, ticket: Ticket, group: GroupId, redriven_to: u64, spans: Vec<Span>) {
        let void_to = self.newest_fence();
        self.change_anew(ticket, group, Effect::Reopened { group, void_to, redriven_to, spans });
    }

    /// Opens all records again that were set aside.
    pub(super) fn unpark(&mut self, ticket: Ticket, group: GroupId) {
        let void_to = self.newest_fence();
        self.change_anew(ticket, group, Effect::Unparked { group, void_to });
    }

    /// Changes which records of a group are settled: its members lose what they hold.
    fn change_anew(&mut self, ticket: Ticket, group: GroupId, effect: Effect) {
        if self.projected(group).is_none() {
            return self.say(Output::Refused { ticket, reason: Refusal::NoSuchGroup });
        }
        self.begin_anew(group);
        self.append(effect, Then::Begin(group), vec![Output::Done { ticket }]);
    }

    /// Ends all leases of a group, and leases nothing until its next state is durable.
    fn begin_anew(&mut self, group: GroupId) {
        let ended: Vec<(Fence, MemberId)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.group == group)
            .map(|(f, l)| (*f, l.member))
            .collect();
        for (fence, member) in ended {
            if let Some(lease) = self.described(fence) {
                self.tell_revoked(group, member, fence, lease.spans);
            }
            self.remove_lease(fence);
            if let Some(member) = self.members.get_mut(&member) {
                member.leases.clear();
                member.used = (0, 0);
            }
            self.refresh(member);
            self.forget_served(member);
        }
        self.forget_unfolded(group);
        if self.at_work(group).is_none() {
            return;
        }
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        *working = working.renewed(state);
        working.awaited += 1;
        for settlement in std::mem::take(&mut working.deferred) {
            let outcomes = settlement.acts.iter().map(|(span, _)| (*span, Outcome::LeaseLost)).collect();
            self.say(Output::Settled { ticket: settlement.ticket, outcomes });
        }
    }

    /// The group's next state is durable.
    pub(super) fn after_begin(&mut self, group: GroupId) {
        let Some(working) = self.groups.get_mut(&group) else {
            return;
        };
        working.awaited -= 1;
        if let Some(state) = self.shard.group(group) {
            *working = working.renewed(state);
            self.judge_deferred(group);
            return;
        }
        let working = self.groups.remove(&group).unwrap_or_default();
        for id in working.members {
            let Some(member) = self.members.remove(&id) else {
                continue;
            };
            self.sessions.remove(&member.session);
            if let Some(stream) = member.stream {
                self.say(Output::Gone { session: member.session, stream });
            }
        }
    }

    /// The group has other settings: what was decided by the old ones is decided again.
    pub(super) fn reconsider(&mut self, group: GroupId) {
        let (Some(working), Some(state)) = (self.groups.get_mut(&group), self.shard.group(group)) else {
            return;
        };
        working.reconsider_free(state, self.now);
        for lane in working.lanes.ids() {
            working.unlist(lane);
            working.consider_lane(lane, state, self.now);
        }
    }

    /// The group's state after all commands decided so far.
    pub(super) fn projected(&self, group: GroupId) -> Option<GroupState> {
        let mut state = self.shard.group(group)?.clone();
        for effect in self.unfolded_effects(group) {
            match effect {
                Effect::Removed { .. } => return None,
                Effect::State { piece, .. } => state.about = piece.about.clone(),
                effect => state.apply(effect),
            }
        }
        Some(state)
    }

    pub(super) fn append_state(
        &mut self,
        group: GroupId,
        state: &GroupState,
        then: Then,
        answers: Vec<Output>,
    ) {
        let parts = state.parts();
        let last = parts.len() - 1;
        let mut at_last = Some((then, answers));
        for (part, piece) in parts.into_iter().enumerate() {
            let is_last = part == last;
            let (then, answers) = at_last.take_if(|_| is_last).unwrap_or_else(|| (Then::Nothing, Vec::new()));
            let part = u32::try_from(part).expect("a state has fewer entries than offsets of 16,384 parts");
            self.append(Effect::State { group, part, is_last, piece: Box::new(piece) }, then, answers);
        }
    }

    /// Writes the oldest state anew if the shard has grown to more than twice its live size.
    pub(super) fn compact(&mut self) {
        let bytes = self.shard.bytes();
        if bytes - self.considered_at < SLACK_BYTES / 4 {
            return;
        }
        self.considered_at = bytes;
        if let Some(group) = self.shard.to_rewrite(SLACK_BYTES)
            && let Some(state) = self.projected(group)
        {
            self.append_state(group, &state, Then::Trim, Vec::new());
        }
    }

    /// Ends the term: another owner may follow at once, and leaves the leases to those who hold them.
    pub fn hand_over(&mut self, now: Now) {
        self.now = now;
        if !self.is_owning() {
            return;
        }
        let fences: Vec<Fence> = self.leases.keys().copied().collect();
        let leases = fences.into_iter().filter_map(|fence| self.described(fence)).collect();
        self.append(Effect::Handover { leases }, Then::Nothing, Vec::new());
        self.is_leaving = true;
    }

    /// Goes on with the leases that the former owner handed over, and leaves their sessions time to come back.
    pub(super) fn adopt(&mut self) {
        let now = self.now.millis;
        for lease in self.shard.handed_over().to_vec() {
            let HandedLease { group, session, fence, left_ms, spans } = lease;
            let Some(working) = self.at_work(group) else {
                continue;
            };
            for span in &spans {
                working.handed_over.insert(span.start, (span.end, fence));
            }
            let member = self.returning(group, session);
            let lease_max = self.shard.group(group).map_or(0, |state| state.about.settings.lease_max_ms);
            let deadline = now + left_ms;
            // How long the former owner had extended it already is not known.
            let latest = deadline.max(now + lease_max);
            let (items, handed_over) = (VecDeque::new(), Vec::new());
            if !self.leases.contains_key(&fence) {
                let rings = deadline;
                let lease = Lease { group, member, deadline, rings, latest, items, handed_over };
                self.add_lease(fence, lease);
            }
            if let Some(lease) = self.leases.get_mut(&fence) {
                lease.handed_over.extend(spans);
            }
        }
        self.bury();
    }

    /// Goes on with records that a former owner gave up and had not settled, also where no member is.
    fn bury(&mut self) {
        let dead = self.shard.groups().map(|(id, state)| (id, dead_to(state)));
        let dead: Vec<(GroupId, u64)> = dead.filter(|(_, to)| *to > 0).collect();
        for (group, to) in dead {
            if let Some(working) = self.at_work(group) {
                working.dead_to = to;
            }
        }
    }

    /// The member of a session that was handed over, which ends unless a stream takes it up within the group's grace; or a
    /// call that got one lease, which goes on until its deadline.
    fn returning(&mut self, group: GroupId, session: SessionId) -> MemberId {
        if let Some(id) = self.sessions.get(&session) {
            return *id;
        }
        if session == SessionId::NONE {
            return self.add_member(Kind::Once, group, session);
        }
        let grace = self.shard.group(group).map_or(0, |state| state.about.settings.session_grace_ms);
        let (id, ends) = (self.add_member(Kind::Away, group, session), self.now.millis + grace);
        if let Some(member) = self.members.get_mut(&id) {
            member.ends = ends;
        }
        self.set_timer(ends, Timer::Session(id));
        id
    }
}
