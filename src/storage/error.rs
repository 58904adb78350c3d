//! Errors of an engine. A variant exists where a caller acts on it; `service::status` maps each to a gRPC status.
//! The replicas of a fleet tell each other errors, so that a variant that is renamed is unknown to older replicas.

use serde::{Deserialize, Serialize};

use crate::record::{Epoch, Offset};

/// Effect of an append that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Nothing is stored.
    Nothing,
    /// The batches may be stored: repeat the append with the same `request_id` to find out.
    Unknown,
}

/// Reason why an operation of the log failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// No topic of this name, or it was deleted.
    #[error("topic not found")]
    TopicNotFound,
    /// There is a topic of this name.
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
        /// The present incarnation.
        current: Epoch,
        /// Offset in it from which on the caller has not read: the cut if it was restored from the caller's
        /// incarnation, otherwise 0.
        resume: Offset,
    },
    /// The topic is being restored from a backup, and is not complete.
    #[error("the topic is being restored from a backup, up to offset {cut}")]
    Restoring {
        /// The offset at which it will be complete.
        cut: Offset,
    },
    /// `expected_offset` is not the offset the batch would get.
    #[error("expected offset is not the tail, {tail}")]
    ExpectedOffset {
        /// The incarnation.
        epoch: Epoch,
        /// The offset that the batch would get.
        tail: Offset,
    },
    /// Other records were stored before under this `request_id`.
    #[error("request_id was stored before with other records, at offset {first}")]
    RequestIdReused {
        /// Offset of the first of those records.
        first: Offset,
    },
    /// The offset was trimmed away.
    #[error("offset is no longer kept, the earliest is {earliest}")]
    Trimmed {
        /// The incarnation.
        epoch: Epoch,
        /// The earliest offset kept.
        earliest: Offset,
        /// The tail.
        tail: Offset,
    },
    /// The offset lies beyond the tail.
    #[error("offset is beyond the tail, {tail}")]
    BeyondTail {
        /// The incarnation.
        epoch: Epoch,
        /// The earliest offset kept.
        earliest: Offset,
        /// The tail.
        tail: Offset,
    },
    /// The disk is full; writes go on once there is space.
    #[error("disk is full")]
    DiskFull,
    /// The storage reserves the bytes that a topic may hold, and has not that many left.
    #[error("there is no room to set {bytes} bytes aside: {reason}")]
    NoRoom {
        /// The topic's limit of bytes.
        bytes: u64,
        /// Reason given by the storage.
        reason: String,
    },
    /// An earlier batch of the same appender was refused, so this one was too.
    #[error("an earlier publish of this call failed")]
    EarlierFailed,
    /// The storage does not serve now.
    #[error("storage is unavailable: {reason}")]
    Unavailable {
        /// The reason.
        reason: String,
        /// Effect of the append, if the operation was one.
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
    /// Returns the name of the variant that telemetry uses.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TopicNotFound => "topic_not_found",
            Self::TopicExists => "topic_exists",
            Self::TopicLimit { .. } => "topic_limit",
            Self::EpochChanged { .. } => "epoch_changed",
            Self::Restoring { .. } => "restoring",
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
