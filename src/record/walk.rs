//! Reading of protobuf bytes without building messages or allocating: a cursor over fields, and the check of one
//! encoded `Record`. It refuses whatever a protobuf parser refuses.

use std::ops::Range;

use super::UnixMicros;

/// The reason why bytes are not a well-formed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

/// The value of one field. Ranges are indexes of the bytes being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64,
    /// Wire type 2: the range of the content.
    Len(Range<usize>),
    /// Wire type 5.
    Fixed32,
}

/// One field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field's number, at least 1.
    pub number: u32,
    /// The range of the whole field, tag included.
    pub at: Range<usize>,
    /// The value.
    pub value: Value,
}

/// An iterator over the fields of one message. It ends after an error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// Iterates over all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    /// Iterates over a part of `bytes`; ranges stay relative to the whole.
    #[must_use]
    pub const fn within(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self { bytes, at: range.start, end: range.end }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let rest = &self.bytes[self.at..self.end];
        match rest.first() {
            Some(&b) if b < 0x80 => {
                self.at += 1;
                return Ok(u64::from(b));
            }
            Some(_) => {}
            None => return Err(Malformed("truncated")),
        }
        let mut value = 0_u64;
        for (i, &b) in rest.iter().take(10).enumerate() {
            // The tenth byte holds the 64th bit only.
            if i == 9 && b > 1 {
                return Err(Malformed("varint over 64 bits"));
            }
            value |= u64::from(b & 0x7f) << (7 * i);
            if b < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(Malformed(if rest.len() < 10 { "truncated" } else { "varint over 64 bits" }))
    }

    #[inline]
    fn take(&mut self, len: u64) -> Result<Range<usize>, Malformed> {
        if len > (self.end - self.at) as u64 {
            return Err(Malformed("truncated"));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(start..self.at)
    }

    #[inline]
    fn field(&mut self) -> Result<Field, Malformed> {
        let start = self.at;
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed("tag over 32 bits"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed("field number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let len = self.varint()?;
                Value::Len(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed32)?,
            // Groups are deprecated, and no message of this API has one.
            _ => return Err(Malformed("unknown wire type")),
        };
        Ok(Field { number, at: start..self.at, value })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.end {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.end;
        }
        Some(field)
    }
}

/// A string that is not UTF-8.
pub const NOT_UTF8: Malformed = Malformed("a string is not UTF-8");
/// A known field with another wire type.
pub const WIRE_TYPE: Malformed = Malformed("a field has the wrong wire type");

/// Checks one encoded `Record`: the wire types of known fields, the UTF-8 of headers and the range of the time.
/// Unknown fields are accepted.
///
/// # Errors
/// A protobuf parser would refuse the bytes, or the time is out of the range of a `Timestamp`.
pub fn check_record(bytes: &[u8]) -> Result<(), Malformed> {
    for field in Fields::new(bytes) {
        let field = field?;
        match (field.number, field.value) {
            (1 | 2, Value::Len(_)) => {}
            (3, Value::Len(range)) => check_header(bytes, range)?,
            (4, Value::Len(range)) => check_timestamp(bytes, range)?,
            (1..=4, _) => return Err(WIRE_TYPE),
            _ => {}
        }
    }
    Ok(())
}

fn check_header(bytes: &[u8], range: Range<usize>) -> Result<(), Malformed> {
    for field in Fields::within(bytes, range) {
        let field = field?;
        match (field.number, field.value) {
            (1 | 2, Value::Len(text)) => {
                std::str::from_utf8(&bytes[text]).map(|_| ()).map_err(|_| NOT_UTF8)?
            }
            (1 | 2, _) => return Err(WIRE_TYPE),
            _ => {}
        }
    }
    Ok(())
}

/// 0001-01-01T00:00:00Z, the smallest time a `Timestamp` may hold, in Unix seconds.
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the largest time a `Timestamp` may hold, in Unix seconds.
const SECONDS_MAX: i64 = 253_402_300_799;

fn check_timestamp(bytes: &[u8], range: Range<usize>) -> Result<(), Malformed> {
    let time = Timestamp::parse(&bytes[range])?;
    if (SECONDS_MIN..=SECONDS_MAX).contains(&time.seconds) && time.nanos < 1_000_000_000 {
        return Ok(());
    }
    Err(Malformed("event_time is out of range"))
}

/// A `google.protobuf.Timestamp` as it is encoded; its fields may be out of range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after those seconds.
    pub nanos: u64,
}

impl Timestamp {
    /// Reads a whole message.
    ///
    /// # Errors
    /// The bytes are not a well-formed `Timestamp`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut time = Self::default();
        time.merge(bytes)?;
        Ok(time)
    }

    /// Reads a message, or a further piece of one, which replaces the fields that it holds.
    ///
    /// # Errors
    /// The bytes are not a well-formed `Timestamp`.
    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|field| (field.number, field.value))? {
                (1, Value::Varint(seconds)) => self.seconds = seconds as i64,
                (2, Value::Varint(nanos)) => self.nanos = nanos,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    /// The time in microseconds; 0 for a time before 1970.
    #[must_use]
    pub fn micros(self) -> UnixMicros {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        UnixMicros(seconds.saturating_mul(1_000_000).saturating_add(self.nanos / 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, check_record};
    use proptest::prelude::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Record {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
        #[prost(map = "string, string", tag = "3")]
        headers: std::collections::HashMap<String, String>,
        #[prost(message, optional, tag = "4")]
        event_time: Option<prost_types::Timestamp>,
    }

    proptest! {
        #[test]
        fn what_prost_encodes_passes(
            key: Vec<u8>, value: Vec<u8>,
            headers in proptest::collection::hash_map(".*", ".*", 0..4),
            time in proptest::option::of((-62_135_596_800_i64..253_402_300_799, 0..1_000_000_000_i32)),
        ) {
            let event_time = time.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
            let bytes = Record { key, value, headers, event_time }.encode_to_vec();
            prop_assert_eq!(check_record(&bytes), Ok(()));
        }

        #[test]
        fn what_passes_prost_decodes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if check_record(&bytes).is_ok() {
                prop_assert!(Record::decode(&bytes[..]).is_ok());
            }
        }

        #[test]
        fn every_cut_of_a_record_is_refused_or_a_shorter_record(cut in 0_usize..40) {
            let bytes = Record { key: vec![7; 10], value: vec![9; 20], ..Record::default() }.encode_to_vec();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(check_record(&bytes[..cut]).is_ok(), Record::decode(&bytes[..cut]).is_ok());
        }
    }

    #[test]
    fn headers_must_be_utf8_and_times_in_range() {
        // headers { key: 0xff }
        assert!(check_record(&[0x1a, 3, 0x0a, 1, 0xff]).is_err());
        // event_time { nanos: 1_000_000_000 }
        assert!(check_record(&[0x22, 6, 0x10, 0x80, 0x94, 0xeb, 0xdc, 0x03]).is_err());
    }

    #[test]
    fn overlong_varints_and_groups_are_refused() {
        assert!(
            Fields::new(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02])
                .any(|f| f.is_err())
        );
        assert!(Fields::new(&[0x0b]).any(|f| f.is_err()));
        assert!(Fields::new(&[0x00]).any(|f| f.is_err()));
    }
}
