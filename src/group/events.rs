//! Events of a member.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::clock::Right;
use super::error::Error;
use super::logic::{Fence, GroupId, Outcome, Span};
use crate::record::Epoch;

/// A lease that a session holds already when a call takes it up.
#[derive(Clone, Debug)]
pub struct Held {
    /// Encoded [`Token`](super::token::Token) of the lease.
    pub token: Bytes,
    /// Fence of the lease.
    pub fence: Fence,
    /// Time until it ends.
    pub left: Duration,
    /// Records of the lease.
    pub spans: Vec<Span>,
}

/// Records for a member.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Runs of encoded blocks: the fields 1 of a `Lease`.
    pub batches: Vec<Bytes>,
    /// Number of records.
    pub records: u64,
    /// Encoded [`Token`](super::token::Token) of the lease.
    pub token: Bytes,
    /// Fence of the lease.
    pub fence: Fence,
    /// Time until it ends.
    pub left: Duration,
    /// Records that were delivered before, with the number of this delivery, which is 2 or more.
    pub redeliveries: Vec<(Span, u32)>,
    /// Records of the lease.
    pub spans: Vec<Span>,
    /// The group.
    pub(super) group: GroupId,
    /// Incarnation of the group's topic.
    pub(super) epoch: Epoch,
    /// Right to hand it out, as another owner may have followed; `None` where none can.
    pub(super) right: Option<Right>,
}

impl Leased {
    /// Returns true if it must not be handed out any more.
    pub(super) fn is_too_late(&self) -> bool {
        self.right.as_ref().is_some_and(|right| !right.holds())
    }
}

/// Sender of a member's events. The queue has room for 32 of them, also while it is idle, so that it holds them by pointers.
pub(super) type EventSender = mpsc::UnboundedSender<Box<Event>>;
/// Receiver of a member's events.
pub(super) type EventReceiver = mpsc::UnboundedReceiver<Box<Event>>;

/// Event for a member.
#[derive(Clone, Debug)]
pub enum Event {
    /// It gets records.
    Lease(Box<Leased>),
    /// Answer to [`Member::settle`](super::Member::settle). What is settled is durable.
    Settled {
        /// Number of the settlement.
        number: u64,
        /// The outcomes in order.
        outcomes: Vec<(Span, Outcome)>,
    },
    /// Answer to [`Member::extend`](super::Member::extend).
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
    Ended(Box<Error>),
}

impl Event {
    /// The last event of a member that is one no more.
    pub(super) fn ended(error: Error) -> Self {
        Self::Ended(Box::new(error))
    }
}
