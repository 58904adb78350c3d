//! Reading of records from JSON: in the form that [`super::Line`] prints, or documents `{"records": […]}`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::time::parse_time;
use crate::record::Record;

/// Reads the records of one JSON value: of a record, of an array of records, or of an object with such an array.
///
/// # Errors
/// The text is none of these; the reason is one line.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
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

/// Reads the records of a document `{"records": […]}`.
///
/// # Errors
/// The text is no such document; the reason is one line.
pub fn document(text: &[u8]) -> Result<Vec<Record>, String> {
    let mut object: Object = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match object.records.take() {
        Some(records) if object.is_empty() => records.into_iter().map(Object::record).collect(),
        _ => Err("the body is an object with the field records, an array, and nothing else".into()),
    }
}

/// Reads one record, as a line of NDJSON.
///
/// # Errors
/// The text is no record; the reason is one line.
pub fn line(text: &[u8]) -> Result<Record, String> {
    let object: Object = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    object.record()
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
            parse_time(&time).ok_or_else(|| {
                format!("event_time {time:?} is not an RFC 3339 time with a zone, as 2026-05-01T12:00:00Z")
            })
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
    use super::parse;
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
}
