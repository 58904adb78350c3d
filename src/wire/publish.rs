//! The messages that carry a batch to the server.
//! Never: looks into a record.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::Wire;
use crate::proto::v1;
use crate::record::batch::RecordsCollector;
use crate::record::walk::{Fields, Malformed, Value};

const WIRE_TYPE: Malformed = Malformed("a field has the wrong wire type");

fn text(bytes: &[u8]) -> Result<Box<str>, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
    Ok(text.into())
}

fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + encoded_len_varint(text.len() as u64) + text.len() }
}

fn put_text(tag: u8, text: &str, out: &mut impl BufMut) {
    if !text.is_empty() {
        out.put_u8(tag);
        encode_varint(text.len() as u64, out);
        out.put_slice(text.as_bytes());
    }
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
        let expected = self.expected_offset.map_or(0, |offset| 1 + encoded_len_varint(offset));
        text_len(&self.topic)
            + text_len(&self.request_id)
            + self.records.len()
            + expected
            + text_len(&self.traceparent)
    }

    fn put(&self, out: &mut impl BufMut) {
        put_text(0x0a, &self.topic, out);
        put_text(0x12, &self.request_id, out);
        out.put_slice(&self.records);
        if let Some(offset) = self.expected_offset {
            out.put_u8(0x20);
            encode_varint(offset, out);
        }
        put_text(0x2a, &self.traceparent, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let all = 0..bytes.len();
        parse_publish(bytes, all)
    }
}

/// The request that stands in `range` of `message`, which its records go on to hold.
fn parse_publish(message: Bytes, range: Range<usize>) -> Result<PublishRequest, Malformed> {
    let mut reading = Reading::default();
    reading.merge(&message, range)?;
    Ok(reading.finish(message))
}

/// A request that is being read. A message within another may come in several pieces, which count as one:
/// of its single fields the last counts, the repeated ones add up.
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
        self.publish.as_ref().map_or(0, |publish| 1 + nested_len(publish))
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

fn nested_len(message: &impl Wire) -> usize {
    let len = message.wire_len();
    encoded_len_varint(len as u64) + len
}

fn put_nested(tag: u8, message: &impl Wire, out: &mut impl BufMut) {
    out.put_u8(tag);
    encode_varint(message.wire_len() as u64, out);
    message.put(out);
}

fn numbered_len(number: u64, publish: &PublishRequest) -> usize {
    1 + encoded_len_varint(number) + 1 + nested_len(publish)
}

impl Wire for ExchangeRequest {
    fn wire_len(&self) -> usize {
        match self {
            Self::Open(open) => 1 + nested_len(&**open),
            Self::Publish { number, publish } => {
                let len = numbered_len(*number, publish);
                1 + encoded_len_varint(len as u64) + len
            }
            Self::Empty => 0,
        }
    }

    fn put(&self, out: &mut impl BufMut) {
        match self {
            Self::Open(open) => put_nested(0x0a, &**open, out),
            Self::Publish { number, publish } => {
                out.put_u8(0x12);
                encode_varint(numbered_len(*number, publish) as u64, out);
                out.put_u8(0x08);
                encode_varint(*number, out);
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

/// What an [`ExchangeRequest`] is, as far as it was read. Of two kinds the last counts, and pieces of one
/// kind count as one, as with every parser.
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
