//! Errors as one line of text, with advice.

use std::fmt;

use tonic::Code;

use super::error::{Error, Origin};
use super::printable::printable;

impl Error {
    fn line(&self) -> String {
        let message = self.0.message.trim_end_matches('.');
        let mut line = if message.is_empty() { self.0.code.description() } else { message }.to_owned();
        if self.0.origin == Origin::Server {
            match self.reason() {
                Some(reason) => line.push_str(&format!(" [{reason}]")),
                None => line.push_str(&format!(" [{:?}]", self.0.code)),
            }
        }
        for (field, description) in self.0.violations.iter().filter(|(_, text)| !message.contains(text)) {
            line.push_str(&format!("; {field}: {description}"));
        }
        if let Some(hint) = self.hint() {
            line.push_str(&format!("; {hint}"));
        }
        line
    }

    /// Advice on what to do about the error, where there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Some(hint) = self.0.tls_hint {
            return Some(hint.to_owned());
        }
        let about = |key: &str| self.0.metadata.get(key).map_or("?", String::as_str);
        let hint = match (self.0.origin, self.reason()) {
            (Origin::Connect, _) => "is the server running, and is this its address?".into(),
            (_, Some("TOPIC_NOT_FOUND")) => "check the topic's name, or create it first".into(),
            (_, Some("TOPIC_ALREADY_EXISTS")) => "update it, or delete it first".into(),
            (_, Some("TOPIC_LIMIT")) => "delete a topic, or raise the server's topics_max".into(),
            (_, Some("OFFSET_TRIMMED" | "OFFSET_BEYOND_TAIL")) => {
                format!("the topic holds offsets {} to {}", about("earliest_offset"), about("tail"))
            }
            (_, Some("EPOCH_CHANGED")) => "start over from the topic's beginning".into(),
            (_, Some("REQUEST_ID_REUSED")) => {
                "an id is for one batch: this input or the --batch options differ from the first run, or two \
                 imports have one name"
                    .into()
            }
            (_, Some("BATCH_TOO_LARGE" | "MESSAGE_TOO_LARGE")) => {
                "send fewer or smaller records at once, or raise the server's limits".into()
            }
            (_, Some("DISK_FULL")) => "make space on the server's disk".into(),
            (_, Some("DATA_DAMAGED" | "INTERNAL" | "STORAGE_UNAVAILABLE")) => {
                "look at the server's log".into()
            }
            (_, Some("UNAUTHENTICATED")) => "present a valid identity".into(),
            (Origin::Server, None) if self.0.code == Code::Unimplemented => {
                "is this a streamway server, and as new as this client?".into()
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// One line: the message, the reason or code, the invalid fields and a hint. Control characters in what a server sent are
/// escaped, so that a terminal does not obey them.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.line()))
    }
}

#[cfg(test)]
mod tests {
    use crate::client::Error;
    use std::collections::HashMap;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn the_message_of_a_hostile_server_controls_no_terminal() {
        let bad = "\x1b]0;x\x07\u{9b}2J\x7f\u{202e}\n";
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("tail".to_owned(), bad.to_owned())]);
        details.set_error_info(format!("OFFSET_TRIMMED{bad}"), bad, metadata.clone());
        details.add_bad_request_violation(format!("field{bad}"), format!("wrong{bad}"));
        let known = ErrorDetails::with_error_info("OFFSET_TRIMMED", "streamway", metadata);
        for details in [details, known] {
            let status = Status::with_error_details(Code::OutOfRange, format!("message{bad}"), details);
            let shown = Error::from_status(&status, "http://x").to_string();
            assert!(!shown.contains(crate::client::is_control), "{shown:?}");
            assert!(shown.contains("\\u{1b}]0;x\\u{7}"), "{shown}");
        }
    }
}
