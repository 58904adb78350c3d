//! The messages that carry receipts to a publisher.
//! Never: allocates a receipt.

use bytes::{BufMut, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::subscribe::Reading as Delivery;
use super::{ReadingPosition, SubscribeResponse, Wire, position_len, put_position};
use crate::proto::v1;
use crate::record::walk::{Fields, Malformed, Value};
use crate::record::{Offset, Receipt, UnixMicros};

const WIRE_TYPE: Malformed = Malformed("a field has the wrong wire type");

fn time_len(time: UnixMicros) -> usize {
    let (seconds, nanos) = time.parts();
    2 + encoded_len_varint(seconds) + encoded_len_varint(u64::from(nanos))
}

impl Wire for Receipt {
    fn wire_len(&self) -> usize {
        // Every nested length fits one byte.
        1 + encoded_len_varint(self.first.get())
            + 2
            + position_len(self.next)
            + 2
            + time_len(self.time)
            + if self.duplicate { 2 } else { 0 }
    }

    fn put(&self, out: &mut impl BufMut) {
        out.put_u8(0x08);
        encode_varint(self.first.get(), out);
        out.put_u8(0x12);
        out.put_u8(position_len(self.next) as u8);
        put_position(self.next, out);
        let (seconds, nanos) = self.time.parts();
        out.put_u8(0x1a);
        out.put_u8(time_len(self.time) as u8);
        out.put_u8(0x08);
        encode_varint(seconds, out);
        out.put_u8(0x10);
        encode_varint(u64::from(nanos), out);
        if self.duplicate {
            out.put_slice(&[0x20, 1]);
        }
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::default();
        reading.merge(&bytes)?;
        reading.finish()
    }
}

/// A receipt that is being read, perhaps from several pieces, which count as one.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    first: u64,
    next: Option<ReadingPosition>,
    seconds: u64,
    nanos: u64,
    duplicate: bool,
}

impl Reading {
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Varint(offset)) => self.first = offset,
                (2, Value::Len(range)) => self.next.get_or_insert_default().merge(&bytes[range])?,
                (3, Value::Len(range)) => self.merge_time(&bytes[range])?,
                (4, Value::Varint(flag)) => self.duplicate = flag != 0,
                (1..=4, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    fn merge_time(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Varint(seconds)) => self.seconds = seconds,
                (2, Value::Varint(nanos)) => self.nanos = nanos,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Receipt, Malformed> {
        let none = Receipt::default();
        Ok(Receipt {
            first: Offset::new(self.first),
            next: self.next.map_or(Ok(none.next), ReadingPosition::finish)?,
            time: UnixMicros(self.seconds.saturating_mul(1_000_000).saturating_add(self.nanos / 1000)),
            duplicate: self.duplicate,
        })
    }
}

/// `PublishResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishResponse {
    /// Field 1.
    pub receipt: Receipt,
}

impl Wire for PublishResponse {
    fn wire_len(&self) -> usize {
        2 + self.receipt.wire_len()
    }

    fn put(&self, out: &mut impl BufMut) {
        out.put_u8(0x0a);
        out.put_u8(self.receipt.wire_len() as u8);
        self.receipt.put(out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut receipt = Reading::default();
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => receipt.merge(&bytes[range])?,
                (1, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(Self { receipt: receipt.finish()? })
    }
}

/// `NumberedReceipt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumberedReceipt {
    /// Field 1.
    pub number: u64,
    /// Field 2.
    pub receipt: Receipt,
}

impl NumberedReceipt {
    /// At most 90 bytes, so its length takes one byte.
    fn wire_len(&self) -> usize {
        1 + encoded_len_varint(self.number) + 2 + self.receipt.wire_len()
    }
}

/// `ExchangeResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeResponse {
    /// Field 1.
    pub receipts: Vec<NumberedReceipt>,
    /// Field 2.
    pub delivery: Option<SubscribeResponse>,
    /// Field 3.
    pub notice: v1::Notice,
}

impl Wire for ExchangeResponse {
    fn wire_len(&self) -> usize {
        let receipts: usize = self.receipts.iter().map(|receipt| 2 + receipt.wire_len()).sum();
        let delivery = self.delivery.as_ref().map_or(0, |delivery| {
            let len = delivery.wire_len();
            1 + encoded_len_varint(len as u64) + len
        });
        let notice = if self.notice == v1::Notice::Unspecified { 0 } else { 2 };
        receipts + delivery + notice
    }

    fn put(&self, out: &mut impl BufMut) {
        for numbered in &self.receipts {
            out.put_u8(0x0a);
            out.put_u8(numbered.wire_len() as u8);
            out.put_u8(0x08);
            encode_varint(numbered.number, out);
            out.put_u8(0x12);
            out.put_u8(numbered.receipt.wire_len() as u8);
            numbered.receipt.put(out);
        }
        if let Some(delivery) = &self.delivery {
            out.put_u8(0x12);
            encode_varint(delivery.wire_len() as u64, out);
            delivery.put(out);
        }
        if self.notice != v1::Notice::Unspecified {
            out.put_slice(&[0x18, self.notice as u8]);
        }
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let (mut response, mut delivery) = (Self::default(), None::<Delivery>);
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => response.receipts.push(parse_numbered(&bytes[range])?),
                (2, Value::Len(range)) => delivery.get_or_insert_default().merge(&bytes, range)?,
                (3, Value::Varint(notice)) => response.notice = super::subscribe::notice(notice),
                (1..=3, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        response.delivery = delivery.map(|delivery| delivery.finish(&bytes)).transpose()?;
        Ok(response)
    }
}

fn parse_numbered(bytes: &[u8]) -> Result<NumberedReceipt, Malformed> {
    let (mut number, mut receipt) = (0, Reading::default());
    for field in Fields::new(bytes) {
        match field.map(|f| (f.number, f.value))? {
            (1, Value::Varint(value)) => number = value,
            (2, Value::Len(range)) => receipt.merge(&bytes[range])?,
            (1 | 2, _) => return Err(WIRE_TYPE),
            _ => {}
        }
    }
    Ok(NumberedReceipt { number, receipt: receipt.finish()? })
}
