//! The only map from errors to gRPC statuses: code, reason, retry delay, side effects and the position to resume from.
//! docs/errors.md has the same table for people.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::auth;
use crate::group;
use crate::proto::v1::ErrorReason;
use crate::record::{Epoch, Offset, Position, Violation};
use crate::registry;
use crate::storage::{self, Stored};
use crate::telemetry::{Denial, METRICS};
use crate::topic;
use crate::wire::MALFORMED;

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "streamway";

/// Reason why a call fails.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request breaks its rule.
    #[error("{field}: {description}")]
    Field {
        /// Path of the field in the request message.
        field: String,
        /// The rule it breaks.
        description: String,
    },
    /// A batch has too many records or bytes.
    #[error("{field}: {description}")]
    BatchTooLarge {
        /// Path of the field in the request message.
        field: String,
        /// The limit, and by how much it is exceeded.
        description: String,
        /// Key of the limit in the metadata, and the limit.
        limit: (&'static str, u32),
    },
    /// The messages of a stream break its protocol.
    #[error("{0}")]
    Protocol(String),
    /// The topic of the backup numbers its records in another way than this server.
    #[error(
        "the backup is of another engine, whose offsets this server cannot give: positions cannot be kept"
    )]
    Numbering,
    /// An error of the transport: a message that is too large or cannot be decoded, or a peer that went away.
    #[error("{}", .0.message())]
    Transport(Status),
    /// A step of the call panicked, which is a fault of the server.
    #[error("internal error, see the server's log")]
    Panicked,
    /// There is no such connection or call.
    #[error("this replica has no such {0}: it has ended, or belongs to another replica")]
    ClientNotFound(&'static str),
    /// There are as many bans as there may be.
    #[error("this replica has {} bans, which is the most: lift some", registry::BANS_MAX)]
    TooManyBans,
    /// The caller is not known, not allowed, or over its quota.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// The topic refused.
    #[error(transparent)]
    Topic(#[from] topic::Error),
    /// The group refused.
    #[error(transparent)]
    Group(group::Error),
}

impl From<group::Error> for Error {
    fn from(error: group::Error) -> Self {
        match error {
            group::Error::Topic(error) => Self::Topic(error),
            error => Self::Group(error),
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Topic(error.into())
    }
}

impl Error {
    /// Makes the error of a field that breaks its rule.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Field { field: field.into(), description: description.into() }
    }

    /// Makes the error of a batch that breaks a rule; `prefix` is the path of its message with a dot, or empty.
    #[must_use]
    pub fn batch(prefix: &str, violation: &Violation) -> Self {
        let description = violation.to_string();
        match violation {
            Violation::Empty => Self::field(format!("{prefix}records"), description),
            Violation::TooManyRecords { limit, .. } => Self::BatchTooLarge {
                field: format!("{prefix}records"),
                description,
                limit: ("records_max", *limit),
            },
            Violation::TooManyBytes { limit, .. } => Self::BatchTooLarge {
                field: format!("{prefix}records"),
                description,
                limit: ("bytes_max", *limit),
            },
            Violation::RequestId(_) => Self::field(format!("{prefix}request_id"), description),
            Violation::Record { index, .. } => Self::field(format!("{prefix}records[{index}]"), description),
        }
    }
}

/// Known facts about the call that fails.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The topic.
    pub topic: Option<String>,
    /// The group of the topic.
    pub group: Option<String>,
    /// Position to resume from: just after the last durable record, or where to read on.
    pub resume: Option<Position>,
    /// Client's number of the publish of an Exchange that failed.
    pub number: Option<u64>,
}

impl Context {
    /// Makes the context of a call about this topic.
    pub fn topic(name: impl Into<String>) -> Self {
        Self { topic: Some(name.into()), ..Self::default() }
    }
}

/// Code and reason of a status, and the delay before a retry if there should be one.
struct Verdict {
    code: Code,
    reason: ErrorReason,
    retry: Option<Duration>,
}

/// Returns a random delay for clients, so that they do not retry all at once.
fn between(min_ms: u64, max_ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(fastrand::u64(min_ms..=max_ms)))
}

