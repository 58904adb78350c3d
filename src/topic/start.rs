//! Where a subscription starts, and what happens where that place is not in the topic.
//! Never: reads a record.

use std::time::Duration;

use super::{Error, ReadLimit};
use crate::record::{Offset, Position, UnixMicros};
use crate::storage::{self, Start, TopicLog};

/// What a subscriber asks for.
#[derive(Clone, Copy, Debug)]
pub struct Subscribe {
    /// Where to start.
    pub from: From,
    /// What to do where that is not in the topic.
    pub out_of_range: OutOfRange,
    /// When to end by itself.
    pub limit: ReadLimit,
    /// Longest silence; none means the server's default.
    pub heartbeat_interval: Option<Duration>,
}

impl Subscribe {
    /// From here on, without end.
    #[must_use]
    pub fn from(from: From) -> Self {
        let limit = ReadLimit::default();
        Self { from, out_of_range: OutOfRange::Fail, limit, heartbeat_interval: None }
    }

    /// Whether a missing topic may be created for it: it waits for records to come, from a place that a new
    /// topic has. One that reads what is there and ends finds nothing in a topic nobody made.
    #[must_use]
    pub fn creates_topic(&self) -> bool {
        let is_over = self.limit.until.is_some_and(|until| until <= UnixMicros::now());
        self.fits_new_topic() && !self.limit.stop_at_tail && !is_over
    }

    /// Whether a new topic has the place to start at: a position, or an offset with records before it,
    /// speaks of a topic that was there.
    #[must_use]
    pub fn fits_new_topic(&self) -> bool {
        match self.from {
            From::Position(_) => false,
            From::Start(Start::At(offset)) => offset == Offset::ZERO || self.out_of_range != OutOfRange::Fail,
            From::Start(_) => true,
        }
    }

    /// The time it starts at, where it does. The topic may hold nothing so new yet.
    #[must_use]
    pub const fn not_before(&self) -> Option<UnixMicros> {
        match self.from {
            From::Start(Start::Time(time)) => Some(time),
            From::Start(_) | From::Position(_) => None,
        }
    }
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Exactly where an earlier message said, in that incarnation only.
    Position(Position),
    /// In whatever incarnation the topic is.
    Start(Start),
}

/// What to do where the place to read is no longer, or not yet, in the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// Fail, and say what is there.
    #[default]
    Fail,
    /// Go on at the oldest record kept.
    Earliest,
    /// Go on at the tail.
    Latest,
}

impl OutOfRange {
    /// Where to go on instead of failing with `error`.
    ///
    /// # Errors
    /// `error`, where it is another one or the policy is to fail.
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

/// The offset to start at, and whether that skips over a gap.
pub(super) async fn resolve(topic: &dyn TopicLog, request: &Subscribe) -> Result<(Offset, bool), Error> {
    let start = match request.from {
        From::Start(start) => start,
        From::Position(position) if position.epoch == topic.epoch() => Start::At(position.offset),
        From::Position(_) => {
            return Err(storage::Error::EpochChanged { current: topic.epoch() }.into());
        }
    };
    match topic.resolve(start).await {
        Ok(offset) => Ok((offset, false)),
        Err(error) => Ok((request.out_of_range.apply(error, topic)?, true)),
    }
}
