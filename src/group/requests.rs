//! Requests of calls on groups, checked.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::logic::{Act, GroupName, SessionId, Settings, Span};
use crate::record::TopicName;
use crate::topic::From as StartFrom;

/// A group to create.
#[derive(Clone, Debug)]
pub struct Create {
    /// Place at which it begins.
    pub from: StartFrom,
    /// Settings of the group.
    pub settings: Settings,
}

/// A call that becomes a member.
#[derive(Clone, Debug)]
pub struct Join {
    /// The topic.
    pub topic: TopicName,
    /// Name of the group.
    pub group: GroupName,
    /// Name of the member for people.
    pub member: Box<str>,
    /// Principal of the caller.
    pub principal: Arc<str>,
    /// Session of an earlier call; `None` for a new one.
    pub session: Option<SessionId>,
    /// The group to create if there is none; `None` to fail then.
    pub create: Option<Create>,
}

/// A lease without an open call.
#[derive(Clone, Debug)]
pub struct LeaseOnce {
    /// The topic.
    pub topic: TopicName,
    /// Name of the group.
    pub group: GroupName,
    /// Most records; at least 1.
    pub records: u64,
    /// Most bytes; a single larger record comes alone.
    pub bytes: u64,
    /// Time to wait for the first record.
    pub wait: Duration,
}

/// Acts on the records of one lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The acts in the order in which they take effect.
    pub acts: Vec<(Span, Act)>,
    /// Reasons of failures, for dead letters.
    pub reasons: Vec<(Span, Box<str>)>,
}

/// Records to deliver again.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// Place of the records.
    pub source: Source,
    /// Only records of these offsets; empty for all.
    pub spans: Vec<Span>,
    /// True to publish copies of records again that the topic does not hold any more.
    pub republish_trimmed: bool,
}

/// Place of records that a redrive delivers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The dead letter topic.
    DeadLetters,
    /// Records that were set aside with their keys.
    Parked,
}

/// Result of a redrive, in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Delivered again at their old offsets.
    pub reopened: u64,
    /// Copies published to the topic again.
    pub republished: u64,
    /// Not held by the topic any more.
    pub missing: u64,
}
