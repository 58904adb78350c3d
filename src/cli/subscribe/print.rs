//! Printing of records, raw or as JSON lines.

use std::io::{self, BufWriter, StdoutLock, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::cli::output;
use crate::client::{Delivery, Headers, RecordRef};

/// Size of the output buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// Options of printing.
#[derive(Debug, Args)]
pub(super) struct Print {
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
pub(super) enum Error {
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
pub(super) struct Printer {
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
    pub(super) fn new(args: &Print, several: bool) -> Self {
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
            let record = record.map_err(Error::Record)?;
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
                    self.out.write_all(newline)?;
                }
                Format::Json { several } => {
                    let line = Line { topic: several.then_some(topic), record: &record };
                    output::put_json(&mut self.out, &line)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A record as one JSON object.
struct Line<'a> {
    topic: Option<&'a str>,
    record: &'a RecordRef<'a>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        if let Some(topic) = self.topic {
            map.serialize_entry("topic", topic)?;
        }
        // Many programs read numbers as 64-bit floats, which do not hold every offset.
        map.serialize_entry("offset", &record.offset.get().to_string())?;
        map.serialize_entry("publish_time", &output::time(record.publish_time))?;
        if !record.key.is_empty() {
            text(&mut map, ["key", "key_base64"], record.key)?;
        }
        text(&mut map, ["value", "value_base64"], record.value)?;
        let headers = record.headers();
        if headers.clone().next().is_some() {
            map.serialize_entry("headers", &Object(headers))?;
        }
        if let Some((seconds, nanos)) = record.event_time() {
            map.serialize_entry("event_time", &output::event_time(seconds, nanos))?;
        }
        map.end()
    }
}

fn text<M: SerializeMap>(map: &mut M, [plain, base64]: [&str; 2], bytes: &[u8]) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(plain, text),
        Err(_) => map.serialize_entry(base64, &STANDARD.encode(bytes)),
    }
}

struct Object<'a>(Headers<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Of two with one key the last counts, as in a protobuf map.
        serializer.collect_map(self.0.clone().collect::<std::collections::BTreeMap<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use crate::client::RecordRef;
    use crate::record::{Offset, UnixMicros};
    use prost::Message;

    #[test]
    fn a_record_is_one_json_object() {
        let record = crate::proto::v1::Record {
            key: "k\"".into(),
            value: vec![0xff].into(),
            headers: [("a".to_owned(), "b".to_owned())].into(),
            event_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        };
        let encoded = record.encode_to_vec();
        let seen = RecordRef::parse(Offset::new(7), UnixMicros(1_000_001), &encoded).unwrap();
        assert_eq!(
            serde_json::to_string(&Line { topic: Some("t"), record: &seen }).unwrap(),
            "{\"topic\":\"t\",\"offset\":\"7\",\"publish_time\":\"1970-01-01T00:00:01.000001Z\",\"key\":\"k\\\"\",\"value_base64\":\"/w==\",\
             \"headers\":{\"a\":\"b\"},\"event_time\":\"1970-01-01T00:00:01Z\"}"
        );
    }
}