fn verdict(error: &Error) -> Verdict {
    use ErrorReason as Reason;
    let (code, reason, retry) = match error {
        Error::Field { .. } => (Code::InvalidArgument, Reason::InvalidField, None),
        Error::BatchTooLarge { .. } => (Code::InvalidArgument, Reason::BatchTooLarge, None),
        Error::Protocol(_) => (Code::InvalidArgument, Reason::ProtocolViolation, None),
        Error::Numbering => (Code::FailedPrecondition, Reason::OffsetNumberingDiffers, None),
        Error::Transport(status) => return transport(status),
        Error::Panicked => (Code::Internal, Reason::Internal, None),
        Error::Auth(auth::Error::Denied { .. } | auth::Error::NotOperator { .. }) => {
            (Code::PermissionDenied, Reason::PermissionDenied, None)
        }
        Error::Auth(auth::Error::Exceeded(exceeded)) => {
            (Code::ResourceExhausted, Reason::QuotaExceeded, exceeded.retry.or(between(1000, 3000)))
        }
        Error::Auth(auth::Error::TooManyFailures(too_many)) => {
            (Code::ResourceExhausted, Reason::QuotaExceeded, Some(too_many.retry))
        }
        Error::Auth(
            auth::Error::Missing
            | auth::Error::Malformed
            | auth::Error::UnknownToken
            | auth::Error::Jwt(_)
            | auth::Error::CertificateExpired
            | auth::Error::Name(_),
        ) => (Code::Unauthenticated, Reason::Unauthenticated, None),
        Error::Topic(topic::Error::Starting) => {
            (Code::Unavailable, Reason::ServerStarting, between(200, 400))
        }
        Error::Topic(topic::Error::Draining) => {
            (Code::Unavailable, Reason::ServerDraining, between(100, 1000))
        }
        Error::Topic(topic::Error::MaxAge) => (Code::Unavailable, Reason::StreamMaxAge, between(0, 500)),
        Error::Topic(topic::Error::IdentityExpired | topic::Error::PermissionWithdrawn) => {
            (Code::Unauthenticated, Reason::Unauthenticated, None)
        }
        Error::Topic(topic::Error::Disconnected { .. }) => {
            (Code::PermissionDenied, Reason::DisconnectedByOperator, None)
        }
        Error::ClientNotFound(_) => (Code::NotFound, Reason::ClientNotFound, None),
        Error::TooManyBans => (Code::ResourceExhausted, Reason::QuotaExceeded, None),
        Error::Topic(topic::Error::Overloaded) => {
            (Code::ResourceExhausted, Reason::Overloaded, between(100, 500))
        }
        Error::Topic(topic::Error::Storage(error)) => return of_storage(error),
        Error::Group(error) => return of_group(error),
    };
    Verdict { code, reason, retry }
}

fn of_group(error: &group::Error) -> Verdict {
    use ErrorReason as Reason;
    use group::Error;
    let (code, reason, retry) = match error {
        Error::NotFound => (Code::NotFound, Reason::GroupNotFound, None),
        Error::Exists => (Code::AlreadyExists, Reason::GroupExists, None),
        Error::TooMany { .. } => (Code::FailedPrecondition, Reason::GroupLimit, None),
        Error::TooManyMembers { .. } | Error::TooManyLeases { .. } => {
            (Code::ResourceExhausted, Reason::MemberLimit, between(1000, 3000))
        }
        Error::SessionEnded => (Code::FailedPrecondition, Reason::SessionEnded, None),
        Error::SessionTaken => (Code::FailedPrecondition, Reason::SessionTaken, None),
        Error::OrderFixed => (Code::InvalidArgument, Reason::InvalidField, None),
        Error::NotRestored => (Code::FailedPrecondition, Reason::EpochChanged, None),
        Error::NotDamaged => (Code::FailedPrecondition, Reason::GroupsNotDamaged, None),
        Error::Moved => (Code::Unavailable, Reason::StorageUnavailable, between(100, 500)),
        Error::Lost => (Code::Unavailable, Reason::StorageUnavailable, between(500, 1500)),
        Error::Unsupported => (Code::Unavailable, Reason::StorageUnavailable, between(1000, 3000)),
        Error::Topic(error) => return verdict(&self::Error::Topic(error.clone())),
    };
    Verdict { code, reason, retry }
}

fn of_storage(error: &storage::Error) -> Verdict {
    use ErrorReason as Reason;
    use storage::Error;
    let (code, reason, retry) = match error {
        Error::TopicNotFound => (Code::NotFound, Reason::TopicNotFound, None),
        Error::TopicExists => (Code::AlreadyExists, Reason::TopicAlreadyExists, None),
        Error::TopicLimit { .. } => (Code::FailedPrecondition, Reason::TopicLimit, None),
        Error::EpochChanged { .. } => (Code::FailedPrecondition, Reason::EpochChanged, None),
        Error::Restoring { .. } => (Code::Unavailable, Reason::TopicRestoring, between(500, 1500)),
        Error::ExpectedOffset { .. } => (Code::FailedPrecondition, Reason::ExpectedOffsetMismatch, None),
        Error::RequestIdReused { .. } => (Code::FailedPrecondition, Reason::RequestIdReused, None),
        Error::Trimmed { .. } => (Code::OutOfRange, Reason::OffsetTrimmed, None),
        Error::BeyondTail { .. } => (Code::OutOfRange, Reason::OffsetBeyondTail, None),
        Error::DiskFull | Error::NoRoom { .. } => {
            (Code::ResourceExhausted, Reason::DiskFull, between(4000, 6000))
        }
        Error::EarlierFailed => (Code::FailedPrecondition, Reason::EarlierPublishFailed, None),
        Error::Unavailable { .. } => (Code::Unavailable, Reason::StorageUnavailable, between(500, 1500)),
        Error::Closing => (Code::Unavailable, Reason::ServerDraining, between(100, 1000)),
        Error::Damaged(_) => (Code::DataLoss, Reason::DataDamaged, None),
    };
    Verdict { code, reason, retry }
}

