//! Calls that get one lease: they have no session, and the lease lives by its own deadline.

use super::event::Output;
use super::ids::{GroupId, SessionId};
use super::lanes::MemberId;
use super::lease::Kind;
use super::owner::Owner;

impl Owner {
    /// A call waits for one lease. `call` is its session and stream, `credit` the records and bytes that it takes.
    pub(super) fn lease_once(&mut self, group: GroupId, call: (SessionId, u64), credit: (u64, u64)) {
        let (session, stream) = call;
        if self.at_work(group).is_none() {
            return self.say(Output::Gone { session, stream });
        }
        let id = self.add_member(Kind::Once, group, session);
        if let (Some(working), Some(member)) = (self.groups.get_mut(&group), self.members.get_mut(&id)) {
            working.waiting.insert(id);
            (member.stream, member.credit) = (Some(stream), credit);
        }
        self.refresh(id);
        self.dispatch(group);
    }

    /// A call waits no longer than for what is being read.
    pub(super) fn stop_waiting(&mut self, session: SessionId, stream: u64) {
        let Some((id, member)) = self.member_of(session, stream) else {
            // The records of its lease were trimmed away, or its lease has ended already.
            return self.say(Output::Empty { stream });
        };
        let group = member.group;
        if let Some(working) = self.groups.get_mut(&group)
            && working.waiting.contains(&id)
        {
            working.leaving.push(id);
        }
        self.dispatch(group);
    }

    /// Answers the calls that wait no longer, unless a read is under way that may bring them records.
    pub(super) fn answer_empty(&mut self, group: GroupId) {
        let Some(working) = self.groups.get_mut(&group) else {
            return;
        };
        if working.leaving.is_empty() || working.is_reading || working.awaited > 0 || working.tail.is_none() {
            return;
        }
        let mut leaving = std::mem::take(&mut working.leaving);
        leaving.retain(|id| working.waiting.contains(id));
        for id in leaving {
            if let Some(stream) = self.members.get(&id).and_then(|member| member.stream) {
                self.say(Output::Empty { stream });
            }
            self.remove_member(id);
        }
    }

    /// A call has got its lease, and gets nothing more.
    pub(super) fn served(&mut self, group: GroupId, id: MemberId) {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.kind == Kind::Once) else {
            return;
        };
        member.credit = (0, 0);
        if let Some(working) = self.groups.get_mut(&group) {
            working.waiting.remove(&id);
        }
        self.refresh(id);
    }

    /// Forgets a call whose lease has ended.
    pub(super) fn forget_served(&mut self, id: MemberId) {
        let is_over = self.members.get(&id).is_some_and(|member| {
            member.kind == Kind::Once
                && member.leases.is_empty()
                && self.groups.get(&member.group).is_none_or(|working| !working.waiting.contains(&id))
        });
        if is_over {
            self.remove_member(id);
        }
    }

    /// Number of calls that wait for a lease.
    #[must_use]
    pub fn waiting_count(&self, group: GroupId) -> usize {
        self.groups.get(&group).map_or(0, |working| working.waiting.len())
    }
}
