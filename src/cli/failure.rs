//! Failures of commands: exit codes, and the line on standard error, which is text or JSON.

use serde_json::{Map, Value, json};

use crate::client::Error;
use crate::json::duration;
use crate::telemetry::CODES;

/// Exit code of a command that failed.
pub const FAILURE: u8 = 1;
/// Exit code for invalid arguments or an invalid configuration; nothing was attempted.
pub const USAGE: u8 = 2;
/// Exit code of a command whose call an operator of the server has ended (EX_NOPERM): it should not be started again.
pub const SENT_AWAY: u8 = 77;
/// Exit code of a command that was ended by Ctrl-C or SIGTERM (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Exit code of a command of several parts, of which one more has failed. An operator who sends the command away decides it,
/// whichever part that was told for.
pub fn of_several(before: u8, failed: u8) -> u8 {
    if before == SENT_AWAY || failed == SENT_AWAY { SENT_AWAY } else { FAILURE }
}

/// Reason of a call that an operator has ended.
const DISCONNECTED: &str = "DISCONNECTED_BY_OPERATOR";

/// The reason why a command fails, or a part of it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// One line of text.
    pub message: String,
    /// One of several things the command was asked for, as a kind and a name: the one that failed.
    about: Option<(&'static str, String)>,
    /// The error of the call that failed.
    error: Option<Error>,
}

impl Failure {
    /// Creates the failure of a command whose arguments or configuration are invalid.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::with_code(USAGE, message)
    }

    /// Creates the failure of a command that was attempted.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::with_code(FAILURE, message)
    }

    /// Creates a failure with an exit code of its own.
    pub fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), about: None, error: None }
    }

    /// Names what failed, of several things of this kind.
    #[must_use]
    pub fn about(self, kind: &'static str, name: impl Into<String>) -> Self {
        Self { about: Some((kind, name.into())), ..self }
    }

    /// Adds to the message.
    #[must_use]
    pub fn adding(mut self, text: &str) -> Self {
        self.message.push_str(text);
        self
    }

    /// The line on standard error as text, without its newline.
    pub fn text(&self) -> String {
        match &self.about {
            Some((_, name)) => format!("error: {name}: {}", self.message),
            None => format!("error: {}", self.message),
        }
    }

    /// The line on standard error as JSON: an object with the member `error`.
    pub fn json(&self) -> Value {
        let mut members = self.error.as_ref().map_or_else(Map::new, of_call);
        members.insert("message".into(), self.message.as_str().into());
        members.insert("exitCode".into(), self.code.into());
        if let Some((kind, name)) = &self.about {
            members.insert((*kind).into(), name.as_str().into());
        }
        json!({ "error": members })
    }
}

/// The members that only the error of a call has.
fn of_call(error: &Error) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("code".into(), CODES[error.code() as usize].into());
    members.insert("retryable".into(), error.is_retryable().into());
    if let Some(reason) = error.reason() {
        members.insert("reason".into(), reason.into());
    }
    if !error.metadata().is_empty() {
        members.insert("metadata".into(), json!(error.metadata()));
    }
    if !error.violations().is_empty() {
        let violation =
            |(field, description): &(String, String)| json!({ "field": field, "description": description });
        members.insert("violations".into(), error.violations().iter().map(violation).collect());
    }
    if let Some(delay) = error.retry_after() {
        members.insert("retryAfter".into(), duration(delay).into());
    }
    members
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let local = error.origin() == crate::client::Origin::Local;
        let code = match error.code() {
            _ if error.reason() == Some(DISCONNECTED) => SENT_AWAY,
            tonic::Code::InvalidArgument if local => USAGE,
            _ => FAILURE,
        };
        let message = error.to_string();
        Self { error: Some(error), ..Self::with_code(code, message) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;
    use crate::client::Error;
    use serde_json::json;
    use std::collections::HashMap;
    use std::time::Duration;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn the_json_of_a_failed_call_has_all_that_its_status_has() {
        let metadata = HashMap::from([("tail".to_owned(), "7".to_owned())]);
        let mut details = ErrorDetails::with_error_info("OVERLOADED", "streamway", metadata);
        details.set_retry_info(Some(Duration::from_millis(250)));
        details.add_bad_request_violation("records", "too many");
        let status = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let failure = Failure::from(Error::from_status(&status, "http://x")).about("topic", "orders");
        assert_eq!(failure.text(), format!("error: orders: {}", failure.message));
        let expected = json!({ "error": {
            "code": "RESOURCE_EXHAUSTED", "reason": "OVERLOADED", "metadata": { "tail": "7" }, "retryAfter": "0.25s",
            "violations": [{ "field": "records", "description": "too many" }], "retryable": true,
            "message": failure.message, "exitCode": 1, "topic": "orders",
        } });
        assert_eq!(failure.json(), expected);
    }

    #[test]
    fn a_failure_without_a_call_has_a_message_and_an_exit_code() {
        assert_eq!(Failure::usage("no").json(), json!({ "error": { "message": "no", "exitCode": 2 } }));
        assert_eq!(Failure::usage("no").text(), "error: no");
    }
}
