//! Failures of commands, and exit codes.

/// Exit code of a command that failed.
pub const FAILURE: u8 = 1;
/// Exit code for invalid arguments or an invalid configuration; nothing was attempted.
pub const USAGE: u8 = 2;
/// Exit code of a command whose call an operator of the server has ended (EX_NOPERM): it should not be started again.
pub const SENT_AWAY: u8 = 77;
/// Exit code of a command that was ended by Ctrl-C or SIGTERM (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Reason of a call that an operator has ended.
const DISCONNECTED: &str = "DISCONNECTED_BY_OPERATOR";

/// The reason why a command fails: one line of text and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The text.
    pub message: String,
}

impl Failure {
    /// Creates the failure of a command whose arguments or configuration are invalid.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// Creates the failure of a command that was attempted.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILURE, message: message.into() }
    }
}

impl From<crate::client::Error> for Failure {
    fn from(error: crate::client::Error) -> Self {
        if error.reason() == Some(DISCONNECTED) {
            return Self { code: SENT_AWAY, message: error.to_string() };
        }
        let local = error.origin() == crate::client::Origin::Local;
        let code = if local && error.code() == tonic::Code::InvalidArgument { USAGE } else { FAILURE };
        Self { code, message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
