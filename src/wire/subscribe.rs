//! The message that carries blocks to a subscriber.
//! Never: looks into a block.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::{ReadingPosition, Wire, position_len, put_position};
use crate::proto::v1;
use crate::record::walk::{Fields, Malformed, Value};
use crate::record::{Epoch, Offset, Position};

/// `SubscribeResponse`, its batches unparsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeResponse {
    /// All of field 1: runs of blocks (see [`crate::record::block`]), to be sent end to end.
    pub batches: Vec<Bytes>,
    /// Field 2.
    pub next: Position,
    /// Field 3.
    pub tail: Offset,
    /// Field 4.
    pub notice: v1::Notice,
}

impl SubscribeResponse {
    /// A message without batches: a heartbeat, or a bare notice.
    #[must_use]
    pub const fn bare(next: Position, tail: Offset, notice: v1::Notice) -> Self {
        Self { batches: Vec::new(), next, tail, notice }
    }
}

/// The notice of this number; one from a newer server is none.
pub(super) fn notice(number: u64) -> v1::Notice {
    i32::try_from(number).ok().and_then(|n| v1::Notice::try_from(n).ok()).unwrap_or_default()
}

impl Wire for SubscribeResponse {
    fn wire_len(&self) -> usize {
        let batches: usize = self.batches.iter().map(Bytes::len).sum();
        let notice = if self.notice == v1::Notice::Unspecified { 0 } else { 2 };
        batches + 2 + position_len(self.next) + 1 + encoded_len_varint(self.tail.get()) + notice
    }

    fn put(&self, out: &mut impl BufMut) {
        for run in &self.batches {
            out.put_slice(run);
        }
        out.put_u8(0x12);
        out.put_u8(position_len(self.next) as u8);
        put_position(self.next, out);
        out.put_u8(0x18);
        encode_varint(self.tail.get(), out);
        if self.notice != v1::Notice::Unspecified {
            out.put_slice(&[0x20, self.notice as u8]);
        }
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::default();
        reading.merge(&bytes, 0..bytes.len())?;
        reading.finish(&bytes)
    }
}

/// A response that is being read, perhaps from several pieces, which count as one.
#[derive(Debug, Default)]
pub(super) struct Reading {
    batches: Vec<Bytes>,
    /// Batches that stand together, and are not among those yet.
    run: Option<Range<usize>>,
    next: Option<ReadingPosition>,
    tail: u64,
    notice: u64,
}

impl Reading {
    /// Reads the piece of `message` that stands in `range`.
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
                (1..=4, _) => return Err(Malformed("a field has the wrong wire type")),
                _ => {}
            }
        }
        Ok(())
    }

    /// The response, after all its pieces.
    pub(super) fn finish(mut self, message: &Bytes) -> Result<SubscribeResponse, Malformed> {
        self.batches.extend(self.run.map(|run| message.slice(run)));
        let none = Position { epoch: Epoch::new(0), offset: Offset::ZERO };
        let next = self.next.map_or(Ok(none), ReadingPosition::finish)?;
        let (tail, notice) = (Offset::new(self.tail), notice(self.notice));
        Ok(SubscribeResponse { batches: self.batches, next, tail, notice })
    }
}

impl SubscribeResponse {
    /// The message as bytes, for tests and benchmarks.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.wire_len());
        self.put(&mut out);
        out.freeze()
    }
}
