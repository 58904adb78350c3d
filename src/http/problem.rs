//! Errors over HTTP: `application/problem+json` (RFC 9457) with the reason, side effects and positions that a gRPC status
//! of the same error has, since it is made from that status. docs/errors.md has the table of codes for people.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::v1::ErrorReason;
use crate::record::{Epoch, Offset, Position};
use crate::service::status::{self, Context, Error};

/// Content type of a problem.
const KIND: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Challenge of an answer 401 (RFC 6750).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"streamway\"");

/// Message of the error of a body that stopped.
pub const BODY_TIMEOUT: &str = "nothing more of the body came (--http-body-timeout)";
/// Message of the error of a body that came too slowly.
pub const BODY_TOO_SLOW: &str = "the body came more slowly than 240 bytes per second (--http-body-timeout)";

/// Returns the HTTP status of an error: that of its reason where it has one of its own, else that of its code.
#[must_use]
pub fn status_of(code: Code, reason: &str) -> StatusCode {
    match ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}")) {
        Some(ErrorReason::MessageTooLarge | ErrorReason::BatchTooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        Some(ErrorReason::RequestIdReused) => StatusCode::UNPROCESSABLE_ENTITY,
        Some(ErrorReason::EpochChanged | ErrorReason::OffsetTrimmed) => StatusCode::GONE,
        Some(ErrorReason::DiskFull) => StatusCode::INSUFFICIENT_STORAGE,
        Some(ErrorReason::Overloaded) => StatusCode::SERVICE_UNAVAILABLE,
        _ => of_code(code),
    }
}

/// The usual HTTP status of a gRPC code, but 409 for a precondition, since the request itself is well-formed.
const fn of_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Answer that says why a request failed.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
    retry: Option<Duration>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// Makes the problem of an error, with what is known about its request.
    #[must_use]
    pub fn of(error: &Error, context: &Context) -> Self {
        Self::from(&status::status(error, context))
    }

    /// Makes a problem that only HTTP has; docs/errors.md lists its reason.
    #[must_use]
    pub fn new(status: StatusCode, reason: &str, detail: impl Into<String>) -> Self {
        let mut members = Map::new();
        members.insert("title".into(), status.canonical_reason().unwrap_or_default().into());
        members.insert("status".into(), status.as_u16().into());
        members.insert("detail".into(), detail.into().into());
        members.insert("reason".into(), reason.into());
        members.insert("side_effects".into(), "none".into());
        let headers = if status == StatusCode::UNAUTHORIZED {
            vec![(header::WWW_AUTHENTICATE, CHALLENGE)]
        } else {
            Vec::new()
        };
        Self { status, members, retry: None, headers }
    }

    /// Makes the answer 404 to a path without a route.
    #[must_use]
    pub fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NO_SUCH_PATH",
            format!("nothing is at {path:?}; /v1/openapi.json lists the paths"),
        )
    }

    /// Makes the answer 405; axum adds the methods that are allowed.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let detail = "this path does not take the method; the header allow lists those it does";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail)
    }

    /// Makes the answer 415, which lists the content types that are accepted.
    #[must_use]
    pub fn unsupported_media_type(accepted: &'static str) -> Self {
        let detail = format!("the content type must be one of: {accepted}");
        let kinds = HeaderValue::from_static(accepted);
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail)
            .header(header::ACCEPT, kinds)
    }

    /// Makes the answer 415 to a body that is compressed.
    #[must_use]
    pub fn unsupported_encoding() -> Self {
        let detail = "the body must not be compressed: send it without a content encoding";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail)
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
    }

    /// Makes the answer 413 to a body of more than `bytes_max`.
    #[must_use]
    pub fn body_too_large(bytes_max: usize) -> Self {
        let detail = format!("the body is longer than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MESSAGE_TOO_LARGE", detail)
    }

    /// Makes the answer to a request whose body cannot be read: it stopped or came too slowly (408), exceeded a budget or came while
    /// the server drains (503), or was cut off (400).
    #[must_use]
    pub fn of_body(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        for cause in causes.filter_map(|error| error.downcast_ref::<Status>()) {
            if [BODY_TIMEOUT, BODY_TOO_SLOW].contains(&cause.message()) {
                return Self::new(StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", cause.message());
            }
            if cause.message().starts_with(status::PARTLY_RECEIVED) {
                return Self::of(&Error::Transport(cause.clone()), &Context::default());
            }
            if cause.get_details_error_info().is_some() {
                return Self::from(cause);
            }
        }
        Self::new(StatusCode::BAD_REQUEST, "MALFORMED_MESSAGE", "the body was cut off")
    }

    /// Adds or replaces a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Delay after which the client should try again; none where that would not help.
    #[must_use]
    pub const fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The reason, as `ErrorInfo` has it.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.members.get("reason").and_then(Value::as_str).unwrap_or_default()
    }

    /// The problem as one JSON object, for the last line of an answer that has begun.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(self.members.clone())
    }
}

