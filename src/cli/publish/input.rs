//! The records to publish: values of the command line, lines, JSON, or a whole file as one record.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use prost_types::Timestamp;
use tokio::sync::mpsc;

use super::json;
use super::lines::{LINE_MAX, Lines};
use crate::cli::{Failure, output};
use crate::client::Record;
use crate::json::parse_time;

/// The form of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Each line is a record, without its newline.
    Lines,
    /// JSON objects as `subscribe --output json` prints them, or a document {"records": […]}. A record has one of value,
    /// value_json (stored as written) and value_base64; of key, key_json and key_base64 at most one; headers and
    /// event_time.
    Json,
    /// The whole input is one record.
    Raw,
}

/// Key, headers and time that every record gets.
#[derive(Clone, Debug, Args)]
pub(super) struct Template {
    /// Key of every record that has none of its own.
    #[arg(long, value_name = "KEY")]
    key: Option<OsString>,
    /// Use the text before the first occurrence of this separator as the record's key.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        conflicts_with = "key",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    key_separator: Option<String>,
    /// Header of every record; one of the record itself counts more. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Event time of every record that has none of its own: an RFC 3339 time, now, or "5m ago".
    #[arg(long, value_name = "TIME", value_parser = parse_event_time)]
    event_time: Option<Timestamp>,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_event_time(text: &str) -> Result<Timestamp, String> {
    if let Some(time) = parse_time(text) {
        return Ok(time);
    }
    let now = SystemTime::now();
    let ago = match text.trim() {
        "now" => Some(now),
        other => {
            let ago = other.strip_suffix("ago").and_then(|ago| humantime::parse_duration(ago.trim()).ok());
            ago.map(|ago| now.checked_sub(ago).unwrap_or(UNIX_EPOCH))
        }
    };
    ago.map(Timestamp::from)
        .ok_or_else(|| "write a time with a zone as 2026-05-01T12:00:00Z, now, or \"5m ago\"".into())
}

impl Template {
    /// Makes a record of a line or a value; `number` is the one of the line.
    pub(super) fn record(&self, text: Bytes, number: u64) -> Result<Record, Failure> {
        let (key, value) = match &self.key_separator {
            None => (Bytes::new(), text),
            Some(separator) => {
                let at = text.windows(separator.len()).position(|part| part == separator.as_bytes());
                let at = at.ok_or_else(|| {
                    Failure::failed(format!("line {number} has no key separator {separator:?}"))
                })?;
                (text.slice(..at), text.slice(at + separator.len()..))
            }
        };
        Ok(self.complete(Record { key, value, ..Record::default() }))
    }

    /// Gives a record what it does not have itself.
    fn complete(&self, mut record: Record) -> Record {
        if let Some(key) = &self.key
            && record.key.is_empty()
        {
            record.key = key.clone().into_vec().into();
        }
        if !self.headers.is_empty() {
            // Of two headers with one key the last counts.
            let own = std::mem::replace(&mut record.headers, self.headers.clone());
            record.headers.extend(own);
        }
        record.event_time = record.event_time.or(self.event_time);
        record
    }
}

/// A source of records.
pub(super) struct Input {
    template: Template,
    source: Source,
    /// Size of the whole input in bytes, where it is known.
    pub(super) len: Option<u64>,
    /// Number of records so far.
    read: u64,
}

enum Source {
    Values(VecDeque<OsString>, Form),
    Lines(Lines),
    Json(mpsc::Receiver<json::Parsed>),
    Raw(Lines),
}

/// Some records, and the number of bytes of the input that they were read from.
pub(super) type Chunk = (Vec<Record>, u64);

impl Input {
    /// Starts to read values, a file, or standard input for `-` or no path.
    pub(super) fn open(
        form: Form,
        template: Template,
        values: Vec<OsString>,
        path: Option<&Path>,
    ) -> Result<Self, Failure> {
        if form == Form::Json && template.key_separator.is_some() {
            return Err(Failure::usage("--key-separator is for lines: records of JSON have their keys"));
        }
        if !values.is_empty() {
            let source = Source::Values(values.into(), form);
            return Ok(Self { template, source, len: None, read: 0 });
        }
        let (input, len) = open(path).map_err(|error| Failure::usage(error.to_string()))?;
        let source = match form {
            Form::Lines => Source::Lines(Lines::read(input)?),
            Form::Json => Source::Json(json::read(input)?),
            Form::Raw => Source::Raw(Lines::read(input)?),
        };
        Ok(Self { template, source, len, read: 0 })
    }

    /// Returns true if the records are the lines of the input.
    pub(super) const fn is_lines(&self) -> bool {
        matches!(self.source, Source::Lines(_))
    }

    /// Waits for the next records; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        let chunk = match &mut self.source {
            Source::Values(values, form) => match values.pop_front() {
                None => return Ok(None),
                Some(value) => one(value, *form, &self.template, self.read + 1)?,
            },
            Source::Lines(lines) => match lines.next().await? {
                None => return Ok(None),
                Some(chunk) => {
                    let records: Result<_, _> =
                        chunk.lines().map(|(number, line)| self.template.record(line, number)).collect();
                    (records?, chunk.len())
                }
            },
            Source::Json(values) => match values.recv().await {
                None => return Ok(None),
                Some(parsed) => {
                    let (records, bytes) = parsed.map_err(Failure::failed)?;
                    (records.into_iter().map(|record| self.template.complete(record)).collect(), bytes)
                }
            },
            Source::Raw(_) if self.read > 0 => return Ok(None),
            Source::Raw(lines) => {
                let whole = whole(lines).await?;
                let bytes = whole.len() as u64;
                (vec![self.template.record(whole, 1)?], bytes)
            }
        };
        self.read += chunk.0.len() as u64;
        Ok(Some(chunk))
    }
}

/// The records of one value of the command line.
fn one(value: OsString, form: Form, template: &Template, number: u64) -> Result<Chunk, Failure> {
    let bytes = value.len() as u64;
    let records = if form == Form::Json {
        let text = value.into_string().map_err(|_| Failure::usage("a value is not UTF-8"))?;
        let records =
            crate::json::parse(&text).map_err(|why| Failure::usage(format!("JSON value {number}: {why}")))?;
        records.into_iter().map(|record| template.complete(record)).collect()
    } else {
        vec![template.record(value.into_vec().into(), number)?]
    };
    Ok((records, bytes))
}

async fn whole(lines: &mut Lines) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = lines.next().await? {
        whole.extend_from_slice(chunk.bytes());
        if whole.len() > LINE_MAX {
            return Err(Failure::failed(format!("the input is longer than {LINE_MAX} bytes")));
        }
    }
    Ok(whole.freeze())
}

/// Opens a file, or standard input, and returns its size where that is known.
fn open(path: Option<&Path>) -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        if io::stdin().is_terminal() {
            output::complain("reading from the terminal; Ctrl-D ends the input");
        }
        return Ok((Box::new(io::stdin()), None));
    };
    let at_path = |error| io::Error::other(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(at_path)?;
    let metadata = file.metadata().map_err(at_path)?;
    if metadata.is_dir() {
        return Err(io::Error::other(format!("{} is a directory", path.display())));
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}
