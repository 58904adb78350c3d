//! Sessions, leases and alarms, as an owner keeps them in memory.

use std::collections::{BTreeSet, VecDeque};

use super::ids::{Fence, GroupId, SessionId, Span};
use super::lanes::{Item, LaneId, MemberId};

/// The way in which a member takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A session that some stream opened or took up in this term.
    Session,
    /// A session that was handed over and is not taken up yet. What it holds ends uncounted.
    Away,
    /// A call that gets one lease. It is no member in the eyes of people, and ends with its lease.
    Once,
}

/// A holder of leases: a member's session, or a call that gets one lease.
#[derive(Debug)]
pub(super) struct Member {
    pub kind: Kind,
    pub session: SessionId,
    pub group: GroupId,
    /// Newest stream of the member; none while it is cut off.
    pub stream: Option<u64>,
    /// Time at which the session ends while it is cut off.
    pub ends: u64,
    /// Records and bytes that it may hold.
    pub credit: (u64, u64),
    /// Records and bytes that it holds.
    pub used: (u64, u64),
    pub leases: BTreeSet<Fence>,
    /// True since a deadline of its passed, until it is heard of again: others get records before it.
    pub is_late: bool,
    /// Place in which it is listed as hungry: the share of its credit in use, after those that are not late.
    pub listed: Option<u64>,
}

impl Member {
    /// A member without a stream, credit or leases.
    pub(super) const fn new(kind: Kind, group: GroupId, session: SessionId) -> Self {
        Self {
            kind,
            session,
            group,
            stream: None,
            ends: 0,
            credit: (0, 0),
            used: (0, 0),
            leases: BTreeSet::new(),
            is_late: false,
            listed: None,
        }
    }
}

/// A lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub group: GroupId,
    pub member: MemberId,
    pub deadline: u64,
    /// Time at which its alarm rings: that of a deadline before it was extended, or the deadline.
    pub rings: u64,
    /// Time beyond which it cannot be extended.
    pub latest: u64,
    /// Records that it still holds, in order.
    pub items: VecDeque<Item>,
    /// Records that a former owner handed over with it, in order. Those behind the group's cursor are among the items.
    pub handed_over: Vec<Span>,
}

impl Lease {
    /// Returns true if a record that was handed over with the lease is still left to its holder.
    pub(super) fn awaits(&self, offset: u64) -> bool {
        let after = self.handed_over.partition_point(|span| span.start <= offset);
        after.checked_sub(1).and_then(|at| self.handed_over.get(at)).is_some_and(|span| span.contains(offset))
    }

    /// Leaves offsets to the holder no more whose records are not read yet, and returns which it did.
    pub(super) fn let_go(&mut self, gone: Span) -> Vec<Span> {
        let let_go = self.handed_over.iter().filter_map(|span| span.intersect(gone)).collect();
        let spans = std::mem::take(&mut self.handed_over);
        self.handed_over.extend(spans.into_iter().flat_map(|span| {
            let before = Span::new(span.start, span.end.min(gone.start));
            let after = Span::new(span.start.max(gone.end), span.end);
            before.into_iter().chain(after)
        }));
        let_go
    }
}

/// An alarm. One that is out of date does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Deadline of a lease.
    Lease(Fence),
    /// End of a session that is cut off.
    Session(MemberId),
    /// A record in no order is due.
    Free(GroupId, u64),
    /// The first waiting record of a lane is due.
    Lane(GroupId, LaneId),
}
