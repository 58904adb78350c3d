//! Groups and members as they are described to people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lag::Uncounted;
use super::logic::{GroupId, GroupName, Settings};
use crate::record::{Epoch, Offset, TopicName, UnixMicros};

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The topic.
    pub topic: TopicName,
    /// Name of the group.
    pub name: GroupName,
    /// Incarnation of the group.
    pub id: GroupId,
    /// Time at which it was created.
    pub created: UnixMicros,
    /// Incarnation of the topic that it belongs to.
    pub topic_epoch: Epoch,
    /// Settings.
    pub settings: Settings,
    /// State of its work.
    pub status: Status,
}

/// A part of the list of groups.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The groups in order.
    pub groups: Vec<Info>,
    /// Internal topics that are damaged: the groups that they store are missing.
    pub damaged: Vec<TopicName>,
}

/// The state of a group's work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Offset of the oldest record that is not settled; the tail if all are.
    pub oldest_unsettled: Offset,
    /// Tail of the topic.
    pub tail: Offset,
    /// Distance of the group from its topic's tail.
    pub lag: Lag,
    /// Records that are not in `lag`, and must be counted.
    #[serde(flatten)]
    pub(super) uncounted: Uncounted,
    /// Records that members hold.
    pub leased_records: u64,
    /// Records that wait for their next delivery.
    pub delayed_records: u64,
    /// Keys that wait behind a record that is delayed or held.
    pub blocked_keys: u64,
    /// Records that were set aside.
    pub parked_records: u64,
    /// Records that went to the dead letter topic.
    pub dead_lettered_records: u64,
    /// Records that the topic lost before they were settled.
    pub skipped_records: u64,
    /// True if the group reads no further because too many records are leased or blocked.
    pub is_at_lookahead_max: bool,
    /// The reason why the dead letter topic takes no records; `None` if it does.
    pub dead_letter_problem: Option<String>,
    /// The offset up to which the dead letter topic was searched for records to deliver again.
    pub redriven_to: u64,
    /// Number of members.
    pub member_count: u64,
    /// Members, where they were asked for.
    pub members: Vec<MemberInfo>,
}

/// Distance of a group from the tail of its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Records that are not settled.
    pub records: u64,
    /// Age of the oldest of them; `None` if there is none.
    pub age: Option<Duration>,
}

/// A member of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Name that it joined with.
    pub name: Box<str>,
    /// Principal that it joined as.
    pub principal: Box<str>,
    /// Time since it joined.
    pub age: Duration,
    /// False while its call is cut off and its session goes on.
    pub is_connected: bool,
    /// Records that it may hold.
    pub credit_records: u64,
    /// Bytes that it may hold.
    pub credit_bytes: u64,
    /// Records that it holds.
    pub leased_records: u64,
    /// Age of its oldest lease; `None` if it holds none.
    pub oldest_lease_age: Option<Duration>,
}
