//! The message that carries blocks to a subscriber. Blocks are not read.

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::codec::Wire;
use super::position::{ReadingPosition, position_len, put_position};
use crate::proto::v1;
use crate::record::protobuf::{field_len, put_varint, varint_len};
use crate::record::walk::{Fields, Malformed, Value, WIRE_TYPE};
use crate::record::{Epoch, Offset, Position};

/// `SubscribeResponse`, its batches unparsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeResponse {
    /// All of field 1: consecutive runs of blocks (see [`crate::record::block`]).
    pub batches: Vec<Bytes>,
    /// Field 2.
    pub next: Position,
    /// Field 3.
    pub tail: Offset,
    /// Field 4.
    pub notice: v1::Notice,
}

impl SubscribeResponse {
    /// A message without batches: a heartbeat, or a notice alone.
    #[must_use]
    pub const fn bare(next: Position, tail: Offset, notice: v1::Notice) -> Self {
        Self { batches: Vec::new(), next, tail, notice }
    }
}

/// The notice of this number; unspecified where only a newer version knows it.
pub(super) fn notice(number: u64) -> v1::Notice {
    i32::try_from(number).ok().and_then(|n| v1::Notice::try_from(n).ok()).unwrap_or_default()
}

/// Encoded length of a field of a notice, which is left out where there is none.
pub(super) const fn notice_len(notice: v1::Notice) -> usize {
    if matches!(notice, v1::Notice::Unspecified) { 0 } else { 2 }
}

pub(super) fn put_notice(tag: u8, notice: v1::Notice, out: &mut impl BufMut) {
    if notice != v1::Notice::Unspecified {
        out.put_slice(&[tag, notice as u8]);
    }
}

impl Wire for SubscribeResponse {
    fn wire_len(&self) -> usize {
        let batches: usize = self.batches.iter().map(Bytes::len).sum();
        let next = field_len(position_len(self.next));
        batches + next + 1 + varint_len(self.tail.get()) + notice_len(self.notice)
    }

    fn put(&self, out: &mut impl BufMut) {
        for run in &self.batches {
            out.put_slice(run);
        }
        put_position(0x12, self.next, out);
        put_varint(0x18, self.tail.get(), out);
        put_notice(0x20, self.notice, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::default();
        reading.merge(&bytes, 0..bytes.len())?;
        reading.finish(&bytes)
    }
}

/// A response that is being read. A message may hold it in several pieces, which are merged.
#[derive(Debug, Default)]
pub(super) struct Reading {
    batches: Vec<Bytes>,
    /// The range of adjacent batches that are not in `batches` yet.
    run: Option<Range<usize>>,
    next: Option<ReadingPosition>,
    tail: u64,
    notice: u64,
}

impl Reading {
    /// Reads the piece at `range` of `message`.
    pub(super) fn merge(&mut self, message: &Bytes, range: Range<usize>) -> Result<(), Malformed> {
        for field in Fields::within(message, range) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(_)) => match &mut self.run {
                    Some(run) if run.end == field.at.start => run.end = field.at.end,
                    run => self.batches.extend(run.replace(field.at).map(|run| message.slice(run))),
                },
                (2, Value::Len(range)) => self.next.get_or_insert_default().merge(&message[range])?,
                (3, Value::Varint(tail)) => self.tail = tail,
                (4, Value::Varint(number)) => self.notice = number,
                (1..=4, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    /// Completes the response after its last piece.
    pub(super) fn finish(mut self, message: &Bytes) -> Result<SubscribeResponse, Malformed> {
        self.batches.extend(self.run.map(|run| message.slice(run)));
        let none = Position { epoch: Epoch::new(0), offset: Offset::ZERO };
        let next = self.next.map_or(Ok(none), ReadingPosition::finish)?;
        let (tail, notice) = (Offset::new(self.tail), notice(self.notice));
        Ok(SubscribeResponse { batches: self.batches, next, tail, notice })
    }
}
