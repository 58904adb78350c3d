//! `streamway completions`: prints a completion script.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{Failure, output};

/// Print the completion script of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway completions bash > /etc/bash_completion.d/streamway
  streamway completions zsh > \"${fpath[1]}/_streamway\"
  streamway completions fish > ~/.config/fish/completions/streamway.fish")]
pub(super) struct Completions {
    /// Name of the shell.
    shell: Shell,
}

impl Completions {
    /// Prints the script that completes the arguments of `command`.
    pub(super) fn run(&self, mut command: clap::Command) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "streamway", &mut script);
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
