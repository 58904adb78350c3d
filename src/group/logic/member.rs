//! Members: their sessions and their credit.

use super::back::Ending;
use super::command::HandedLease;
use super::event::{Output, Refusal, Ticket};
use super::ids::{Fence, GroupId, SessionId, Span, push_span};
use super::lanes::{MemberId, spans_of};
use super::lease::{Kind, Lease, Member, Timer};
use super::owner::Owner;

/// Most members of a group.
const MEMBERS_MAX: usize = 10_000;

impl Owner {
    /// A stream joins a group, with a new session or one that it takes up again.
    pub(super) fn join(&mut self, ticket: Ticket, group: GroupId, session: SessionId, stream: u64) {
        let Some(working) = self.at_work(group) else {
            return self.say(Output::Refused { ticket, reason: Refusal::NoSuchGroup });
        };
        let is_full = working.sessions() >= MEMBERS_MAX;
        let id = match self.sessions.get(&session) {
            Some(id) => *id,
            None if is_full => {
                return self.say(Output::Refused { ticket, reason: Refusal::TooManyMembers });
            }
            None => self.add_member(Kind::Session, group, session),
        };
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.group != group || member.kind == Kind::Once {
            return self.say(Output::Refused { ticket, reason: Refusal::OtherGroup });
        }
        // The newest stream of a session wins, and says anew what it has credit for.
        (member.stream, member.credit, member.kind) = (Some(stream), (0, 0), Kind::Session);
        member.is_late = false;
        let fences: Vec<Fence> = member.leases.iter().copied().collect();
        let leases = fences.iter().filter_map(|&fence| self.described(fence)).collect();
        self.say(Output::Joined { ticket, session, leases });
        self.refresh(id);
        self.dispatch(group);
    }

    /// Adds a member without a stream.
    pub(super) fn add_member(&mut self, kind: Kind, group: GroupId, session: SessionId) -> MemberId {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        if session != SessionId::NONE {
            self.sessions.insert(session, id);
        }
        self.members.insert(id, Member::new(kind, group, session));
        if let Some(working) = self.groups.get_mut(&group) {
            working.members.insert(id);
            working.calls += usize::from(kind == Kind::Once);
        }
        id
    }

    /// Removes a member that holds nothing.
    pub(super) fn remove_member(&mut self, id: MemberId) {
        self.unlist_member(id);
        let Some(member) = self.members.remove(&id) else {
            return;
        };
        self.sessions.remove(&member.session);
        if let Some(working) = self.groups.get_mut(&member.group) {
            working.members.remove(&id);
            working.waiting.remove(&id);
            working.calls -= usize::from(member.kind == Kind::Once);
        }
    }

    /// A lease as it is handed over; none if it holds nothing.
    pub(super) fn described(&self, fence: Fence) -> Option<HandedLease> {
        let lease = self.leases.get(&fence)?;
        let member = self.members.get(&lease.member)?;
        let session = if member.kind == Kind::Once { SessionId::NONE } else { member.session };
        let left_ms = lease.deadline.saturating_sub(self.now.millis);
        let spans = self.spans_held(lease);
        let group = lease.group;
        (!spans.is_empty()).then_some(HandedLease { group, session, fence, left_ms, spans })
    }

    /// The records of a lease, those included that were handed over and are not read yet.
    pub(super) fn spans_held(&self, lease: &Lease) -> Vec<Span> {
        let mut spans = spans_of(&lease.items);
        let cursor = self.groups.get(&lease.group).map_or(0, |working| working.cursor);
        let unread = lease.handed_over.iter().filter_map(|span| Span::new(span.start.max(cursor), span.end));
        unread.for_each(|span| push_span(&mut spans, span));
        spans
    }

    /// A member may hold more. Credit of a former stream, and less credit than before, is ignored.
    pub(super) fn credit(&mut self, session: SessionId, stream: u64, credit: (u64, u64)) {
        let Some((id, member)) = self.member_of(session, stream) else {
            return;
        };
        member.credit = (member.credit.0.max(credit.0), member.credit.1.max(credit.1));
        let group = member.group;
        member.is_late = false;
        self.refresh(id);
        self.dispatch(group);
    }

    /// Notes that a deadline of a member passed, or that it was heard of.
    pub(super) fn set_late(&mut self, id: MemberId, is_late: bool) {
        if let Some(member) = self.members.get_mut(&id)
            && member.kind == Kind::Session
            && member.is_late != is_late
        {
            member.is_late = is_late;
            self.refresh(id);
        }
    }

    /// The member of a session, if `stream` is the newest one of the session.
    pub(super) fn member_of(&mut self, session: SessionId, stream: u64) -> Option<(MemberId, &mut Member)> {
        let id = *self.sessions.get(&session)?;
        let member = self.members.get_mut(&id).filter(|member| member.stream == Some(stream))?;
        Some((id, member))
    }

    /// A stream ended: its session goes on for the group's grace.
    pub(super) fn cut(&mut self, session: SessionId, stream: u64) {
        let now = self.now.millis;
        let Some((id, member)) = self.member_of(session, stream) else {
            return;
        };
        if member.kind == Kind::Once {
            return self.end_session(id, Ending::Returned);
        }
        let group = member.group;
        member.stream = None;
        self.refresh(id);
        let grace = self.shard.group(group).map_or(0, |state| state.about.settings.session_grace_ms);
        if let Some(member) = self.members.get_mut(&id) {
            member.ends = now + grace;
        }
        self.set_timer(now + grace, Timer::Session(id));
    }

    /// Ends a session whose grace is over, unless a stream took it up.
    pub(super) fn end_session_if_due(&mut self, id: MemberId) {
        let is_over = |member: &&Member| member.stream.is_none() && member.ends <= self.now.millis;
        if self.members.get(&id).filter(is_over).is_some() {
            self.end_session(id, self.failure_of(id));
        }
    }

    /// The end of a lease of which its member let the time run out. A handover counts no delivery.
    pub(super) fn failure_of(&self, id: MemberId) -> Ending {
        let is_away = self.members.get(&id).is_some_and(|member| member.kind == Kind::Away);
        if is_away { Ending::Returned } else { Ending::Failed(None) }
    }

    /// A member leaves: its leases end at once, and no delivery counts.
    pub(super) fn leave(&mut self, ticket: Ticket, session: SessionId) {
        let Some(&id) = self.sessions.get(&session) else {
            return self.say(Output::Refused { ticket, reason: Refusal::NoSuchSession });
        };
        self.end_session(id, Ending::Returned);
        self.answer_when_durable(Output::Done { ticket });
    }

    fn end_session(&mut self, id: MemberId, ending: Ending) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let group = member.group;
        member.stream = None;
        self.refresh(id);
        let fences: Vec<Fence> =
            self.members.get(&id).map(|member| member.leases.iter().copied().collect()).unwrap_or_default();
        for fence in fences {
            self.end_lease(fence, ending);
        }
        self.remove_member(id);
        self.dispatch(group);
    }
}
