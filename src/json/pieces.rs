//! Writing of a record as one JSON object in pieces: a control character takes six bytes, so that the text of a record can
//! have six times its size, and nobody should have to hold it whole. The text is the one that serde prints.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;

use super::print::{Line, Values};
use super::time::{event_time, time};

/// Place in the text of a record at which writing stopped; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    part: usize,
    /// Bytes of the part's source that are written.
    byte: usize,
}

/// Part of the text.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// Short text, which is written whole.
    Literal(&'a str),
    /// Content of a JSON string.
    Text(&'a str),
    /// Bytes as base64.
    Base64(&'a [u8]),
}

impl Line<'_> {
    /// Writes the text from a place on, until `out` has about `room` bytes. Returns the place where it stopped; none at the
    /// end. The beginning is written whatever the room is, so that something always is.
    pub fn put_from(&self, from: Place, room: usize, out: &mut BytesMut) -> Option<Place> {
        let mut writer = Writer { from, next: 0, room, out };
        match self.parts(&mut |part| writer.put(part)) {
            ControlFlow::Break(place) => Some(place),
            ControlFlow::Continue(()) => None,
        }
    }

    fn parts(&self, put: &mut impl FnMut(Part<'_>) -> ControlFlow<Place>) -> ControlFlow<Place> {
        let record = self.record;
        let topic = self.topic.map(|topic| format!("\"topic\":\"{topic}\",")).unwrap_or_default();
        // Many programs read numbers as 64-bit floats, which do not hold every offset.
        let (offset, stored) = (record.offset.get(), time(record.publish_time));
        put(Part::Literal(&format!("{{{topic}\"offset\":\"{offset}\",\"publish_time\":\"{stored}\"")))?;
        if !record.key.is_empty() {
            self.bytes([",\"key\":\"", ",\"key_base64\":\""], record.key, put)?;
        }
        self.bytes([",\"value\":\"", ",\"value_base64\":\""], record.value, put)?;
        // Of two with one key the last counts, as in a protobuf map.
        let headers: BTreeMap<_, _> = record.headers().collect();
        let mut before = ",\"headers\":{\"";
        for (name, value) in &headers {
            put(Part::Literal(before))?;
            put(Part::Text(name))?;
            put(Part::Literal("\":\""))?;
            put(Part::Text(value))?;
            put(Part::Literal("\""))?;
            before = ",\"";
        }
        if !headers.is_empty() {
            put(Part::Literal("}"))?;
        }
        if let Some((seconds, nanos)) = record.event_time() {
            put(Part::Literal(&format!(",\"event_time\":\"{}\"", event_time(seconds, nanos))))?;
        }
        put(Part::Literal("}"))
    }

    fn bytes(
        &self,
        [plain, base64]: [&str; 2],
        bytes: &[u8],
        put: &mut impl FnMut(Part<'_>) -> ControlFlow<Place>,
    ) -> ControlFlow<Place> {
        match std::str::from_utf8(bytes) {
            Ok(text) if self.values == Values::Text => {
                put(Part::Literal(plain))?;
                put(Part::Text(text))?;
            }
            _ => {
                put(Part::Literal(base64))?;
                put(Part::Base64(bytes))?;
            }
        }
        put(Part::Literal("\""))
    }
}

/// Writes parts from a place on, while there is room.
struct Writer<'a> {
    from: Place,
    /// Number of the next part.
    next: usize,
    room: usize,
    out: &'a mut BytesMut,
}

impl Writer<'_> {
    fn put(&mut self, part: Part<'_>) -> ControlFlow<Place> {
        let number = self.next;
        self.next += 1;
        if number < self.from.part {
            return ControlFlow::Continue(());
        }
        let from = if number == self.from.part { self.from.byte } else { 0 };
        let stopped = match part {
            Part::Literal(text) => {
                self.out.extend_from_slice(text.as_bytes());
                None
            }
            Part::Text(text) => self.text(text, from),
            Part::Base64(bytes) => self.base64(bytes, from),
        };
        match stopped {
            Some(byte) => ControlFlow::Break(Place { part: number, byte }),
            None => ControlFlow::Continue(()),
        }
    }

    fn left(&self) -> usize {
        self.room.saturating_sub(self.out.len())
    }

    /// Writes the content of a string from a byte on. Returns the byte at which there was no room.
    fn text(&mut self, text: &str, mut at: usize) -> Option<usize> {
        loop {
            if self.left() == 0 {
                return Some(at);
            }
            let rest = &text.as_bytes()[at..];
            let rest = &rest[..rest.len().min(self.left())];
            let mut end = at + rest.iter().position(|byte| escape(*byte).is_some()).unwrap_or(rest.len());
            // A character is not cut: its bytes would belong to two frames, which some clients decode one by one.
            while !text.is_char_boundary(end) {
                end += 1;
            }
            self.out.extend_from_slice(&text.as_bytes()[at..end]);
            at = end;
            match text.as_bytes().get(at) {
                None => return None,
                Some(byte) => {
                    if let Some(escaped) = escape(*byte) {
                        self.out.extend_from_slice(escaped.as_bytes());
                        at += 1;
                    }
                }
            }
        }
    }

    fn base64(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        while at < bytes.len() {
            // Three bytes are four digits; only the last ones are padded.
            let groups = self.left() / 4;
            if groups == 0 {
                return Some(at);
            }
            let end = bytes.len().min(at.saturating_add(groups.saturating_mul(3)));
            self.out.extend_from_slice(STANDARD.encode(&bytes[at..end]).as_bytes());
            at = end;
        }
        None
    }
}

/// Returns the escape sequence of a byte that cannot stand in a JSON string as it is.
const fn escape(byte: u8) -> Option<&'static str> {
    const CONTROLS: [&str; 0x20] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b", "\\t",
        "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013",
        "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c",
        "\\u001d", "\\u001e", "\\u001f",
    ];
    match byte {
        b'"' => Some("\\\""),
        b'\\' => Some("\\\\"),
        0..0x20 => Some(CONTROLS[byte as usize]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::print::{Line, Values};
    use super::Place;
    use crate::record::{Offset, RecordRef, UnixMicros};
    use bytes::BytesMut;
    use proptest::prelude::*;
    use prost::Message;

    /// Room that a piece has at the least, so that each makes progress.
    const ROOM_MIN: usize = 4;

    proptest! {
        #[test]
        fn a_record_in_pieces_is_the_text_that_serde_prints(
            key: Vec<u8>, value in prop_oneof![any::<String>().prop_map(String::into_bytes), any::<Vec<u8>>()],
            headers in proptest::collection::hash_map(any::<String>(), any::<String>(), 0..3),
            time in proptest::option::of((-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_i32)),
            room in ROOM_MIN..50, base64: bool,
        ) {
            let event_time = time.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
            let record = crate::proto::v1::Record { key: key.into(), value: value.into(), headers, event_time };
            let encoded = record.encode_to_vec();
            let seen = RecordRef::parse(Offset::new(7), UnixMicros(1), &encoded).unwrap();
            let values = if base64 { Values::Base64 } else { Values::Text };
            let line = Line { topic: Some("t"), record: &seen, values };
            let expected = serde_json::to_string(&line).unwrap();
            let (mut pieces, mut next) = (BytesMut::new(), Some(Place::default()));
            while let Some(from) = next {
                let mut piece = BytesMut::new();
                next = line.put_from(from, room, &mut piece);
                prop_assert!(!piece.is_empty(), "at {from:?} of {expected}");
                prop_assert!(piece.len() <= room + 96, "{} of {room}", piece.len());
                prop_assert!(std::str::from_utf8(&piece).is_ok(), "a character is cut");
                pieces.extend_from_slice(&piece);
            }
            prop_assert_eq!(&pieces[..], expected.as_bytes());
        }
    }
}
