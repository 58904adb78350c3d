//! Commands of a shard: the effects that its owner decided, as they are stored.

use super::ids::{CommandId, Fence, GroupId, GroupName, KeyHash, SessionId, Span, Term};
use super::marks::Mark;
use super::settings::Settings;
use crate::record::UnixMicros;
use crate::record::{Epoch, TopicName};

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Term and number.
    pub id: CommandId,
    /// The effect.
    pub effect: Effect,
}

/// The effect of a command. An effect on a group that does not exist has no meaning, and does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begins a term. It is void unless `after` is the last valid command before it.
    Own {
        /// The command after which the new owner begins.
        after: CommandId,
        /// Random number of the owner, as two may begin the same term; 0 where only one can.
        owner: u64,
    },
    /// The owner is alive.
    Renew,
    /// A part of the whole state of a group. The parts follow each other without other commands between them, and take
    /// effect with the last one, which replaces the group.
    State {
        /// The group.
        group: GroupId,
        /// Number of the part, from 0.
        part: u32,
        /// True for the last part.
        is_last: bool,
        /// The part.
        piece: Box<Piece>,
    },
    /// The group was deleted.
    Removed {
        /// The group.
        group: GroupId,
    },
    /// Records are done.
    Settled {
        /// The group.
        group: GroupId,
        /// The way in which they were done.
        how: Done,
        /// Number of records.
        records: u64,
        /// The records, in order.
        spans: Vec<Span>,
    },
    /// A delivery failed and counts.
    Failed {
        /// The group.
        group: GroupId,
        /// The records, in order, and their mark.
        marks: Vec<(Span, Mark)>,
    },
    /// Leases ended without a count.
    Returned {
        /// The group.
        group: GroupId,
        /// Tokens up to this fence settle these records no more.
        void_to: Fence,
        /// The records, in order.
        spans: Vec<Span>,
    },
    /// The group continues at another offset: what is before it counts as settled, and nothing else.
    Sought {
        /// The group.
        group: GroupId,
        /// The offset.
        to: u64,
        /// Tokens up to this fence settle nothing any more.
        void_to: Fence,
    },
    /// Records are set aside, and a key with them.
    Parked {
        /// The group.
        group: GroupId,
        /// The key; none for records that are in no order.
        key: Option<KeyHash>,
        /// Number of records.
        records: u64,
        /// The records, in order.
        spans: Vec<Span>,
    },
    /// Records that were given up are open again, and their failures forgotten.
    Reopened {
        /// The group.
        group: GroupId,
        /// Tokens up to this fence settle nothing any more.
        void_to: Fence,
        /// The offset up to which the dead letter topic was searched for records to open again.
        redriven_to: u64,
        /// The records, in order.
        spans: Vec<Span>,
    },
    /// All records that were set aside are open again, and their failures forgotten.
    Unparked {
        /// The group.
        group: GroupId,
        /// Tokens up to this fence settle nothing any more.
        void_to: Fence,
    },
    /// Ends a term: another replica may own the shard at once, and leaves these records to those who hold them.
    Handover {
        /// The leases.
        leases: Vec<HandedLease>,
    },
}

/// The way in which records were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A member acknowledged them.
    Acked,
    /// They are in the dead letter topic.
    DeadLettered,
    /// The topic does not hold them any more, or never did.
    Skipped,
}

/// A lease that an owner hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedLease {
    /// The group.
    pub group: GroupId,
    /// The session that holds it.
    pub session: SessionId,
    /// Fence of the lease.
    pub fence: Fence,
    /// Time until its deadline, in milliseconds.
    pub left_ms: u64,
    /// Records of the lease, in order.
    pub spans: Vec<Span>,
}

/// Identity and settings of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The topic.
    pub topic: TopicName,
    /// Incarnation of the topic.
    pub epoch: Epoch,
    /// Name of the group.
    pub name: GroupName,
    /// Time when the group was created.
    pub created: UnixMicros,
    /// Terms of the group before it was restored from a backup. Members see fences that are higher by them, so that
    /// fences go on rising. At most half of [`Term::MAX`].
    pub past_terms: Term,
    /// Settings of the group.
    pub settings: Settings,
}

/// A part of a group's state: lists that are joined to those of the earlier parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identity and settings, in every part.
    pub about: About,
    /// The offset from which on nothing is settled.
    pub head: u64,
    /// Tokens up to this fence settle nothing any more.
    pub void_to: Fence,
    /// Records that went to the dead letter topic.
    pub dead_lettered: u64,
    /// Records that the topic lost before they were settled.
    pub skipped: u64,
    /// Records that are set aside.
    pub parked_records: u64,
    /// The offset up to which the dead letter topic was searched for records to open again.
    pub redriven_to: u64,
    /// Unsettled offsets below the head.
    pub open: Vec<Span>,
    /// Offsets that are set aside.
    pub parked: Vec<Span>,
    /// Marks of unsettled records.
    pub marks: Vec<(Span, Mark)>,
    /// Keys that are set aside.
    pub parked_keys: Vec<KeyHash>,
}
