//! Reading of records from JSON: in the form that [`super::Line`] prints, or documents `{"records": […]}`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
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
        let records: Vec<Item> = serde_json::from_str(text).map_err(shown)?;
        return records.into_iter().map(|Item(object)| object.record()).collect();
    }
    let Item(mut object) = serde_json::from_str(text).map_err(shown)?;
    match object.records.take() {
        None => Ok(vec![object.record()?]),
        Some(records) if object.is_empty() => {
            records.into_iter().map(|Item(object)| object.record()).collect()
        }
        Some(_) => Err("an object with records has no other fields".into()),
    }
}

/// Reads the records of a document `{"records": […]}`. Of more than `records_max`, one more is read, so that the caller sees
/// that there are too many and nobody holds them all.
///
/// # Errors
/// The text is no such document; the reason is one line.
pub fn document(text: &[u8], records_max: usize) -> Result<Vec<Record>, String> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let records = parser.deserialize_map(Document { records_max });
    let records = records.and_then(|records| parser.end().map(|()| records));
    records.map_err(|error| error.to_string())
}

/// Reads one record, as a line of NDJSON.
///
/// # Errors
/// The text is no record; the reason is one line.
pub fn line(text: &[u8]) -> Result<Record, String> {
    let Item(object) = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    object.record()
}

/// Reader of a document.
struct Document {
    records_max: usize,
}

impl<'de> Visitor<'de> for Document {
    type Value = Vec<Record>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the field records, an array, and nothing else")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut records = None;
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "records" if records.is_none() => {
                    records = Some(map.next_value_seed(Records { records_max: self.records_max })?);
                }
                "records" => return Err(A::Error::duplicate_field("records")),
                other => return Err(A::Error::unknown_field(other, &["records"])),
            }
        }
        records.ok_or_else(|| A::Error::missing_field("records"))
    }
}

/// Reader of the records of a document.
struct Records {
    records_max: usize,
}

impl<'de> DeserializeSeed<'de> for Records {
    type Value = Vec<Record>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records {
    type Value = Vec<Record>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut records = Vec::new();
        while records.len() <= self.records_max {
            let Some(Item(object)) = seq.next_element()? else { return Ok(records) };
            records.push(object.record().map_err(A::Error::custom)?);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(records)
    }
}

/// A JSON object. The derived reader alone would take an array as well, of the fields in their order.
#[derive(Debug)]
struct Item(Object);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
                Object::deserialize(MapAccessDeserializer::new(map)).map(Item)
            }
        }

        from.deserialize_map(Fields)
    }
}

/// A record, or a document of records.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Object {
    key: Option<String>,
    #[serde(deserialize_with = "as_written")]
    key_json: Option<Box<RawValue>>,
    key_base64: Option<String>,
    value: Option<String>,
    #[serde(deserialize_with = "as_written")]
    value_json: Option<Box<RawValue>>,
    value_base64: Option<String>,
    #[serde(deserialize_with = "each_once")]
    headers: BTreeMap<String, String>,
    event_time: Option<String>,
    records: Option<Vec<Item>>,
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

/// Reads headers, of which no two may have one name: a record keeps only one of them.
fn each_once<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of headers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut headers = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                match headers.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(value)),
                    Entry::Occupied(taken) => {
                        return Err(A::Error::custom(format!("header {:?} is given twice", taken.key())));
                    }
                }
            }
            Ok(headers)
        }
    }

    from.deserialize_map(Headers)
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
        assert!(super::line(br#"["k",null,null,"v"]"#).unwrap_err().contains("a record, which is an object"));
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
            (r#"{"value":"x","headers":{"a":"1","b":"2","a":"3"}}"#, "header \"a\" is given twice"),
            (r#"{"value":"x","headers":[]}"#, "expected an object of headers"),
            (r#"[["k",null,null,"v"]]"#, "expected a record, which is an object"),
            (r#"{"records":[["k"]]}"#, "expected a record, which is an object"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn a_document_is_an_object_of_records_and_of_too_many_only_one_more_is_read() {
        let read = |text: &str| super::document(text.as_bytes(), 2);
        let of = |count: usize| format!(r#"{{"records":[{}]}}"#, vec![r#"{"value":"a"}"#; count].join(","));
        for (count, kept) in [(0, 0), (2, 2), (3, 3), (1000, 3)] {
            assert_eq!(read(&of(count)).unwrap().len(), kept, "{count}");
        }
        for (bad, why) in [
            (r#"[{"value":"a"}]"#, "expected an object with the field records"),
            (r#"{"value":"a"}"#, "unknown field `value`, expected `records`"),
            ("{}", "missing field `records`"),
            (r#"{"records":[],"records":[]}"#, "duplicate field"),
            (r#"{"records":{}}"#, "expected an array of records"),
            (r#"{"records":[]} x"#, "trailing characters"),
            (r#"{"records":[{"value":"a"},{}]}"#, "has one of value"),
            (r#"{"records":[{"value":"a"},{"value":"a"},{"value":"a"},{"value":"a"}"#, "EOF"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
