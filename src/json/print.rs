//! Printing of a record as one JSON object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::time::{event_time, time};
use crate::record::{Headers, RecordRef};

/// A record as one JSON object.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Topic, where the reader follows several.
    pub topic: Option<&'a str>,
    /// The record.
    pub record: &'a RecordRef<'a>,
    /// Form of its key and value.
    pub values: Values,
}

/// Form of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Values {
    /// Text where it is UTF-8, else base64.
    #[default]
    Text,
    /// Always base64.
    Base64,
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
        map.serialize_entry("publish_time", &time(record.publish_time))?;
        if !record.key.is_empty() {
            self.text(&mut map, ["key", "key_base64"], record.key)?;
        }
        self.text(&mut map, ["value", "value_base64"], record.value)?;
        let headers = record.headers();
        if headers.clone().next().is_some() {
            map.serialize_entry("headers", &Object(headers))?;
        }
        if let Some((seconds, nanos)) = record.event_time() {
            map.serialize_entry("event_time", &event_time(seconds, nanos))?;
        }
        map.end()
    }
}

impl Line<'_> {
    fn text<M: SerializeMap>(
        &self,
        map: &mut M,
        [plain, base64]: [&str; 2],
        bytes: &[u8],
    ) -> Result<(), M::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) if self.values == Values::Text => map.serialize_entry(plain, text),
            _ => map.serialize_entry(base64, &STANDARD.encode(bytes)),
        }
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
    use super::{Line, Values};
    use crate::record::{Offset, RecordRef, UnixMicros};
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
            serde_json::to_string(&Line { topic: Some("t"), record: &seen, values: Values::Text }).unwrap(),
            "{\"topic\":\"t\",\"offset\":\"7\",\"publish_time\":\"1970-01-01T00:00:01.000001Z\",\"key\":\"k\\\"\",\"value_base64\":\"/w==\",\
             \"headers\":{\"a\":\"b\"},\"event_time\":\"1970-01-01T00:00:01Z\"}"
        );
    }
}
