//! Inputs and outputs of an owner.

use serde::{Deserialize, Serialize};

use super::command::{About, Command, HandedLease};
use super::ids::{Fence, GroupId, KeyHash, SessionId, Span};
use super::settings::Settings;
use super::state::GroupState;
use crate::record::{Offset, UnixMicros};

/// The time of an input, which the caller reads from its clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back and goes on while the machine sleeps.
    pub millis: u64,
    /// Time of the wall clock for what is stored. It goes on as `millis` does, whatever the clock does in between.
    pub wall: UnixMicros,
}

/// A caller's own name of a request, which comes back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An event that an owner reacts to.
#[derive(Clone, Debug)]
pub enum Input {
    /// A group is to be created at an offset.
    Create {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// Identity and settings.
        about: About,
        /// Offset of the first record.
        start: u64,
    },
    /// A group is to be created as a backup of it was.
    Restore {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// The state, made for the topic as it is now.
        state: Box<GroupState>,
    },
    /// A group's settings are to be replaced.
    Update {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// The new settings.
        settings: Settings,
    },
    /// A group is to be deleted.
    Remove {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
    },
    /// A group is to continue at another offset.
    Seek {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// The offset.
        to: u64,
    },
    /// Records that were given up are to be open again. All leases of the group are lost.
    Reopen {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// The offset up to which the dead letter topic was searched for them.
        redriven_to: u64,
        /// The records, in order.
        spans: Vec<Span>,
    },
    /// All records that were set aside are to be open again. All leases of the group are lost.
    Unpark {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
    },
    /// A member opens a stream, or takes its session up again with a new one.
    Join {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// The session.
        session: SessionId,
        /// The stream, by a number of the caller.
        stream: u64,
    },
    /// A member may hold this many records and bytes at a time. Credit never falls.
    Credit {
        /// The session.
        session: SessionId,
        /// The stream, by a number of the caller.
        stream: u64,
        /// Number of records.
        records: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// A call waits for one lease, without a session. Credit comes with it.
    LeaseOnce {
        /// The group.
        group: GroupId,
        /// A session that nobody else has, by which the call is cut.
        session: SessionId,
        /// The call, by a number of the caller.
        stream: u64,
        /// Most records.
        records: u64,
        /// Most bytes; a single larger record comes alone.
        bytes: u64,
    },
    /// A call waits no longer than for what is being read: [`Output::Empty`] says that nothing came.
    StopWaiting {
        /// The session.
        session: SessionId,
        /// The call, by a number of the caller.
        stream: u64,
    },
    /// A member's stream ended. A call for one lease gives back what it got.
    Cut {
        /// The session.
        session: SessionId,
        /// The stream, by a number of the caller.
        stream: u64,
    },
    /// A member leaves, and gives back what it holds.
    Leave {
        /// Name of the request.
        ticket: Ticket,
        /// The session.
        session: SessionId,
    },
    /// A lease is settled, in whole or in part.
    Settle(Settlement),
    /// A lease is to end this many milliseconds from now.
    Extend {
        /// Name of the request.
        ticket: Ticket,
        /// The group.
        group: GroupId,
        /// Fence of the lease.
        fence: Fence,
        /// Time from now, in milliseconds.
        millis: u64,
    },
    /// Records were read, as [`Output::Read`] asked.
    Records {
        /// The group.
        group: GroupId,
        /// The offset at which the read began.
        from: u64,
        /// The offset after what was read.
        next: u64,
        /// The tail of the topic.
        tail: u64,
        /// The records in order.
        items: Vec<ReadItem>,
    },
    /// The topic does not hold the records before `earliest` any more: so many of those that were asked for.
    Trimmed {
        /// The group.
        group: GroupId,
        /// The earliest offset that the topic holds.
        earliest: u64,
        /// Number of records that are gone and were asked for.
        records: u64,
    },
    /// The tail of a group's topic moved.
    Tail {
        /// The group.
        group: GroupId,
        /// The tail of the topic.
        tail: u64,
    },
    /// Result of a copy of a record for the dead letter topic.
    DeadLetter {
        /// The group.
        group: GroupId,
        /// Offset of the record.
        offset: u64,
        /// Result of the copy.
        copied: Copied,
    },
    /// Time passed.
    Tick,
}

/// Result of copying a record to the dead letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The copy is stored.
    Stored,
    /// The topic does not hold the record any more: there is nothing to copy.
    Gone,
    /// The dead letter topic refused it.
    Refused,
}

