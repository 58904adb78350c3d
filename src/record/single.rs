//! One record: a record to publish, and a stored record, which points into the bytes of its batch.

use bytes::{BufMut, Bytes};
use prost_types::Timestamp;

use super::batch::RECORDS_TAG;
use super::names::{Offset, UnixMicros};
use super::protobuf::{bytes_len, field_len, put_bytes, put_short_len, put_varint, varint_len};
use super::walk::{self, Fields, Malformed, Value};

/// A record to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Application-defined key, which may be empty.
    pub key: Bytes,
    /// Payload, which may be empty.
    pub value: Bytes,
    /// Application-defined headers. The last of two with the same key counts.
    pub headers: Vec<(String, String)>,
    /// Time of the event, set by the publisher: from the year 1 to 9999, and less than 10⁹ nanoseconds.
    pub event_time: Option<Timestamp>,
}

impl Record {
    /// A record with only a payload.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = key.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    fn body_len(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| field_len(header_len(header))).sum();
        let time = self.event_time.map_or(0, |time| field_len(time_len(time)));
        bytes_len(&self.key) + bytes_len(&self.value) + headers + time
    }

    /// Length of the `records` field that [`Self::put_field`] writes.
    pub(crate) fn field_len(&self) -> usize {
        field_len(self.body_len())
    }

    /// Writes the record as one `records` field of a publish.
    pub(crate) fn put_field(&self, out: &mut impl BufMut) {
        put_varint(RECORDS_TAG, self.body_len() as u64, out);
        put_bytes(0x0a, &self.key, out);
        put_bytes(0x12, &self.value, out);
        for header in &self.headers {
            put_varint(0x1a, header_len(header) as u64, out);
            put_bytes(0x0a, header.0.as_bytes(), out);
            put_bytes(0x12, header.1.as_bytes(), out);
        }
        if let Some(time) = self.event_time {
            put_short_len(0x22, time_len(time), out);
            let (seconds, nanos) = time_numbers(time);
            put_varint(0x08, seconds, out);
            put_varint(0x10, nanos, out);
        }
    }
}

/// The fields of a time as they are encoded.
fn time_numbers(time: Timestamp) -> (u64, u64) {
    (time.seconds.cast_unsigned(), i64::from(time.nanos).cast_unsigned())
}

fn time_len(time: Timestamp) -> usize {
    let (seconds, nanos) = time_numbers(time);
    2 + varint_len(seconds) + varint_len(nanos)
}

fn header_len((key, value): &(String, String)) -> usize {
    bytes_len(key.as_bytes()) + bytes_len(value.as_bytes())
}

/// A stored record, which points into the bytes of its batch.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Offset of the record.
    pub offset: Offset,
    /// Time when its batch was stored.
    pub publish_time: UnixMicros,
    /// Key, which may be empty.
    pub key: &'a [u8],
    /// Payload, which may be empty.
    pub value: &'a [u8],
    /// The whole encoded record. Other fields are parsed when they are asked for.
    encoded: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Reads an encoded record.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn parse(offset: Offset, publish_time: UnixMicros, encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut record = Self { offset, publish_time, key: &[], value: &[], encoded };
        for field in Fields::new(encoded) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(range)) => record.key = &encoded[range],
                (2, Value::Len(range)) => record.value = &encoded[range],
                _ => {}
            }
        }
        Ok(record)
    }

    /// The headers, in the order published.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { encoded: self.encoded, fields: Fields::new(self.encoded) }
    }

    /// Time of the event, set by the publisher: seconds since 1970, and nanoseconds.
    #[must_use]
    pub fn event_time(&self) -> Option<(i64, u32)> {
        let mut time: Option<walk::Timestamp> = None;
        for field in Fields::new(self.encoded).map_while(Result::ok) {
            if let (4, Value::Len(range)) = (field.number, field.value) {
                // The server has checked it; of bytes that are damaged all the same, what can be read counts.
                let _ = time.get_or_insert_default().merge(&self.encoded[range]);
            }
        }
        time.map(|time| (time.seconds, u32::try_from(time.nanos).unwrap_or(0)))
    }
}

/// An iterator over the headers of one record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    encoded: &'a [u8],
    fields: Fields<'a>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let text = |range| std::str::from_utf8(&self.encoded[range]).unwrap_or_default();
        let header = self.fields.by_ref().map_while(Result::ok).find_map(|field| match field.value {
            Value::Len(range) if field.number == 3 => Some(range),
            _ => None,
        })?;
        let mut pair = ("", "");
        for field in Fields::within(self.encoded, header).map_while(Result::ok) {
            match (field.number, field.value) {
                (1, Value::Len(range)) => pair.0 = text(range),
                (2, Value::Len(range)) => pair.1 = text(range),
                _ => {}
            }
        }
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, RecordRef};
    use crate::proto::v1;
    use crate::record::{Offset, UnixMicros};
    use bytes::BytesMut;
    use proptest::prelude::*;
    use prost::Message;
    use prost_types::Timestamp;

    proptest! {
        #[test]
        fn a_record_is_what_the_contract_says(
            key: Vec<u8>, value: Vec<u8>, headers in proptest::collection::hash_map(".*", ".*", 0..4),
            time in proptest::option::of((-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_i32)),
        ) {
            let record = Record {
                key: key.clone().into(),
                value: value.clone().into(),
                headers: headers.clone().into_iter().collect(),
                event_time: time.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
            };
            let mut out = BytesMut::new();
            record.put_field(&mut out);
            prop_assert_eq!(out.len(), record.field_len());
            let typed = v1::PublishRequest::decode(&out[..]).unwrap();
            prop_assert_eq!(typed.records.len(), 1);
            prop_assert_eq!(&typed.records[0].key[..], &key[..]);
            prop_assert_eq!(&typed.records[0].value[..], &value[..]);
            prop_assert_eq!(&typed.records[0].headers, &headers);
            let seconds = typed.records[0].event_time.map(|t| (t.seconds, t.nanos));
            prop_assert_eq!(seconds, time);

            let encoded = typed.records[0].encode_to_vec();
            let seen = RecordRef::parse(Offset::new(7), UnixMicros(1), &encoded).unwrap();
            prop_assert_eq!((seen.key, seen.value), (&key[..], &value[..]));
            let seen_headers = seen.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(headers, seen_headers);
            prop_assert_eq!(seen.event_time(), time.map(|(s, n)| (s, n as u32)));
        }
    }
}
