//! The messages that carry leased batches to members. Batches are not read; all else is the generated message.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::codec::Wire;
use crate::proto::v1;
use crate::record::protobuf::{field_len, put_varint};
use crate::record::walk::{Fields, Malformed, Value, WIRE_TYPE};

/// `Lease`, its batches unparsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lease {
    /// All of field 1: consecutive runs of blocks (see [`crate::record::block`]).
    pub batches: Vec<Bytes>,
    /// All other fields.
    pub rest: v1::Lease,
}

impl Wire for Lease {
    fn wire_len(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum::<usize>() + self.rest.encoded_len()
    }

    fn put(&self, out: &mut impl BufMut) {
        for run in &self.batches {
            out.put_slice(run);
        }
        self.rest.encode_raw(out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let (mut batches, mut rest) = (Vec::new(), BytesMut::new());
        let mut run: Option<std::ops::Range<usize>> = None;
        for field in Fields::new(&bytes) {
            let field = field?;
            match (field.number, &field.value) {
                (1, Value::Len(_)) => match &mut run {
                    Some(run) if run.end == field.at.start => run.end = field.at.end,
                    run => batches.extend(run.replace(field.at).map(|run| bytes.slice(run))),
                },
                (1, _) => return Err(WIRE_TYPE),
                _ => rest.put_slice(&bytes[field.at]),
            }
        }
        batches.extend(run.map(|run| bytes.slice(run)));
        Ok(Self { batches, rest: v1::Lease::parse(rest.freeze())? })
    }
}

/// Encoded length of the field of leases: 1 in an answer to Lease, 2 in one to Consume.
fn leases_len(leases: &[Lease]) -> usize {
    leases.iter().map(|lease| field_len(lease.wire_len())).sum()
}

fn put_leases(tag: u8, leases: &[Lease], out: &mut impl BufMut) {
    for lease in leases {
        put_varint(tag, lease.wire_len() as u64, out);
        lease.put(out);
    }
}

/// Returns the leases in field `number` of a message, and its other fields.
fn split(bytes: &Bytes, number: u32) -> Result<(Vec<Lease>, Bytes), Malformed> {
    let (mut leases, mut rest) = (Vec::new(), BytesMut::new());
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Len(range) if field.number == number => leases.push(Lease::parse(bytes.slice(range))?),
            _ if field.number == number => return Err(WIRE_TYPE),
            _ => rest.put_slice(&bytes[field.at]),
        }
    }
    Ok((leases, rest.freeze()))
}

/// `ConsumeResponse`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumeResponse {
    /// Field 2.
    pub leases: Vec<Lease>,
    /// All other fields.
    pub rest: v1::ConsumeResponse,
}

/// Tag of the field of leases of a [`ConsumeResponse`].
const LEASES: u8 = 0x12;

impl ConsumeResponse {
    /// Writes the message in pieces, among which are its batches as they are.
    #[must_use]
    pub fn pieces(&self) -> Vec<Bytes> {
        let (mut pieces, mut between) = (Vec::new(), BytesMut::new());
        self.rest.encode_raw(&mut between);
        for lease in &self.leases {
            put_varint(LEASES, lease.wire_len() as u64, &mut between);
            if !lease.batches.is_empty() {
                pieces.push(between.split().freeze());
                pieces.extend(lease.batches.iter().cloned());
            }
            lease.rest.encode_raw(&mut between);
        }
        pieces.push(between.freeze());
        pieces
    }
}

impl Wire for ConsumeResponse {
    fn wire_len(&self) -> usize {
        leases_len(&self.leases) + self.rest.encoded_len()
    }

    fn put(&self, out: &mut impl BufMut) {
        self.rest.encode_raw(out);
        put_leases(LEASES, &self.leases, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let (leases, rest) = split(&bytes, 2)?;
        Ok(Self { leases, rest: v1::ConsumeResponse::parse(rest)? })
    }
}

/// `LeaseResponse`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseResponse {
    /// Field 1.
    pub leases: Vec<Lease>,
}

impl Wire for LeaseResponse {
    fn wire_len(&self) -> usize {
        leases_len(&self.leases)
    }

    fn put(&self, out: &mut impl BufMut) {
        put_leases(0x0a, &self.leases, out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        Ok(Self { leases: split(&bytes, 1)?.0 })
    }
}
