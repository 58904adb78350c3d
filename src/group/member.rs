//! A member of a group: its requests go to the group's owner, and its events come back.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::error::Error;
use super::info::{Info, Lag};
use super::logic::{Fence, Outcome, SessionId, Span};
use super::requests::Settlement;
use super::token::Token;

/// A lease that a session holds already when a call takes it up.
#[derive(Clone, Debug)]
pub struct Held {
    /// Encoded [`Token`] of the lease.
    pub token: Bytes,
    /// Its fence.
    pub fence: Fence,
    /// Time until it ends.
    pub left: Duration,
    /// Its records.
    pub spans: Vec<Span>,
}

/// Records for a member.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Runs of encoded blocks: the fields 1 of a `Lease`.
    pub batches: Vec<Bytes>,
    /// Encoded [`Token`] of the lease.
    pub token: Bytes,
    /// Its fence.
    pub fence: Fence,
    /// Time until it ends.
    pub left: Duration,
    /// Records that were delivered before, with the number of this delivery, which is 2 or more.
    pub redeliveries: Vec<(Span, u32)>,
}

/// What happens to a member.
#[derive(Clone, Debug)]
pub enum Event {
    /// It gets records.
    Lease(Leased),
    /// Answer to [`Member::settle`]. What is settled is durable.
    Settled {
        /// Number of the settlement.
        number: u64,
        /// The outcomes in order.
        outcomes: Vec<(Span, Outcome)>,
    },
    /// Answer to [`Member::extend`].
    Extended {
        /// Number of the request.
        number: u64,
        /// Time until the lease ends; `None` if it is lost.
        left: Option<Duration>,
    },
    /// It has lost these records.
    Revoked {
        /// Fence of the lease.
        fence: Fence,
        /// The records in order.
        spans: Vec<Span>,
    },
    /// It left, and all its settlements are answered. The last event.
    Left,
    /// It is a member no more. The last event.
    Ended(Error),
}

/// A member with an open call. Dropping it is a cut: its session goes on for the group's grace.
#[derive(Debug)]
pub struct Member {
    info: Info,
    session: SessionId,
    held: Vec<Held>,
    has_created: bool,
}

impl Member {
    /// The group as it was at the join, without its members.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// Session of the member.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Leases that the session held at the join.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Returns true if the join created the group.
    #[must_use]
    pub const fn has_created(&self) -> bool {
        self.has_created
    }

    /// How far the group is behind, as far as this replica knows without asking.
    #[must_use]
    pub const fn lag(&self) -> Lag {
        self.info.status.lag
    }

    /// Sets the totals of records and bytes that the member may be sent. They never fall.
    pub fn credit(&mut self, _records: u64, _bytes: u64) {}

    /// Settles a lease; [`Event::Settled`] answers with the same number. The caller bounds those that are not answered.
    pub fn settle(&mut self, _number: u64, _token: Token, _settlement: Settlement) {}

    /// Extends a lease; [`Event::Extended`] answers with the same number.
    pub fn extend(&mut self, _number: u64, _token: Token, _time: Option<Duration>) {}

    /// Leaves the group; [`Event::Left`] is the answer.
    pub fn leave(&mut self) {}

    /// Polls for the next event. Pending for ever after the last one.
    pub fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Event> {
        Poll::Pending
    }
}
