//! The messages that carry receipts to a publisher. No receipt is allocated.

use bytes::{BufMut, Bytes};

use super::codec::Wire;
use super::position::{ReadingPosition, position_len, put_position};
use super::subscribe::{Reading as Delivery, SubscribeResponse, notice, notice_len, put_notice};
use crate::proto::v1;
use crate::record::protobuf::{
    field_len, put_short_len, put_time, put_varint, short_field_len, time_len, varint_len,
};
use crate::record::walk::{Fields, Malformed, Timestamp, Value, WIRE_TYPE};
use crate::record::{Offset, Receipt};

impl Wire for Receipt {
    fn wire_len(&self) -> usize {
        let (next, time) = (short_field_len(position_len(self.next)), short_field_len(time_len(self.time)));
        1 + varint_len(self.first.get()) + next + time + if self.duplicate { 2 } else { 0 }
    }

    fn put(&self, out: &mut impl BufMut) {
        put_varint(0x08, self.first.get(), out);
        put_position(0x12, self.next, out);
        put_time(0x1a, self.time, out);
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

/// A receipt that is being read. A message may hold it in several pieces, which are merged.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    first: u64,
    next: Option<ReadingPosition>,
    time: Timestamp,
    duplicate: bool,
}

impl Reading {
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Varint(offset)) => self.first = offset,
                (2, Value::Len(range)) => self.next.get_or_insert_default().merge(&bytes[range])?,
                (3, Value::Len(range)) => self.time.merge(&bytes[range])?,
                (4, Value::Varint(flag)) => self.duplicate = flag != 0,
                (1..=4, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Receipt, Malformed> {
        Ok(Receipt {
            first: Offset::new(self.first),
            next: self.next.map_or(Ok(Receipt::default().next), ReadingPosition::finish)?,
            time: self.time.micros(),
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
        short_field_len(self.receipt.wire_len())
    }

    fn put(&self, out: &mut impl BufMut) {
        put_short_len(0x0a, self.receipt.wire_len(), out);
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
    /// At most 90 bytes.
    fn wire_len(&self) -> usize {
        1 + varint_len(self.number) + short_field_len(self.receipt.wire_len())
    }

    fn put(&self, out: &mut impl BufMut) {
        put_varint(0x08, self.number, out);
        put_short_len(0x12, self.receipt.wire_len(), out);
        self.receipt.put(out);
    }

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut number, mut receipt) = (0, Reading::default());
        for field in Fields::new(bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Varint(value)) => number = value,
                (2, Value::Len(range)) => receipt.merge(&bytes[range])?,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(Self { number, receipt: receipt.finish()? })
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
        let receipts: usize = self.receipts.iter().map(|receipt| short_field_len(receipt.wire_len())).sum();
        let delivery = self.delivery.as_ref().map_or(0, |delivery| field_len(delivery.wire_len()));
        receipts + delivery + notice_len(self.notice)
    }

    fn put(&self, out: &mut impl BufMut) {
        for numbered in &self.receipts {
            put_short_len(0x0a, numbered.wire_len(), out);
            numbered.put(out);
        }
        if let Some(delivery) = &self.delivery {
            put_varint(0x12, delivery.wire_len() as u64, out);
            delivery.put(out);
        }
        put_notice(0x18, self.notice, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let (mut response, mut delivery) = (Self::default(), None::<Delivery>);
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => response.receipts.push(NumberedReceipt::parse(&bytes[range])?),
                (2, Value::Len(range)) => delivery.get_or_insert_default().merge(&bytes, range)?,
                (3, Value::Varint(number)) => response.notice = notice(number),
                (1..=3, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        response.delivery = delivery.map(|delivery| delivery.finish(&bytes)).transpose()?;
        Ok(response)
    }
}
