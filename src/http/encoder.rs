//! Encoding of records and notices for a reader, as lines of NDJSON or as server-sent events.

use bytes::BytesMut;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::json::{Line, Place, Values};
use crate::record::block::Block;
use crate::record::walk::Malformed;
use crate::record::{Epoch, Offset, Position, RecordRef};
use crate::topic::Notice;

/// Milliseconds after which a browser connects again, at the least; up to as much again is added, so that not all do at
/// once.
const RETRY_MS: u64 = 1000;

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A JSON object a line.
    Lines,
    /// Server-sent events.
    Events,
}

/// Place at which writing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Offset of the record.
    pub offset: Offset,
    /// Place in its text.
    pub within: Place,
}

impl Cursor {
    /// The place before a record.
    #[must_use]
    pub fn before(offset: Offset) -> Self {
        Self { offset, within: Place::default() }
    }

    /// Returns true if a part of the record is written.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.within != Place::default()
    }
}

/// Encoder of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoder {
    /// Form of the answer.
    pub form: Form,
    /// Form of keys and values.
    pub values: Values,
}

impl Encoder {
    /// Writes the beginning of an answer that continues at a position.
    pub fn begin(self, position: Position, out: &mut BytesMut) {
        if self.form == Form::Events {
            retry(jittered(), out);
            // Without an event, this is the id to come back with before the first record.
            out.extend_from_slice(format!("id: {position}\n\n").as_bytes());
        }
    }

    /// Writes a record from a place in its text on, until `out` has about `room` bytes. Returns the place where it stopped;
    /// none at the record's end.
    pub fn record(
        self,
        epoch: Epoch,
        record: &RecordRef<'_>,
        (from, room): (Place, usize),
        out: &mut BytesMut,
    ) -> Option<Place> {
        if self.form == Form::Events && from == Place::default() {
            let next = Position { epoch, offset: record.offset.plus(1) };
            out.extend_from_slice(format!("id: {next}\ndata: ").as_bytes());
        }
        let stopped = Line { topic: None, record, values: self.values }.put_from(from, room, out);
        if stopped.is_none() {
            out.extend_from_slice(self.end_of_block());
        }
        stopped
    }

    /// Writes the records of a stored batch from a place on, until `out` has about `room` bytes. Returns the place at which
    /// to go on.
    ///
    /// # Errors
    /// The batch is damaged.
    pub fn block(
        self,
        epoch: Epoch,
        (block, from): (&Block<'_>, Cursor),
        room: usize,
        out: &mut BytesMut,
    ) -> Result<Cursor, Malformed> {
        let (time, mut at) = (block.time(), Cursor::before(block.first));
        for encoded in block.records() {
            if at.offset >= from.offset {
                if at.offset == from.offset {
                    at = from;
                }
                if out.len() >= room {
                    return Ok(at);
                }
                let record = RecordRef::parse(at.offset, time, encoded)?;
                if let Some(within) = self.record(epoch, &record, (at.within, room), out) {
                    return Ok(Cursor { within, ..at });
                }
            }
            at = Cursor::before(at.offset.plus(1));
        }
        Ok(at)
    }

    /// Writes a notice.
    pub fn notice(self, notice: Notice, next: Position, tail: Offset, out: &mut BytesMut) {
        let name = match notice {
            Notice::CaughtUp => "CAUGHT_UP",
            Notice::Gap => "GAP",
            Notice::Draining => "DRAINING",
            Notice::MaxAge => "MAX_AGE",
        };
        let said = json!({ "notice": name, "next": next.to_string(), "tail": tail.to_string() });
        self.named("notice", Some(next), said, out);
    }

    /// Writes a sign of life.
    pub fn heartbeat(self, next: Position, tail: Offset, out: &mut BytesMut) {
        let said = json!({ "next": next.to_string(), "tail": tail.to_string() });
        self.named("heartbeat", Some(next), said, out);
    }

    /// Writes that the limit of the read, or the tail, is reached.
    pub fn end(self, next: Position, out: &mut BytesMut) {
        self.named("end", Some(next), json!({ "next": next.to_string() }), out);
    }

    /// Writes why the answer ends.
    pub fn problem(self, problem: &Problem, next: Option<Position>, out: &mut BytesMut) {
        if self.form == Form::Events
            && let Some(delay) = problem.retry()
        {
            retry(u64::try_from(delay.as_millis()).unwrap_or(RETRY_MS), out);
        }
        self.named("problem", next, problem.to_json(), out);
    }

    fn named(self, name: &str, next: Option<Position>, said: Value, out: &mut BytesMut) {
        match self.form {
            Form::Lines => out.extend_from_slice(json!({ name: said }).to_string().as_bytes()),
            Form::Events => {
                let id = next.map(|next| format!("id: {next}\n")).unwrap_or_default();
                out.extend_from_slice(format!("{id}event: {name}\ndata: {said}").as_bytes());
            }
        }
        out.extend_from_slice(self.end_of_block());
    }

    const fn end_of_block(self) -> &'static [u8] {
        match self.form {
            Form::Lines => b"\n",
            Form::Events => b"\n\n",
        }
    }
}

fn jittered() -> u64 {
    fastrand::u64(RETRY_MS..=2 * RETRY_MS)
}

fn retry(delay_ms: u64, out: &mut BytesMut) {
    out.extend_from_slice(format!("retry: {delay_ms}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Encoder, Form};
    use crate::json::{Place, Values};
    use crate::record::{Epoch, Offset, Position, RecordRef, UnixMicros};
    use crate::topic::Notice;
    use bytes::BytesMut;

    fn written(form: Form, write: impl Fn(Encoder, &mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(Encoder { form, values: Values::Text }, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn whole(encoder: Encoder, record: &RecordRef<'_>, out: &mut BytesMut) {
        let rest = encoder.record(Epoch::new(1), record, (Place::default(), usize::MAX), out);
        assert_eq!(rest, None);
    }

    #[test]
    fn an_event_is_one_block_whatever_its_record_holds() {
        let encoded = b"\x12\x0ca\n\ndata: b\r\0";
        let record = RecordRef::parse(Offset::new(7), UnixMicros(1_000_001), encoded).unwrap();
        let event = written(Form::Events, |encoder, out| whole(encoder, &record, out));
        assert!(event.starts_with("id: 0000000000000001_00000000000000000008\ndata: {\"offset\":\"7\""));
        assert!(event.contains(r#""value":"a\n\ndata: b\r\u0000""#), "{event}");
        assert_eq!(event.lines().count(), 3, "{event}");
        let line = written(Form::Lines, |encoder, out| whole(encoder, &record, out));
        assert_eq!(line.lines().count(), 1, "{line}");
    }

    #[test]
    fn every_named_event_has_an_id() {
        let next = Position { epoch: Epoch::new(1), offset: Offset::new(8) };
        let event =
            written(Form::Events, |encoder, out| encoder.notice(Notice::Draining, next, Offset::new(9), out));
        let id = "0000000000000001_00000000000000000008";
        assert!(
            event.starts_with(&format!("id: {id}\nevent: notice\ndata: {{\"next\":\"{id}\",")),
            "{event}"
        );
        let line = written(Form::Lines, |encoder, out| encoder.end(next, out));
        assert_eq!(line, format!("{{\"end\":{{\"next\":\"{id}\"}}}}\n"));
    }
}
