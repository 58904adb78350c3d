//! The start of a subscription, and the policy for a start that is not in the topic.

use std::time::Duration;

use super::{Error, ReadLimit};
use crate::record::{Offset, Position, UnixMicros};
use crate::storage::{self, Start, TopicLog};

/// The request of a subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Subscribe {
    /// Start of the subscription.
    pub from: From,
    /// Policy for a start that is not in the topic.
    pub out_of_range: OutOfRange,
    /// Limits at which it ends.
    pub limit: ReadLimit,
    /// Interval of heartbeats; none means the server's default.
    pub heartbeat_interval: Option<Duration>,
    /// Treatment of a missing topic.
    pub missing: Missing,
}

/// Treatment of a topic that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Creates it, where topics are created on first use and the request waits for new records.
    #[default]
    MayCreate,
    /// Fails.
    Fail,
}

impl Subscribe {
    /// A request without limits.
    #[must_use]
    pub fn from(from: From) -> Self {
        let limit = ReadLimit::default();
        let missing = Missing::default();
        Self { from, out_of_range: OutOfRange::Fail, limit, heartbeat_interval: None, missing }
    }

    /// Returns true if a missing topic may be created for this request: it waits for new records, and its start exists
    /// in a new topic. A request that only reads existing records would find none in it.
    #[must_use]
    pub fn creates_topic(&self) -> bool {
        let is_over = self.limit.until.is_some_and(|until| until <= UnixMicros::now());
        let may_create = self.missing == Missing::MayCreate;
        may_create && self.fits_new_topic() && !self.limit.stop_at_tail && !is_over
    }

    /// Returns true if a new topic has the requested start. A position, or an offset above 0, refers to a topic that
    /// existed before.
    #[must_use]
    pub fn fits_new_topic(&self) -> bool {
        match self.from {
            From::Position(_) => false,
            From::Start(Start::At(offset)) => offset == Offset::ZERO || self.out_of_range != OutOfRange::Fail,
            From::Start(_) => true,
        }
    }

    /// The time of a start at a time, which may be later than all records of the topic.
    #[must_use]
    pub const fn not_before(&self) -> Option<UnixMicros> {
        match self.from {
            From::Start(Start::Time(time)) => Some(time),
            From::Start(_) | From::Position(_) => None,
        }
    }
}

/// The start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The position of an earlier message, in that incarnation of the topic only.
    Position(Position),
    /// A start in any incarnation of the topic.
    Start(Start),
}

/// The policy for an offset that is no longer, or not yet, in the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// Fail.
    #[default]
    Fail,
    /// Continue at the earliest record.
    Earliest,
    /// Continue at the tail.
    Latest,
}

impl OutOfRange {
    /// The offset to continue at instead of failing with `error`.
    ///
    /// # Errors
    /// `error`, if it has another reason or the policy is to fail.
    pub fn apply(self, error: storage::Error, topic: &dyn TopicLog) -> Result<Offset, Error> {
        match (self, error) {
            (
                Self::Earliest,
                storage::Error::Trimmed { earliest, .. } | storage::Error::BeyondTail { earliest, .. },
            ) => Ok(earliest),
            (Self::Latest, storage::Error::Trimmed { .. } | storage::Error::BeyondTail { .. }) => {
                Ok(topic.tail())
            }
            (_, error) => Err(error.into()),
        }
    }
}

/// Resolves a start in a topic; one that was trimmed away is the earliest offset.
///
/// # Errors
/// The start lies beyond the tail or in another incarnation, the topic is not complete, or the storage fails.
pub async fn resolve_from(topic: &dyn TopicLog, from: From) -> Result<Offset, Error> {
    let request = Subscribe { out_of_range: OutOfRange::Fail, ..Subscribe::from(from) };
    match resolve(topic, &request).await {
        Err(Error::Storage(storage::Error::Trimmed { earliest, .. })) => Ok(earliest),
        resolved => resolved.map(|(offset, _)| offset),
    }
}

/// Resolves the offset to start at; the flag is true if that is after a gap.
pub(super) async fn resolve(topic: &dyn TopicLog, request: &Subscribe) -> Result<(Offset, bool), Error> {
    let state = topic.state();
    let start = match request.from {
        From::Start(start) => start,
        From::Position(position) => Start::At(state.lineage.offset(state.epoch, position)?),
    };
    // Any start would mean another record, or a tail that is none, until the topic is complete.
    state.check_complete(topic.tail())?;
    match topic.resolve(start).await {
        Ok(offset) => Ok((offset, false)),
        Err(error) => Ok((request.out_of_range.apply(error, topic)?, true)),
    }
}
