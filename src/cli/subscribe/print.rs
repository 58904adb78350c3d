//! Printing of records, raw or as JSON lines.

use std::io::{self, BufWriter, StdoutLock, Write};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The value and a newline. Values are not escaped: do not print those of an untrusted publisher to a terminal.
    Raw,
    /// One JSON object per line: offset, time, key, value and headers. Keys and values that are not UTF-8 are in base64,
    /// as key_base64 and value_base64. Control characters are escaped.
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
    Raw { newline: &'static [u8], after_key: Option<Box<[u8]>> },
    Json,
}

impl Printer {
    pub(super) fn new(args: &Print) -> Self {
        let format = match args.output {
            Output::Json => Format::Json,
            Output::Raw => Format::Raw {
                newline: if args.no_newline { b"" } else { b"\n" },
                after_key: args.print_key.as_ref().map(|text| text.as_bytes().into()),
            },
        };
        Self { out: BufWriter::with_capacity(BUFFER, io::stdout().lock()), format }
    }

    pub(super) fn delivery(&mut self, delivery: &Delivery) -> Result<(), Error> {
        for record in delivery.records() {
            let record = record.map_err(Error::Record)?;
            match &self.format {
                Format::Raw { newline, after_key } => {
                    if let Some(separator) = after_key {
                        self.out.write_all(record.key)?;
                        self.out.write_all(separator)?;
                    }
                    self.out.write_all(record.value)?;
                    self.out.write_all(newline)?;
                }
                Format::Json => {
                    output::put_json(&mut self.out, &Line(&record))?;
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
struct Line<'a>(&'a RecordRef<'a>);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("offset", &record.offset.get())?;
        map.serialize_entry("time", &output::time(record.publish_time))?;
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
        Err(_) => map.serialize_entry(base64, &encode_base64(bytes)),
    }
}

struct Object<'a>(Headers<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Of two with one key the last counts, as in a protobuf map.
        serializer.collect_map(self.0.clone().collect::<std::collections::BTreeMap<_, _>>())
    }
}

/// RFC 4648, section 4, with padding.
fn encode_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let group =
            part.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= part.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Line, encode_base64};
    use crate::client::RecordRef;
    use crate::record::{Offset, UnixMicros};
    use prost::Message;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in vectors {
            assert_eq!(encode_base64(plain.as_bytes()), encoded);
        }
        assert_eq!(encode_base64(&[0xfb, 0xff]), "+/8=");
    }

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
            serde_json::to_string(&Line(&seen)).unwrap(),
            "{\"offset\":7,\"time\":\"1970-01-01T00:00:01.000001Z\",\"key\":\"k\\\"\",\"value_base64\":\"/w==\",\
             \"headers\":{\"a\":\"b\"},\"event_time\":\"1970-01-01T00:00:01Z\"}"
        );
    }
}
