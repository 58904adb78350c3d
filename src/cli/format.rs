//! The option `--output` of commands that print an answer. It is the form of their errors too.

use std::ffi::OsStr;

use clap::{ArgMatches, Args, ValueEnum};

use super::{Failure, output};

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

    /// The format that a command line asks for. The option has this name in every command, though some have formats of
    /// their own.
    pub(super) fn of(mut matches: &ArgMatches) -> Self {
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        let mut given = matches.try_get_raw("output").ok().flatten().into_iter().flatten();
        Self::named(given.any(|value| value == "json"))
    }

    /// The format that arguments ask for which are no valid command line.
    pub(super) fn of_invalid(arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut is_value = false;
        for argument in arguments {
            match argument.as_ref().to_str() {
                Some("--") => break,
                Some("json") if is_value => return Self::named(true),
                Some("-ojson" | "-o=json" | "--output=json") => return Self::named(true),
                other => is_value = matches!(other, Some("-o" | "--output")),
            }
        }
        Self::named(false)
    }

    /// JSON, or else text.
    pub(super) const fn named(is_json: bool) -> Self {
        Self { output: if is_json { Output::Json } else { Output::Table } }
    }

    /// Prints a failure to standard error, on one line.
    pub(super) fn complain(self, failure: &Failure) {
        if self.is_json() {
            output::complain(output::json_line(&failure.json()).trim_end());
        } else {
            output::complain(&failure.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_format_of_an_invalid_command_line_is_found() {
        let is_json = |line: &str| Format::of_invalid(line.split(' ')).is_json();
        for line in ["topics lst -o json", "x --output json y", "x --output=json", "x -ojson", "x -o=json"] {
            assert!(is_json(line), "{line}");
        }
        for line in ["x json", "x -o table json", "publish t -- -o json", "x -o", "x --key json"] {
            assert!(!is_json(line), "{line}");
        }
    }
}
