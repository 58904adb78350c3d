//! The hot messages by hand: a batch passes through as bytes, from the socket to the log and
//! from the log to the socket. Field numbers are those of `proto/streamway/v1/stream.proto`.
//! Never: decides anything; a test holds these messages against the generated ones.

mod codec;
mod publish;
mod receipt;
mod subscribe;

pub use codec::{Codec, MALFORMED, Wire};
pub use publish::{ExchangeRequest, IngestRequest, PublishRequest};
pub use receipt::{ExchangeResponse, NumberedReceipt, PublishResponse};
pub use subscribe::SubscribeResponse;

/// The service stubs over these messages.
#[allow(missing_docs, clippy::all, unused_qualifications, reason = "generated code")]
pub mod stubs {
    /// Package `streamway.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/stubs/streamway.v1.rs"));
    }
    /// Package `example`.
    pub mod example {
        include!(concat!(env!("OUT_DIR"), "/stubs/example.rs"));
    }
}

use crate::record::walk::{Fields, Malformed, Value};
use crate::record::{Epoch, Offset, Position};
use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

/// The bytes of a `Position` without its tag: `0A 10 <16 hex> 10 offset`.
fn position_len(position: Position) -> usize {
    2 + 16 + 1 + encoded_len_varint(position.offset.get())
}

fn put_position(position: Position, out: &mut impl BufMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; 18];
    (text[0], text[1]) = (0x0a, 16);
    for (i, digit) in text[2..].iter_mut().enumerate() {
        *digit = HEX[(position.epoch.get() >> (60 - 4 * i)) as usize & 15];
    }
    out.put_slice(&text);
    out.put_u8(0x10);
    encode_varint(position.offset.get(), out);
}

/// A position that is being read, perhaps from several pieces, which count as one.
#[derive(Clone, Copy, Debug, Default)]
struct ReadingPosition {
    epoch: Option<Epoch>,
    offset: u64,
}

impl ReadingPosition {
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(text)) => {
                    let text =
                        std::str::from_utf8(&bytes[text]).map_err(|_| Malformed("epoch is not UTF-8"))?;
                    let epoch = Epoch::parse(text).ok_or(Malformed("epoch is not 16 hexadecimal digits"))?;
                    self.epoch = Some(epoch);
                }
                (2, Value::Varint(value)) => self.offset = value,
                (1 | 2, _) => return Err(Malformed("a field has the wrong wire type")),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Position, Malformed> {
        let epoch = self.epoch.ok_or(Malformed("position without an epoch"))?;
        Ok(Position { epoch, offset: Offset::new(self.offset) })
    }
}

#[cfg(test)]
mod tests;
