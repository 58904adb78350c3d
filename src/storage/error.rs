//! What an engine can answer instead. A variant exists where a caller acts on it.
//! Never: a gRPC code; `service::status` maps every variant.

use crate::record::{Epoch, Offset};

/// Whether a refused append left anything behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Definitely nothing.
    Nothing,
    /// Perhaps: ask again with the same `request_id`.
    Unknown,
}

/// Why an operation of the log was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No topic of this name, or it was deleted.
    #[error("topic not found")]
    TopicNotFound,
    /// There is one of this name.
    #[error("topic already exists")]
    TopicExists,
    /// The server holds as many topics as it may.
    #[error("the server holds {limit} topics, its limit")]
    TopicLimit {
        /// The limit.
        limit: usize,
    },
    /// The position or condition names an earlier incarnation.
    #[error("the topic was deleted and created again")]
    EpochChanged {
        /// The incarnation there is.
        current: Epoch,
    },
    /// `expected_offset` is not the offset the batch would get.
    #[error("expected offset is not the tail, {tail}")]
    ExpectedOffset {
        /// The incarnation.
        epoch: Epoch,
        /// The offset it would get.
        tail: Offset,
    },
    /// The `request_id` was stored before, with other records.
    #[error("request_id was stored before with other records, at offset {first}")]
    RequestIdReused {
        /// Where those begin.
        first: Offset,
    },
    /// The offset was trimmed away.
    #[error("offset is no longer kept, the earliest is {earliest}")]
    Trimmed {
        /// The incarnation.
        epoch: Epoch,
        /// What is left begins here.
        earliest: Offset,
        /// And ends here.
        tail: Offset,
    },
    /// The offset lies beyond the tail.
    #[error("offset is beyond the tail, {tail}")]
    BeyondTail {
        /// The incarnation.
        epoch: Epoch,
        /// The oldest record kept.
        earliest: Offset,
        /// The tail.
        tail: Offset,
    },
    /// The disk is full; writes go on once there is space.
    #[error("disk is full")]
    DiskFull,
    /// The storage sets aside what a topic may hold, and has not so much left.
    #[error("there is no room to set {bytes} bytes aside: {reason}")]
    NoRoom {
        /// The topic's limit of bytes.
        bytes: u64,
        /// What the storage says.
        reason: String,
    },
    /// An earlier batch of the same appender was refused, so this one was too.
    #[error("an earlier publish of this call failed")]
    EarlierFailed,
    /// The storage refuses or cannot answer now.
    #[error("storage is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
        /// Whether the append may have been stored.
        stored: Stored,
    },
    /// The log is closing.
    #[error("the log is closing")]
    Closing,
    /// Stored data is damaged: a person must look.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// Which of these it is, as telemetry names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TopicNotFound => "topic_not_found",
            Self::TopicExists => "topic_exists",
            Self::TopicLimit { .. } => "topic_limit",
            Self::EpochChanged { .. } => "epoch_changed",
            Self::ExpectedOffset { .. } => "expected_offset",
            Self::RequestIdReused { .. } => "request_id_reused",
            Self::Trimmed { .. } => "trimmed",
            Self::BeyondTail { .. } => "beyond_tail",
            Self::DiskFull => "disk_full",
            Self::NoRoom { .. } => "no_room",
            Self::EarlierFailed => "earlier_failed",
            Self::Unavailable { .. } => "unavailable",
            Self::Closing => "closing",
            Self::Damaged(_) => "damaged",
        }
    }
}
