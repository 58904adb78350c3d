//! The messages that carry a batch to the server. Records are not read.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use prost::Message;

use super::codec::Wire;
use crate::proto::v1;
use crate::record::batch::RecordsCollector;
use crate::record::protobuf::{bytes_len, field_len, put_bytes, put_varint, varint_len};
use crate::record::walk::{Fields, Malformed, NOT_UTF8, Value, WIRE_TYPE};

fn text(bytes: &[u8]) -> Result<Box<str>, Malformed> {
    Ok(std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)?.into())
}

/// `PublishRequest`, its records unparsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishRequest {
    /// Field 1.
    pub topic: Box<str>,
    /// Field 2.
    pub request_id: Box<str>,
    /// All of field 3, tags included, in order.
    pub records: Bytes,
    /// Field 4.
    pub expected_offset: Option<u64>,
    /// Field 5.
    pub traceparent: Box<str>,
}

impl Wire for PublishRequest {
    fn wire_len(&self) -> usize {
        let texts = [&self.topic, &self.request_id, &self.traceparent].map(|text| bytes_len(text.as_bytes()));
        let expected = self.expected_offset.map_or(0, |offset| 1 + varint_len(offset));
        texts.iter().sum::<usize>() + self.records.len() + expected
    }

    fn put(&self, out: &mut impl BufMut) {
        put_bytes(0x0a, self.topic.as_bytes(), out);
        put_bytes(0x12, self.request_id.as_bytes(), out);
        out.put_slice(&self.records);
        if let Some(offset) = self.expected_offset {
            put_varint(0x20, offset, out);
        }
        put_bytes(0x2a, self.traceparent.as_bytes(), out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reading = Reading::default();
        reading.merge(&bytes, 0..bytes.len())?;
        Ok(reading.finish(bytes))
    }
}

/// A request that is being read. A message may hold it in several pieces, which are merged: the last value of a
/// singular field counts, and the values of a repeated field are concatenated.
#[derive(Debug, Default)]
struct Reading {
    request: PublishRequest,
    records: RecordsCollector,
}

impl Reading {
    fn merge(&mut self, message: &Bytes, range: Range<usize>) -> Result<(), Malformed> {
        let request = &mut self.request;
        for field in Fields::within(message, range) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(at)) => request.topic = text(&message[at])?,
                (2, Value::Len(at)) => request.request_id = text(&message[at])?,
                (3, Value::Len(_)) => self.records.push(message, field.at),
                (4, Value::Varint(offset)) => request.expected_offset = Some(offset),
                (5, Value::Len(at)) => request.traceparent = text(&message[at])?,
                (1..=5, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self, message: Bytes) -> PublishRequest {
        PublishRequest { records: self.records.finish(message), ..self.request }
    }
}

/// `IngestRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestRequest {
    /// Field 1.
    pub publish: Option<PublishRequest>,
}

impl Wire for IngestRequest {
    fn wire_len(&self) -> usize {
        self.publish.as_ref().map_or(0, |publish| field_len(publish.wire_len()))
    }

    fn put(&self, out: &mut impl BufMut) {
        if let Some(publish) = &self.publish {
            put_nested(0x0a, publish, out);
        }
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut publish: Option<Reading> = None;
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => publish.get_or_insert_default().merge(&bytes, range)?,
                (1, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(Self { publish: publish.map(|publish| publish.finish(bytes)) })
    }
}

/// `ExchangeRequest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExchangeRequest {
    /// Field 1.
    Open(Box<v1::Open>),
    /// Field 2.
    Publish {
        /// The client's number.
        number: u64,
        /// The batch.
        publish: PublishRequest,
    },
    /// Neither.
    #[default]
    Empty,
}

fn put_nested(tag: u8, message: &impl Wire, out: &mut impl BufMut) {
    put_varint(tag, message.wire_len() as u64, out);
    message.put(out);
}

fn numbered_len(number: u64, publish: &PublishRequest) -> usize {
    1 + varint_len(number) + field_len(publish.wire_len())
}

impl Wire for ExchangeRequest {
    fn wire_len(&self) -> usize {
        match self {
            Self::Open(open) => field_len(open.wire_len()),
            Self::Publish { number, publish } => field_len(numbered_len(*number, publish)),
            Self::Empty => 0,
        }
    }

    fn put(&self, out: &mut impl BufMut) {
        match self {
            Self::Open(open) => put_nested(0x0a, &**open, out),
            Self::Publish { number, publish } => {
                put_varint(0x12, numbered_len(*number, publish) as u64, out);
                put_varint(0x08, *number, out);
                put_nested(0x12, publish, out);
            }
            Self::Empty => {}
        }
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut kind = Kind::Empty;
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => kind.open(&bytes[range])?,
                (2, Value::Len(range)) => kind.publish(&bytes, range)?,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(match kind {
            Kind::Open(open) => Self::Open(open),
            Kind::Publish(Numbered { number, publish }) => {
                let publish = publish.map(|publish| publish.finish(bytes)).unwrap_or_default();
                Self::Publish { number, publish }
            }
            Kind::Empty => Self::Empty,
        })
    }
}

/// The kind of an [`ExchangeRequest`] that is being read. The last of two kinds counts, and pieces of one kind are
/// merged, as in every protobuf parser.
enum Kind {
    Open(Box<v1::Open>),
    Publish(Numbered),
    Empty,
}

/// A `NumberedPublish` that is being read.
#[derive(Default)]
struct Numbered {
    number: u64,
    publish: Option<Reading>,
}

impl Kind {
    fn open(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let mut open = match std::mem::replace(self, Self::Empty) {
            Self::Open(open) => open,
            _ => Box::default(),
        };
        open.merge(piece).map_err(|_| Malformed("open"))?;
        *self = Self::Open(open);
        Ok(())
    }

    fn publish(&mut self, message: &Bytes, piece: Range<usize>) -> Result<(), Malformed> {
        if !matches!(self, Self::Publish(_)) {
            *self = Self::Publish(Numbered::default());
        }
        let Self::Publish(numbered) = self else { return Ok(()) };
        for field in Fields::within(message, piece) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Varint(value)) => numbered.number = value,
                (2, Value::Len(range)) => numbered.publish.get_or_insert_default().merge(message, range)?,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(())
    }
}
