//! The messages of a subscription.

use bytes::Bytes;

use super::shutdown::Cause;
use crate::record::{Offset, Position};

/// One message to a subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Consecutive runs of blocks; none in a heartbeat and in a notice alone.
    pub runs: Vec<Bytes>,
    /// The position to resume at.
    pub next: Position,
    /// The topic's tail when the message was made.
    pub tail: Offset,
    /// A notice about this point of the subscription.
    pub notice: Option<Notice>,
}

/// A notice about a point of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The records that follow are live.
    CaughtUp,
    /// Records were skipped.
    Gap,
    /// The server is shutting down.
    Draining,
    /// The subscription has reached its maximum age.
    MaxAge,
}

impl Notice {
    /// The notice that is sent before a call ends for this cause; none where only the status says it.
    #[must_use]
    pub const fn of(cause: Cause) -> Option<Self> {
        match cause {
            Cause::Draining => Some(Self::Draining),
            Cause::MaxAge => Some(Self::MaxAge),
            Cause::IdentityExpired | Cause::PermissionWithdrawn | Cause::Disconnected { .. } => None,
        }
    }
}
