//! Records as JSON: those that `subscribe --output json` prints, one a line, or documents `{"records": […]}`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost_types::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::client::Record;

/// Largest JSON value, in bytes: far more than a server accepts in one message by default.
const VALUE_MAX: usize = 64 << 20;
/// Number of JSON values read ahead.
const AHEAD: usize = 256;

/// The records of one JSON value, and its size in bytes.
pub(super) type Parsed = Result<(Vec<Record>, u64), String>;

/// Starts to read JSON values on a thread of its own.
pub(super) fn read(input: Box<dyn Read + Send>) -> io::Result<mpsc::Receiver<Parsed>> {
    let (sender, values) = mpsc::channel(AHEAD);
    // A thread of the runtime would delay the exit, as a read of a terminal may block for ever.
    std::thread::Builder::new().name("json".into()).spawn(move || {
        let used = Rc::new(Cell::new(0));
        let limited = Limited { input: BufReader::with_capacity(256 << 10, input), used: Rc::clone(&used) };
        let mut values = serde_json::Deserializer::from_reader(limited).into_iter::<Box<RawValue>>();
        let (mut number, mut read) = (0_u64, 0);
        while let Some(value) = values.next() {
            used.set(0);
            number += 1;
            let parsed = value.map_err(|error| error.to_string()).and_then(|value| parse(value.get()));
            let parsed = parsed.map_err(|why| format!("JSON value {number}: {why}"));
            let end = values.byte_offset();
            let failed = parsed.is_err();
            if sender.blocking_send(parsed.map(|records| (records, (end - read) as u64))).is_err() || failed {
                return;
            }
            read = end;
        }
    })?;
    Ok(values)
}

/// A reader that fails within a value that is too large.
struct Limited<R> {
    input: R,
    used: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used.get() > VALUE_MAX {
            return Err(io::Error::other(format!("longer than {VALUE_MAX} bytes")));
        }
        let read = self.input.read(out)?;
        self.used.set(self.used.get() + read);
        Ok(read)
    }
}

/// Reads the records of one JSON value: of a record, of an array of records, or of an object with such an array.
pub(super) fn parse(text: &str) -> Result<Vec<Record>, String> {
    let shown = |error: serde_json::Error| error.to_string();
    if text.trim_start().starts_with('[') {
        let records: Vec<Object> = serde_json::from_str(text).map_err(shown)?;
        return records.into_iter().map(Object::record).collect();
    }
    let mut object: Object = serde_json::from_str(text).map_err(shown)?;
    match object.records.take() {
        None => Ok(vec![object.record()?]),
        Some(records) if object.is_empty() => records.into_iter().map(Object::record).collect(),
        Some(_) => Err("an object with records has no other fields".into()),
    }
}

/// A record, or a document of records.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a record, which is an object, or an array of records", default)]
struct Object {
    key: Option<String>,
    #[serde(deserialize_with = "as_written")]
    key_json: Option<Box<RawValue>>,
    key_base64: Option<String>,
    value: Option<String>,
    #[serde(deserialize_with = "as_written")]
    value_json: Option<Box<RawValue>>,
    value_base64: Option<String>,
    headers: BTreeMap<String, String>,
    event_time: Option<String>,
    records: Option<Vec<Object>>,
    // These are printed with a record, and assigned anew when it is published.
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(rename = "publish_time")]
    _publish_time: Option<IgnoredAny>,
}

/// Keeps a JSON value as it is written, `null` too.
fn as_written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Object {
    fn is_empty(&self) -> bool {
        let Self { key, key_json, key_base64, value, value_json, value_base64, .. } = self;
        let texts = [key, key_base64, value, value_base64, &self.event_time];
        texts.iter().all(|text| text.is_none())
            && key_json.is_none()
            && value_json.is_none()
            && self.headers.is_empty()
    }

    fn record(self) -> Result<Record, String> {
        if self.records.is_some() {
            return Err("a record holds no records".into());
        }
        let value = one_of("value", self.value, self.value_json, self.value_base64)?
            .ok_or("a record has one of value, value_json and value_base64")?;
        let event_time = self.event_time.map(|time| {
            time.parse::<Timestamp>().map_err(|_| format!("event_time {time:?} is not an RFC 3339 time"))
        });
        Ok(Record {
            key: one_of("key", self.key, self.key_json, self.key_base64)?.unwrap_or_default(),
            value,
            headers: self.headers.into_iter().collect(),
            event_time: event_time.transpose()?,
        })
    }
}

