//! Names and numbers of groups: ids, terms, fences, sessions, and spans of offsets.

use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::record::TopicName;

/// Number of shards. It is part of the format: a group's shard follows from it.
pub const SHARDS: u64 = 16;

/// One incarnation of a group: a random number. A group that is deleted and created again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u64);

/// A checked group name, by the rule of topic names: `[a-z0-9][a-z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(Box<str>);

impl TryFrom<String> for GroupName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> Self {
        name.0.into()
    }
}

impl GroupName {
    /// Checks a name.
    ///
    /// # Errors
    /// The name breaks the rule.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        TopicName::parse(name).map(|_| Self(name.into())).map_err(
            |_| "group name must have 1 to 128 of a-z, 0-9, '.', '_' and '-', and begin with a-z or 0-9",
        )
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the shard of a group, below [`SHARDS`].
#[must_use]
pub fn shard_of(topic: &TopicName, group: &GroupName) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(topic.as_str().as_bytes());
    // A byte that no name holds separates the two.
    hasher.write(&[0]);
    hasher.write(group.as_str().as_bytes());
    hasher.finish() % SHARDS
}

/// One ownership of a shard. Terms rise by one with every owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// Highest term, so that a fence fits into 64 bits.
    pub const MAX: Self = Self((1 << (64 - Fence::COUNT_BITS)) - 1);
}

/// Term and number of a command. The numbers of a term begin with 1 and rise by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// Term of the owner that wrote the command.
    pub term: Term,
    /// Number of the command in its term.
    pub number: u64,
}

/// The number that rises with every lease of a record, over owners too: the owner's term, and a count of its leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence(pub u64);

impl Fence {
    /// Bits of the count: a trillion leases in a term.
    const COUNT_BITS: u32 = 40;

    /// The fence of lease number `count` of a term.
    #[must_use]
    pub const fn new(term: Term, count: u64) -> Self {
        Self(term.0 << Self::COUNT_BITS | count)
    }

    /// The fence that members see, in a group that had these terms before it was restored.
    #[must_use]
    pub const fn after(self, past: Term) -> Self {
        Self(self.0.saturating_add(past.0 << Self::COUNT_BITS))
    }

    /// The fence that members see as this one; none if it is of a time before the group was restored.
    #[must_use]
    pub fn since(self, past: Term) -> Option<Self> {
        self.0.checked_sub(past.0 << Self::COUNT_BITS).map(Self)
    }

    /// Term in which the lease was given.
    #[must_use]
    pub const fn term(self) -> Term {
        Term(self.0 >> Self::COUNT_BITS)
    }
}

/// The session of a member: it outlives the member's stream by the group's grace. Random, and a secret of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct SessionId(pub u128);

impl SessionId {
    /// Stored for a lease that was given without a session.
    pub const NONE: Self = Self(0);
}

impl From<(u64, u64)> for SessionId {
    fn from((high, low): (u64, u64)) -> Self {
        Self(u128::from(high) << 64 | u128::from(low))
    }
}

impl From<SessionId> for (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn from(session: SessionId) -> Self {
        ((session.0 >> 64) as u64, session.0 as u64)
    }
}

/// Hash of a record's key. Two keys with the same hash are handled as one key, which costs speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Hashes a key of a group. It stays the same for ever, because parked keys are stored as hashes.
    #[must_use]
    pub fn of(group: GroupId, key: &[u8]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(group.0, 0);
        hasher.write(key);
        Self(hasher.finish())
    }
}

/// Offsets from `start` up to but without `end`; never empty. A span may hold offsets that name no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First offset.
    pub start: u64,
    /// The offset after the last one.
    pub end: u64,
}

impl Span {
    /// A span; none if it would be empty.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// Returns true if `offset` lies in the span.
    #[must_use]
    pub const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The offsets that lie in both.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

/// Adds a record's span to a list, and merges it with the last one where they touch.
pub fn push_span(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.end == span.start => last.end = span.end,
        _ => spans.push(span),
    }
}