impl From<&Status> for Problem {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or("", |info| info.reason.as_str());
        let code = match status_of(status.code(), reason) {
            StatusCode::PAYLOAD_TOO_LARGE if status.message().starts_with(status::HEADERS_TOO_LARGE) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            code => code,
        };
        let violations = details.bad_request().map(|bad| &bad.field_violations).into_iter().flatten();
        let mut message = status.message().to_owned();
        let violations: Vec<Value> = violations
            .map(|violation| {
                let field = own_name(&violation.field);
                if let Some(rest) = message.strip_prefix(&violation.field) {
                    message = format!("{field}{rest}");
                }
                json!({"field": field, "description": violation.description})
            })
            .collect();
        let mut problem = Self::new(code, reason, message);
        let metadata = info.map(|info| &info.metadata).into_iter().flatten();
        for (key, value) in metadata {
            problem.members.insert(key.clone(), Value::String(value.clone()));
        }
        let member = |key: &str| problem.members.get(key).and_then(Value::as_str);
        let resume = member("resume_epoch").zip(member("resume_offset"));
        let resume = resume.and_then(|(epoch, offset)| {
            Some(Position { epoch: Epoch::parse(epoch)?, offset: Offset::new(offset.parse().ok()?) })
        });
        if let Some(resume) = resume {
            problem.members.insert("next".into(), resume.to_string().into());
        }
        if !violations.is_empty() {
            problem.members.insert("violations".into(), violations.into());
        }
        problem.retry = details.retry_info().and_then(|retry| retry.retry_delay);
        if let Some(delay) = problem.retry {
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            problem.members.insert("retry_after_ms".into(), millis.into());
        }
        problem
    }
}

/// Returns the name that a field of a call's message has over HTTP.
fn own_name(field: &str) -> &str {
    // The batches of a body of lines are calls' messages of their own.
    match field.strip_prefix("publish.").unwrap_or(field) {
        "request_id" => "Idempotency-Key",
        "topic.name" => "name",
        field => field,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, members, retry, headers } = self;
        let mut text = Value::Object(members).to_string();
        text.push('\n');
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let to = response.headers_mut();
        to.insert(header::CONTENT_TYPE, KIND);
        to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = retry {
            // Whole seconds are all that the header has; retry_after_ms is finer.
            to.insert(
                header::RETRY_AFTER,
                delay
                    .as_millis()
                    .div_ceil(1000)
                    .max(1)
                    .to_string()
                    .parse()
                    .unwrap_or(HeaderValue::from_static("1")),
            );
        }
        to.extend(headers.into_iter().map(|(name, value)| (Some(name), value)).collect::<Vec<_>>());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, status_of};
    use crate::auth;
    use crate::proto::v1::ErrorReason;
    use crate::record::{Epoch, Offset};
    use crate::service::status::{Context, Error, reason_name};
    use crate::storage;
    use crate::telemetry::CODES;
    use crate::topic;
    use axum::response::IntoResponse;
    use http::header;
    use std::collections::BTreeMap;
    use tonic::Code;

    #[test]
    fn a_problem_says_what_the_status_of_the_same_error_does() {
        let trimmed = storage::Error::Trimmed {
            epoch: Epoch::new(0xc0ffee),
            earliest: Offset::new(7),
            tail: Offset::new(9),
        };
        let problem = Problem::of(&trimmed.into(), &Context::topic("orders"));
        assert_eq!((problem.status().as_u16(), problem.reason()), (410, "OFFSET_TRIMMED"));
        let json = problem.to_json();
        for (member, expected) in [
            ("earliest_offset", "7"),
            ("tail", "9"),
            ("next", "0000000000c0ffee_00000000000000000007"),
            ("side_effects", "none"),
        ] {
            assert_eq!(json[member], expected, "{json}");
        }
        let field = Problem::of(&Error::field("records[3].value", "too odd"), &Context::default());
        assert_eq!(field.to_json()["violations"][0]["field"], "records[3].value");
        let renamed = Problem::of(&Error::field("publish.request_id", "too long"), &Context::default());
        let json = renamed.to_json();
        assert_eq!(json["violations"][0]["field"], "Idempotency-Key");
        assert_eq!(json["detail"], "Idempotency-Key: too long");
    }

    #[test]
    fn clients_are_told_how_to_go_on() {
        let answer = |error: Error| Problem::of(&error, &Context::default()).into_response();
        let draining = answer(topic::Error::Draining.into());
        assert_eq!(draining.status().as_u16(), 503);
        assert_eq!(draining.headers()[header::RETRY_AFTER], "1");
        let nobody = answer(auth::Error::Missing.into());
        assert_eq!(nobody.status().as_u16(), 401);
        assert_eq!(nobody.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"streamway\"");
        assert_eq!(nobody.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn the_table_of_docs_is_that_of_the_code() {
        let docs = include_str!("../../docs/errors.md");
        let section = docs.split("## Over HTTP").nth(1).unwrap().split("These reasons exist").next().unwrap();
        let rows = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
        let documented: BTreeMap<&str, u16> =
            rows.map(|(name, status)| (name, status.parse().unwrap())).collect();
        let codes = (1..CODES.len()).map(|code| (CODES[code], Code::from_i32(i32::try_from(code).unwrap())));
        for (name, code) in codes.clone() {
            let is_ours = !["CANCELLED", "UNKNOWN", "ABORTED"].contains(&name);
            let expected = is_ours.then(|| status_of(code, "").as_u16());
            assert_eq!(documented.get(name).copied(), expected, "{name}");
        }
        let reasons = (1..).map_while(|number| ErrorReason::try_from(number).ok()).map(reason_name);
        for reason in reasons.filter(|reason| codes.clone().all(|(name, _)| name != *reason)) {
            let of_code = status_of(Code::Internal, "");
            let own = Some(status_of(Code::Internal, reason)).filter(|own| *own != of_code);
            assert_eq!(documented.get(reason).copied(), own.map(|own| own.as_u16()), "{reason}");
        }
    }
}
