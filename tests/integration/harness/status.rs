//! Checks of the details of a refusal (P7).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Details of a status, which every error of the server has.
pub fn detail(status: &Status) -> ErrorDetails {
    status.get_error_details()
}

/// Metadata of the `ErrorInfo` of a status.
#[track_caller]
pub fn metadata(status: &Status) -> HashMap<String, String> {
    let details = detail(status);
    details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).metadata.clone()
}

/// Checks code, reason, domain and `side_effects` of a refusal that stored nothing.
#[track_caller]
pub fn refused(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = detail(status);
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.reason, reason, "{status:?}");
    assert_eq!(info.domain, "streamway");
    assert_eq!(info.metadata.get("side_effects").map(String::as_str), Some("none"), "{info:?}");
    assert!(!status.message().is_empty(), "an error says what to do");
    if code == Code::InvalidArgument && reason == "INVALID_FIELD" {
        let bad = details.bad_request().unwrap_or_else(|| panic!("no BadRequest: {status:?}"));
        assert!(!bad.field_violations.is_empty() && !bad.field_violations[0].field.is_empty(), "{bad:?}");
    }
    let retryable = code == Code::Unavailable;
    assert!(!retryable || details.retry_info().is_some(), "UNAVAILABLE says when to retry: {status:?}");
}
