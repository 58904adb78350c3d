//! `streamway token`: prints a new token, and its line for the file of `--auth-tokens`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::format::Format;
use super::{Failure, output};
use crate::auth;

/// Generate a token for a principal.
///
/// Prints two lines: the token, for the client, and the line with its hash, for the file of --auth-tokens. The
/// token cannot be recovered from the hash.
#[derive(Debug, Args)]
pub(super) struct Token {
    /// Name of the principal in the policy.
    name: String,
    #[command(flatten)]
    format: Format,
}

impl Token {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        auth::check_name(&self.name).map_err(|rule| Failure::usage(format!("the name {rule}")))?;
        let token =
            auth::new_token().map_err(|error| Failure::failed(format!("no random bytes: {error}")))?;
        let entry = auth::entry(&self.name, &token);
        output::print(&if self.format.is_json() {
            output::json_line(&json!({ "token": token, "entry": entry }))
        } else {
            format!("{token}\n{entry}\n")
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
