//! `streamway token`: prints a new token, and its line for the file of `--auth-tokens`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::auth;

/// Generate a token for a principal.
///
/// Prints two lines: the token, for the client, and the line with its hash, for the file of --auth-tokens. The
/// token cannot be recovered from the hash.
#[derive(Debug, Args)]
pub(super) struct Token {
    /// Name of the principal in the policy.
    name: String,
}

impl Token {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        auth::check_name(&self.name).map_err(|rule| Failure::usage(format!("the name {rule}")))?;
        let token =
            auth::new_token().map_err(|error| Failure::failed(format!("no random bytes: {error}")))?;
        writeln!(std::io::stdout(), "{token}\n{}", auth::entry(&self.name, &token))?;
        Ok(ExitCode::SUCCESS)
    }
}
