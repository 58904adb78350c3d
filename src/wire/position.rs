//! Positions, which receipts and deliveries hold.

use bytes::BufMut;

use crate::record::protobuf::{put_varint, varint_len};
use crate::record::walk::{Fields, Malformed, Value, WIRE_TYPE};
use crate::record::{Epoch, Offset, Position};

/// Encoded length of a `Position` without its tag and length: `0A 10 <16 hex> 10 offset`.
pub(super) fn position_len(position: Position) -> usize {
    2 + 16 + 1 + varint_len(position.offset.get())
}

/// Writes a `Position` field, whose length always takes one byte.
pub(super) fn put_position(tag: u8, position: Position, out: &mut impl BufMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text =
        [tag, position_len(position) as u8, 0x0a, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (i, digit) in text[4..].iter_mut().enumerate() {
        *digit = HEX[(position.epoch.get() >> (60 - 4 * i)) as usize & 15];
    }
    out.put_slice(&text);
    put_varint(0x10, position.offset.get(), out);
}

/// A position that is being read. A message may hold it in several pieces, which are merged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadingPosition {
    epoch: Option<Epoch>,
    offset: u64,
}

impl ReadingPosition {
    pub(super) fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(text)) => {
                    let text =
                        std::str::from_utf8(&bytes[text]).map_err(|_| Malformed("epoch is not UTF-8"))?;
                    let epoch = Epoch::parse(text).ok_or(Malformed("epoch is not 16 hexadecimal digits"))?;
                    self.epoch = Some(epoch);
                }
                (2, Value::Varint(value)) => self.offset = value,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Position, Malformed> {
        let epoch = self.epoch.ok_or(Malformed("position without an epoch"))?;
        Ok(Position { epoch, offset: Offset::new(self.offset) })
    }
}