/// A settlement of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Name of the request.
    pub ticket: Ticket,
    /// The group.
    pub group: GroupId,
    /// Fence of the lease.
    pub fence: Fence,
    /// The records of the lease as it was given, from its token. An owner that gave the lease itself does not need them.
    pub held: Vec<Span>,
    /// Acts on offsets, in the order in which they take effect.
    pub acts: Vec<(Span, Act)>,
}

/// Act on a leased record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// It was handled.
    Ack,
    /// The topic does not hold it any more.
    Skip,
    /// Handling it failed: it is delivered again after this delay in milliseconds, or after the group's back-off.
    Nack(Option<u64>),
    /// Handling it failed for good.
    Reject,
    /// Handling it has not begun: it is delivered again, and the delivery does not count.
    Return,
}

/// A record as an owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadItem {
    /// Offset of the record.
    pub offset: u64,
    /// Encoded size of the record in bytes.
    pub size: u32,
    /// Hash of its key; none if it has no key.
    pub key: Option<KeyHash>,
}

/// An act of an owner, to be carried out in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Store this command in the shard.
    Append(Command),
    /// Trim the shard before this offset.
    Trim(Offset),
    /// Tell the tail of this group's topic, now and whenever it moves.
    Watch {
        /// The group.
        group: GroupId,
    },
    /// Read the topic of this group from an offset on.
    Read {
        /// The group.
        group: GroupId,
        /// The offset to read from.
        from: u64,
    },
    /// Publish a copy of this record to the group's dead letter topic, then say whether it is stored.
    DeadLetter {
        /// The group.
        group: GroupId,
        /// Offset of the record.
        offset: u64,
        /// Number of failed deliveries.
        deliveries: u32,
    },
    /// The stream is a member now and holds these leases.
    Joined {
        /// Name of the request.
        ticket: Ticket,
        /// The session.
        session: SessionId,
        /// The leases that the session holds.
        leases: Vec<HandedLease>,
    },
    /// A member gets records.
    Lease(Grant),
    /// A call gets no lease.
    Empty {
        /// The call, by a number of the caller.
        stream: u64,
    },
    /// A member has lost these records, though it may be busy with them.
    Revoked {
        /// The session.
        session: SessionId,
        /// The stream, by a number of the caller.
        stream: u64,
        /// The group.
        group: GroupId,
        /// Fence of the lease.
        fence: Fence,
        /// The records in order.
        spans: Vec<Span>,
    },
    /// The member's group was deleted.
    Gone {
        /// The session.
        session: SessionId,
        /// The stream, by a number of the caller.
        stream: u64,
    },
    /// Answer of a settlement. What is settled is durable.
    Settled {
        /// Name of the request.
        ticket: Ticket,
        /// The outcomes in order.
        outcomes: Vec<(Span, Outcome)>,
    },
    /// Answer of an extension: the time left, or none if the lease is lost.
    Extended {
        /// Name of the request.
        ticket: Ticket,
        /// Time left, in milliseconds.
        left_ms: Option<u64>,
    },
    /// Answer of a change: it is durable.
    Done {
        /// Name of the request.
        ticket: Ticket,
    },
    /// Answer of a request that changed nothing.
    Refused {
        /// Name of the request.
        ticket: Ticket,
        /// The reason.
        reason: Refusal,
    },
}

/// Records for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: SessionId,
    /// The stream of the session.
    pub stream: u64,
    /// The group.
    pub group: GroupId,
    /// The fence of the lease.
    pub fence: Fence,
    /// The records in order, each with the number of its delivery, from 1.
    pub spans: Vec<(Span, u32)>,
    /// Number of records.
    pub records: u64,
    /// Time until the deadline, in milliseconds.
    pub left_ms: u64,
}

/// Result of settling a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect, and is durable. An acknowledgement of a record that is settled already is confirmed as well.
    Settled,
    /// The token does not hold the record; nothing changed.
    LeaseLost,
    /// An earlier record of its key is not settled; nothing changed.
    OutOfKeyOrder,
}

/// The reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The shard has no such group.
    #[error("the group does not exist")]
    NoSuchGroup,
    /// The group's id is taken.
    #[error("the group exists")]
    GroupExists,
    /// The session belongs to another group.
    #[error("the session belongs to another group")]
    OtherGroup,
    /// The session is not known, or ended.
    #[error("the session has ended")]
    NoSuchSession,
    /// The group has as many members as it may have.
    #[error("the group has too many members")]
    TooManyMembers,
    /// The order of a group cannot change.
    #[error("the order of a group cannot change")]
    OrderFixed,
}
