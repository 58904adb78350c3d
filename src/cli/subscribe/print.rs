//! Printing of records, raw or as JSON lines.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::{Args, ValueEnum};

use crate::cli::output;
use crate::client::{Delivery, RecordRef};
use crate::json::{Line, Values};

/// Size of the output buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// Options of printing.
#[derive(Debug, Args)]
pub(in crate::cli) struct Print {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Raw)]
    output: Output,
    /// In raw format, print no newline after a record.
    #[arg(long)]
    no_newline: bool,
    /// In raw format, print the key and this text before each record.
    #[arg(long, value_name = "TEXT")]
    print_key: Option<String>,
    /// In raw format, print the topic and this text before each record.
    #[arg(long, value_name = "TEXT")]
    print_topic: Option<String>,
}

impl Print {
    /// Returns true for JSON.
    pub(super) fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The value and a newline. Values are not escaped: do not print those of an untrusted publisher to a terminal.
    Raw,
    /// One JSON object per line, which `publish --input json` reads back: offset (a string), publish_time, key, value, headers
    /// and event_time. Keys and values that are not UTF-8 are in base64, as key_base64 and value_base64. Control
    /// characters are escaped.
    Json,
}

/// The reason why printing failed.
#[derive(Debug)]
pub(in crate::cli) enum Error {
    /// Standard output cannot be written.
    Output(io::Error),
    /// A record that the server sent is malformed.
    Record(crate::client::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A printer to standard output.
#[derive(Debug)]
pub(in crate::cli) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Raw {
        newline: &'static [u8],
        after_topic: Option<Box<[u8]>>,
        after_key: Option<Box<[u8]>>,
    },
    /// Each line names its topic, where there are several.
    Json {
        several: bool,
    },
}

impl Printer {
    pub(in crate::cli) fn new(args: &Print, several: bool) -> Self {
        let format = match args.output {
            Output::Json => Format::Json { several },
            Output::Raw => Format::Raw {
                newline: if args.no_newline { b"" } else { b"\n" },
                after_topic: args.print_topic.as_ref().map(|text| text.as_bytes().into()),
                after_key: args.print_key.as_ref().map(|text| text.as_bytes().into()),
            },
        };
        Self { out: BufWriter::with_capacity(BUFFER, io::stdout().lock()), format }
    }

    pub(super) fn delivery(&mut self, topic: &str, delivery: &Delivery) -> Result<(), Error> {
        for record in delivery.records() {
            self.record(topic, &record.map_err(Error::Record)?)?;
        }
        Ok(())
    }

    /// Prints one record.
    pub(in crate::cli) fn record(&mut self, topic: &str, record: &RecordRef<'_>) -> io::Result<()> {
        match &self.format {
            Format::Raw { newline, after_topic, after_key } => {
                if let Some(separator) = after_topic {
                    self.out.write_all(topic.as_bytes())?;
                    self.out.write_all(separator)?;
                }
                if let Some(separator) = after_key {
                    self.out.write_all(record.key)?;
                    self.out.write_all(separator)?;
                }
                self.out.write_all(record.value)?;
                self.out.write_all(newline)
            }
            Format::Json { several } => {
                let line = Line { topic: several.then_some(topic), record, values: Values::Text };
                output::put_json(&mut self.out, &line)
            }
        }
    }

    pub(in crate::cli) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
