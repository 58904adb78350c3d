//! The option `--output` of commands that print an answer.

use clap::{Args, ValueEnum};

/// Options of the output.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Format {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table or text to read.
    Table,
    /// JSON for programs.
    Json,
}

impl Format {
    /// Returns true for JSON.
    pub(super) fn is_json(self) -> bool {
        self.output == Output::Json
    }
}
