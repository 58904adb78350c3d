//! Questions before something that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use super::Failure;
use crate::client::printable;

/// Asks a question, which is answered with no by default. Without a terminal nobody can be asked, and `--yes` is required.
///
/// # Errors
/// The answer is no, or nobody can be asked.
pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    let question = printable(question);
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} Nobody can be asked here: give --yes")));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("not confirmed: nothing was changed")),
    }
}
