//! Status, reason and advice of every error.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::status::{Context, Error, reason_name, status, with_details};
use crate::proto::v1::ErrorReason as Reason;
use crate::record::{Epoch, Offset, Position, Violation};
use crate::storage::{self, Stored};
use crate::topic;
use crate::wire::MALFORMED;

fn of_storage(error: storage::Error) -> Error {
    error.into()
}

#[test]
fn every_error_has_its_code_reason_and_advice() {
    use storage::Error as Storage;
    let (epoch, earliest, tail) = (Epoch::new(7), Offset::new(3), Offset::new(9));
    let unavailable = |stored| Storage::Unavailable { reason: "disk".to_owned(), stored };
    let cases: Vec<(Error, Code, Reason, bool)> = vec![
        (Error::field("topic", "empty"), Code::InvalidArgument, Reason::InvalidField, false),
        (Error::batch("", &Violation::Empty), Code::InvalidArgument, Reason::InvalidField, false),
        (
            Error::batch("", &Violation::TooManyRecords { records: 2, limit: 1 }),
            Code::InvalidArgument,
            Reason::BatchTooLarge,
            false,
        ),
        (Error::Protocol("x".to_owned()), Code::InvalidArgument, Reason::ProtocolViolation, false),
        (topic::Error::Starting.into(), Code::Unavailable, Reason::ServerStarting, true),
        (topic::Error::Draining.into(), Code::Unavailable, Reason::ServerDraining, true),
        (topic::Error::MaxAge.into(), Code::Unavailable, Reason::StreamMaxAge, true),
        (topic::Error::IdentityExpired.into(), Code::Unauthenticated, Reason::Unauthenticated, false),
        (topic::Error::PermissionWithdrawn.into(), Code::Unauthenticated, Reason::Unauthenticated, false),
        (topic::Error::Overloaded.into(), Code::ResourceExhausted, Reason::Overloaded, true),
        (of_storage(Storage::TopicNotFound), Code::NotFound, Reason::TopicNotFound, false),
        (of_storage(Storage::TopicExists), Code::AlreadyExists, Reason::TopicAlreadyExists, false),
        (of_storage(Storage::Restoring { cut: tail }), Code::Unavailable, Reason::TopicRestoring, true),
        (Error::Numbering, Code::FailedPrecondition, Reason::OffsetNumberingDiffers, false),
        (of_storage(Storage::TopicLimit { limit: 1 }), Code::FailedPrecondition, Reason::TopicLimit, false),
        (
            of_storage(Storage::EpochChanged { current: epoch, resume: Offset::new(7) }),
            Code::FailedPrecondition,
            Reason::EpochChanged,
            false,
        ),
        (
            of_storage(Storage::ExpectedOffset { epoch, tail }),
            Code::FailedPrecondition,
            Reason::ExpectedOffsetMismatch,
            false,
        ),
        (
            of_storage(Storage::RequestIdReused { first: earliest }),
            Code::FailedPrecondition,
            Reason::RequestIdReused,
            false,
        ),
        (
            of_storage(Storage::Trimmed { epoch, earliest, tail }),
            Code::OutOfRange,
            Reason::OffsetTrimmed,
            false,
        ),
        (
            of_storage(Storage::BeyondTail { epoch, earliest, tail }),
            Code::OutOfRange,
            Reason::OffsetBeyondTail,
            false,
        ),
        (of_storage(Storage::DiskFull), Code::ResourceExhausted, Reason::DiskFull, true),
        (of_storage(Storage::EarlierFailed), Code::FailedPrecondition, Reason::EarlierPublishFailed, false),
        (of_storage(unavailable(Stored::Nothing)), Code::Unavailable, Reason::StorageUnavailable, true),
        (of_storage(unavailable(Stored::Unknown)), Code::Unavailable, Reason::StorageUnavailable, true),
        (of_storage(Storage::Closing), Code::Unavailable, Reason::ServerDraining, true),
        (of_storage(Storage::Damaged("x".to_owned())), Code::DataLoss, Reason::DataDamaged, false),
    ];
    for (error, code, reason, retry) in cases {
        let status = status(&error, &Context::topic("orders"));
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has a reason");
        assert_eq!((status.code(), info.reason.as_str()), (code, reason_name(reason)), "{error:?}");
        assert_eq!(info.domain, "streamway");
        assert_eq!(details.retry_info().is_some(), retry, "{error:?}");
        let unknown = matches!(
            error,
            Error::Topic(topic::Error::Storage(Storage::Unavailable { stored: Stored::Unknown, .. }))
        );
        assert_eq!(info.metadata["side_effects"], if unknown { "unknown" } else { "none" }, "{error:?}");
        assert_eq!(
            details.bad_request().is_some(),
            matches!(error, Error::Field { .. } | Error::BatchTooLarge { .. })
        );
    }
}

#[test]
fn metadata_says_where_to_go_on() {
    let (epoch, earliest, tail) = (Epoch::new(7), Offset::new(3), Offset::new(9));
    let of = |error: storage::Error, context: &Context| {
        let details = status(&error.into(), context).get_error_details();
        details.error_info().unwrap().metadata.clone()
    };
    let trimmed = of(storage::Error::Trimmed { epoch, earliest, tail }, &Context::default());
    for (key, value) in [
        ("earliest_offset", "3"),
        ("tail", "9"),
        ("resume_offset", "3"),
        ("resume_epoch", "0000000000000007"),
    ] {
        assert_eq!(trimmed[key], value);
    }
    let resume = Some(Position { epoch, offset: Offset::new(5) });
    let context = Context { resume, number: Some(8), ..Context::topic("orders") };
    let failed = of(storage::Error::DiskFull, &context);
    assert_eq!((failed["resume_offset"].as_str(), failed["number"].as_str()), ("5", "8"));
}

#[test]
fn tonics_own_errors_get_details() {
    let large = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
    for (found, code, reason) in [
        (Status::out_of_range(large), Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        (
            Status::invalid_argument(format!("{MALFORMED}: truncated")),
            Code::InvalidArgument,
            "MALFORMED_MESSAGE",
        ),
        (Status::internal("Unexpected EOF decoding stream."), Code::InvalidArgument, "MALFORMED_MESSAGE"),
        (Status::internal("Missing request message."), Code::InvalidArgument, "MALFORMED_MESSAGE"),
    ] {
        let status = with_details(found);
        assert_eq!(status.code(), code);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, reason);
    }
    let unimplemented = with_details(Status::unimplemented(""));
    assert_eq!((unimplemented.code(), unimplemented.details().len()), (Code::Unimplemented, 0));
}