/// The bytes of a key or a value, which has at most one of three forms.
fn one_of(
    name: &str,
    text: Option<String>,
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Bytes>, String> {
    match (text, json, base64) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(text.into())),
        (None, Some(json), None) => Ok(Some(Bytes::from(String::from(Box::<str>::from(json))))),
        (None, None, Some(base64)) => match STANDARD.decode(&base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(format!("{name}_base64 is not base64: {error}")),
        },
        _ => Err(format!("a record has only one of {name}, {name}_json and {name}_base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, read};
    use prost_types::Timestamp;

    #[test]
    fn every_form_of_a_record_is_read() {
        let records = parse(
            r#"{"records": [{"value": "ü\u0000\n", "key_base64": "/w==", "headers": {"a": "b"},
                "event_time": "1969-12-31T23:59:59.000000007Z"}, {"value_json": {"b": 1.50,  "a":null}},
                {"value_json": null, "key_json": 7}, {"value_base64": ""}]}"#,
        )
        .unwrap();
        assert_eq!((&records[0].value[..], &records[0].key[..]), ("ü\0\n".as_bytes(), &b"\xff"[..]));
        assert_eq!(records[0].headers, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(records[0].event_time, Some(Timestamp { seconds: -1, nanos: 7 }));
        assert_eq!(&records[1].value[..], br#"{"b": 1.50,  "a":null}"#, "as written");
        assert_eq!((&records[2].value[..], &records[2].key[..]), (&b"null"[..], &b"7"[..]));
        assert_eq!(&records[3].value[..], b"");
        assert_eq!(parse(r#"[{"value":"a"},{"value":"b"}]"#).unwrap().len(), 2);
        let printed = r#"{"topic":"t","offset":"7","publish_time":"1970-01-01T00:00:01Z","value":"a"}"#;
        assert_eq!(&parse(printed).unwrap()[0].value[..], b"a");
    }

    #[test]
    fn what_is_no_record_is_refused_with_the_reason() {
        for (bad, why) in [
            ("7", "a record, which is an object"),
            ("{}", "has one of value"),
            (r#"{"valeu":"x"}"#, "unknown field `valeu`"),
            (r#"{"value":"x","value_json":1}"#, "only one of value"),
            (r#"{"value":"x","key":"a","key_base64":"YQ=="}"#, "only one of key"),
            (r#"{"value_base64":"?"}"#, "is not base64"),
            (r#"{"value":7}"#, "expected a string"),
            (r#"{"value":"x","event_time":"noon"}"#, "not an RFC 3339 time"),
            (r#"{"value":"x","headers":{"a":1}}"#, "expected a string"),
            (r#"{"records":[],"value":"x"}"#, "no other fields"),
            (r#"{"records":[{"records":[]}]}"#, "holds no records"),
            (r#"{"value":"\ud800"}"#, "line 1 column"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn values_are_read_one_by_one_and_a_bad_one_ends_them() {
        let text =
            "{\"value\":\"a\"}\n\n{\n \"value\": \"b\"\n}[{\"value\":\"c\"}] {\"x\":1} {\"value\":\"d\"}";
        let mut values = read(Box::new(text.as_bytes())).unwrap();
        let mut next =
            || values.blocking_recv().map(|parsed| parsed.map(|(records, _)| records[0].value.clone()));
        for expected in ["a", "b", "c"] {
            assert_eq!(next(), Some(Ok(expected.into())));
        }
        assert!(next().unwrap().unwrap_err().starts_with("JSON value 4: unknown field `x`"));
        assert_eq!(next(), None);
    }
}
