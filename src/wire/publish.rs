//! The messages that carry a batch to the server.
//! Never: looks into a record.

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::Wire;
use crate::proto::v1;
use crate::record::batch::RecordsCollector;
use crate::record::walk::{Fields, Malformed, Value};

const WIRE_TYPE: Malformed = Malformed("a field has the wrong wire type");

/// UTF-8 that is a slice of the message it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    fn slice(message: &Bytes, range: std::ops::Range<usize>) -> Result<Self, Malformed> {
        std::str::from_utf8(&message[range.clone()]).map_err(|_| Malformed("a string is not UTF-8"))?;
        Ok(Self(message.slice(range)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn field_len(&self) -> usize {
        if self.is_empty() { 0 } else { 1 + encoded_len_varint(self.0.len() as u64) + self.0.len() }
    }

    fn put_field(&self, tag: u8, out: &mut impl BufMut) {
        if !self.is_empty() {
            out.put_u8(tag);
            encode_varint(self.0.len() as u64, out);
            out.put_slice(&self.0);
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// `PublishRequest`, its records unparsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishRequest {
    /// Field 1.
    pub topic: Text,
    /// Field 2.
    pub request_id: Text,
    /// All of field 3, tags included, in order.
    pub records: Bytes,
    /// Field 4.
    pub expected_offset: Option<u64>,
    /// Field 5.
    pub traceparent: Text,
}

impl Wire for PublishRequest {
    fn wire_len(&self) -> usize {
        let expected = self.expected_offset.map_or(0, |offset| 1 + encoded_len_varint(offset));
        self.topic.field_len()
            + self.request_id.field_len()
            + self.records.len()
            + expected
            + self.traceparent.field_len()
    }

    fn put(&self, out: &mut impl BufMut) {
        self.topic.put_field(0x0a, out);
        self.request_id.put_field(0x12, out);
        out.put_slice(&self.records);
        if let Some(offset) = self.expected_offset {
            out.put_u8(0x20);
            encode_varint(offset, out);
        }
        self.traceparent.put_field(0x2a, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut request = Self::default();
        let mut records = RecordsCollector::default();
        for field in Fields::new(&bytes) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(text)) => request.topic = Text::slice(&bytes, text)?,
                (2, Value::Len(text)) => request.request_id = Text::slice(&bytes, text)?,
                (3, Value::Len(_)) => records.push(&bytes, field.at),
                (4, Value::Varint(offset)) => request.expected_offset = Some(offset),
                (5, Value::Len(text)) => request.traceparent = Text::slice(&bytes, text)?,
                (1..=5, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        request.records = records.finish(&bytes);
        Ok(request)
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
        let mut request = Self::default();
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => request.publish = Some(PublishRequest::parse(bytes.slice(range))?),
                (1, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(request)
    }
}

/// `ExchangeRequest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExchangeRequest {
    /// Field 1.
    Open(v1::Open),
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
            Self::Open(open) => 1 + nested_len(open),
            Self::Publish { number, publish } => {
                let len = numbered_len(*number, publish);
                1 + encoded_len_varint(len as u64) + len
            }
            Self::Empty => 0,
        }
    }

    fn put(&self, out: &mut impl BufMut) {
        match self {
            Self::Open(open) => put_nested(0x0a, open, out),
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
        let mut request = Self::Empty;
        for field in Fields::new(&bytes) {
            match field.map(|f| (f.number, f.value))? {
                (1, Value::Len(range)) => {
                    let open = v1::Open::decode(bytes.slice(range)).map_err(|_| Malformed("open"))?;
                    request = Self::Open(open);
                }
                (2, Value::Len(range)) => request = parse_numbered(&bytes.slice(range))?,
                (1 | 2, _) => return Err(WIRE_TYPE),
                _ => {}
            }
        }
        Ok(request)
    }
}

fn parse_numbered(bytes: &Bytes) -> Result<ExchangeRequest, Malformed> {
    let (mut number, mut publish) = (0, PublishRequest::default());
    for field in Fields::new(bytes) {
        match field.map(|f| (f.number, f.value))? {
            (1, Value::Varint(value)) => number = value,
            (2, Value::Len(range)) => publish = PublishRequest::parse(bytes.slice(range))?,
            (1 | 2, _) => return Err(WIRE_TYPE),
            _ => {}
        }
    }
    Ok(ExchangeRequest::Publish { number, publish })
}