/// Start of the message of a call that exceeds the budget of partly received messages.
pub const PARTLY_RECEIVED: &str =
    "too many bytes of messages partly received, or of long headers; send fewer at once";

/// Start of the message of a call that exceeds the limit on open calls.
pub const TOO_MANY_STREAMS: &str = "too many calls are open on this server";

/// Makes the answer to a call that exceeds `streams_max`.
#[must_use]
pub fn too_many_streams(streams_max: usize) -> Status {
    with_details(Status::resource_exhausted(format!(
        "{TOO_MANY_STREAMS}, {streams_max} (--streams-max): end calls that are not needed, use another replica, or try \
         again later"
    )))
}

/// Start of the message of a call whose headers are too long.
pub const HEADERS_TOO_LARGE: &str = "the request's headers are too large";

/// Makes the answer to a call with more than `bytes_max` bytes of headers.
#[must_use]
pub fn headers_too_large(bytes_max: u32) -> Status {
    with_details(Status::resource_exhausted(format!(
        "{HEADERS_TOO_LARGE}, the limit is {bytes_max} bytes (--http2-header-list-bytes-max): send less metadata"
    )))
}

/// Maps the errors of tonic and of our codec, which are recognised by their texts.
fn transport(status: &Status) -> Verdict {
    let message = status.message();
    if is_overload(status) {
        let (code, reason) = (Code::ResourceExhausted, ErrorReason::Overloaded);
        return Verdict { code, reason, retry: between(100, 500) };
    }
    let (code, reason) = match status.code() {
        Code::OutOfRange if message.contains("message length too large") => {
            (Code::ResourceExhausted, ErrorReason::MessageTooLarge)
        }
        Code::ResourceExhausted
            if message.starts_with("Error decompressing") || message.starts_with(HEADERS_TOO_LARGE) =>
        {
            (Code::ResourceExhausted, ErrorReason::MessageTooLarge)
        }
        Code::InvalidArgument if message.starts_with(MALFORMED) => {
            (Code::InvalidArgument, ErrorReason::MalformedMessage)
        }
        Code::Internal if MALFORMED_BY_TONIC.iter().any(|start| message.starts_with(start)) => {
            (Code::InvalidArgument, ErrorReason::MalformedMessage)
        }
        code => (code, ErrorReason::Unspecified),
    };
    Verdict { code, reason, retry: None }
}

fn is_overload(status: &Status) -> bool {
    let starts_with = |start| status.message().starts_with(start);
    status.code() == Code::ResourceExhausted
        && (starts_with(PARTLY_RECEIVED) || starts_with(TOO_MANY_STREAMS))
}

/// Texts of tonic 0.14 for bytes that are not a stream of messages. tonic answers INTERNAL, though the fault is the
/// client's.
const MALFORMED_BY_TONIC: [&str; 5] = [
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with",
    "Error decompressing",
    // The body of a gRPC-Web request: no base64, cut off, or stopped.
    "tonic-web: ",
];

/// Returns the reason as `ErrorInfo` has it.
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// Makes the status of an error.
#[must_use]
pub fn status(error: &Error, context: &Context) -> Status {
    let Verdict { code, reason, retry } = verdict(error);
    if let (Error::Transport(status), ErrorReason::Unspecified) = (error, reason) {
        return status.clone();
    }
    match reason {
        ErrorReason::Unauthenticated => METRICS.denied(Denial::Unauthenticated),
        ErrorReason::PermissionDenied => METRICS.denied(Denial::PermissionDenied),
        _ => {}
    }
    if let Error::Auth(auth::Error::TooManyFailures(_)) = error {
        METRICS.denied(Denial::Unauthenticated);
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_name(reason), DOMAIN, metadata(error, context));
    if let Some(delay) = retry {
        details.set_retry_info(Some(delay));
    }
    add_particulars(error, context, &mut details);
    let message = match context.number {
        Some(number) => format!("publish {number}: {error}"),
        None => error.to_string(),
    };
    Status::with_error_details(code, message, details)
}

