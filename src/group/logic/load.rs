//! The load of a group and its members, for people.

use super::ids::{GroupId, SessionId};
use super::lease::{Kind, Member};
use super::owner::Owner;
use super::working::Working;

/// The load of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Records that members hold.
    pub leased: u64,
    /// Records that wait for their next delivery.
    pub delayed: u64,
    /// Keys that wait behind a record that is delayed or held.
    pub blocked_keys: u64,
    /// True if as many records are leased or blocked as may be.
    pub is_full: bool,
    /// Records that were read and are not settled.
    pub known: u64,
    /// The offset up to which the topic was read; none if the group is not at work.
    pub read_to: Option<u64>,
}

/// The load of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLoad {
    /// The session.
    pub session: SessionId,
    /// True while a stream is open.
    pub is_connected: bool,
    /// Records and bytes that it may hold.
    pub credit: (u64, u64),
    /// Records that it holds.
    pub leased: u64,
    /// Time since its oldest lease was given, in milliseconds; none if it has none.
    pub oldest_lease_ms: Option<u64>,
}

impl Owner {
    /// The load of a group; nothing if it is not at work.
    #[must_use]
    pub fn load(&self, group: GroupId) -> Load {
        let (Some(working), Some(state)) = (self.groups.get(&group), self.shard.group(group)) else {
            return Load::default();
        };
        let leased =
            working.members.iter().filter_map(|id| self.members.get(id)).map(|member| member.used.0).sum();
        let blocked = working.heads.len() as u64;
        Load {
            leased,
            delayed: working.delayed.len() as u64 + blocked,
            blocked_keys: blocked,
            is_full: working.known_records >= state.about.settings.lookahead_max,
            known: working.known_records,
            read_to: Some(working.cursor),
        }
    }

    /// Number of members of a group.
    #[must_use]
    pub fn member_count(&self, group: GroupId) -> usize {
        self.groups.get(&group).map_or(0, Working::sessions)
    }

    /// The members of a group.
    pub fn members(&self, group: GroupId) -> impl Iterator<Item = MemberLoad> {
        let ids = self.groups.get(&group).into_iter().flat_map(|working| &working.members);
        let lease_max = self.shard.group(group).map_or(0, |state| state.about.settings.lease_max_ms);
        let members = ids.filter_map(|id| self.members.get(id)).filter(|member| member.kind != Kind::Once);
        members.map(move |member| self.member_load(member, lease_max))
    }

    fn member_load(&self, member: &Member, lease_max_ms: u64) -> MemberLoad {
        let oldest = member.leases.first().and_then(|fence| self.leases.get(fence));
        let given = oldest.map(|lease| lease.latest.saturating_sub(lease_max_ms));
        MemberLoad {
            session: member.session,
            is_connected: member.stream.is_some(),
            credit: member.credit,
            leased: member.used.0,
            oldest_lease_ms: given.map(|given| self.now.millis.saturating_sub(given)),
        }
    }

    /// Returns true if a session may be taken up.
    #[must_use]
    pub fn knows_session(&self, session: SessionId, group: GroupId) -> bool {
        let member = self.sessions.get(&session).and_then(|id| self.members.get(id));
        member.is_some_and(|member| member.group == group)
    }
}