/// Adds the details that only some errors have.
fn add_particulars(error: &Error, context: &Context, details: &mut ErrorDetails) {
    use storage::Error as Storage;
    let topic = context.topic.as_deref().unwrap_or_default();
    match error {
        Error::Field { field, description } | Error::BatchTooLarge { field, description, .. } => {
            details.add_bad_request_violation(field, description);
        }
        Error::Topic(topic::Error::Storage(error)) => match error {
            Storage::TopicNotFound | Storage::TopicExists => {
                details.set_resource_info("streamway.v1.Topic", topic, "", error.to_string());
            }
            Storage::TopicLimit { .. } => {
                details.add_quota_failure_violation("topics", error.to_string());
            }
            Storage::EpochChanged { .. }
            | Storage::ExpectedOffset { .. }
            | Storage::RequestIdReused { .. } => {
                let kind = reason_name(of_storage(error).reason);
                details.add_precondition_failure_violation(kind, topic, error.to_string());
            }
            Storage::DiskFull | Storage::NoRoom { .. } => {
                details.add_quota_failure_violation("disk", error.to_string());
            }
            _ => {}
        },
        Error::Group(group::Error::NotFound | group::Error::Exists) => {
            let group = format!("{topic}/{}", context.group.as_deref().unwrap_or_default());
            details.set_resource_info("streamway.v1.Group", group, "", error.to_string());
        }
        Error::Group(group::Error::TooMany { .. }) => {
            details.add_quota_failure_violation("groups", error.to_string());
        }
        Error::Group(group::Error::TooManyMembers { .. }) => {
            details.add_quota_failure_violation("members", error.to_string());
        }
        Error::Group(group::Error::TooManyLeases { .. }) => {
            details.add_quota_failure_violation("waiting leases", error.to_string());
        }
        Error::Group(group::Error::OrderFixed) => {
            details.add_bad_request_violation("group.settings.order", error.to_string());
        }
        Error::Auth(auth::Error::Exceeded(exceeded)) => {
            details.add_quota_failure_violation(exceeded.subject(), error.to_string());
        }
        Error::TooManyBans => {
            details.add_quota_failure_violation("bans", error.to_string());
        }
        Error::Auth(auth::Error::TooManyFailures(too_many)) => {
            details.add_quota_failure_violation(too_many.of, error.to_string());
        }
        Error::Topic(topic::Error::Overloaded) => {
            details.add_quota_failure_violation("bytes in flight", error.to_string());
        }
        Error::Transport(status) if is_overload(status) => {
            let partly = status.message().starts_with(PARTLY_RECEIVED);
            let subject = if partly { "bytes partly received" } else { "open calls" };
            details.add_quota_failure_violation(subject, status.message());
        }
        _ => {}
    }
}

/// Tells whether an error means that nothing was changed.
#[must_use]
pub const fn is_certain(error: &Error) -> bool {
    !matches!(
        error,
        Error::Panicked
            | Error::Group(group::Error::Lost)
            | Error::Topic(topic::Error::Storage(storage::Error::Unavailable {
                stored: Stored::Unknown,
                ..
            }))
    )
}

fn metadata(error: &Error, context: &Context) -> HashMap<String, String> {
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    let side_effects = if is_certain(error) { "none" } else { "unknown" };
    put("side_effects", side_effects.to_owned());
    if let Some(number) = context.number {
        put("number", number.to_string());
    }
    if let Error::Topic(topic::Error::Disconnected { banned_until: until @ 1.. }) = error {
        put("ban_seconds", topic::ban_seconds(*until).to_string());
    }
    if let Error::BatchTooLarge { limit: (key, limit), .. } = error {
        put(key, limit.to_string());
    }
    let (resume, earliest, tail) = positions(error);
    if let Some(earliest) = earliest {
        put("earliest_offset", earliest.to_string());
    }
    if let Some(tail) = tail {
        put("tail", tail.to_string());
    }
    if let Some(position) = context.resume.or(resume) {
        put("resume_epoch", position.epoch.to_string());
        put("resume_offset", position.offset.to_string());
    }
    metadata
}

/// Returns what the error itself contains: the position to resume from, the earliest offset, and the tail.
fn positions(error: &Error) -> (Option<Position>, Option<Offset>, Option<Offset>) {
    use storage::Error as Storage;
    let at = |epoch: Epoch, offset: Offset| Some(Position { epoch, offset });
    let Error::Topic(topic::Error::Storage(error)) = error else { return (None, None, None) };
    match *error {
        Storage::Trimmed { epoch, earliest, tail } => (at(epoch, earliest), Some(earliest), Some(tail)),
        Storage::BeyondTail { epoch, earliest, tail } => (at(epoch, tail), Some(earliest), Some(tail)),
        Storage::ExpectedOffset { epoch, tail } => (at(epoch, tail), None, Some(tail)),
        Storage::EpochChanged { current, resume } => (at(current, resume), None, None),
        _ => (None, None, None),
    }
}

/// Adds the details to a status of tonic, which has none.
#[must_use]
pub fn with_details(status: Status) -> Status {
    self::status(&Error::Transport(status), &Context::default())
}
