//! The token of a lease: it names the group, the lease and the records, so that any replica can take its settlement.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use serde::{Deserialize, Serialize};

use super::logic::{Fence, GroupId, GroupName, Span};
use crate::record::{Epoch, TopicName};

/// First byte of every token.
const VERSION: u8 = 1;
/// Most bytes of a token, for [`SPANS_MAX`] spans of 20 bytes each.
pub const TOKEN_BYTES_MAX: usize = 24 << 10;
/// Most spans of a lease.
pub const SPANS_MAX: usize = 1000;

/// Names a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Topic of the group.
    pub topic: TopicName,
    /// Name of the group.
    pub group: GroupName,
    /// Incarnation of the group.
    pub id: GroupId,
    /// Incarnation of the topic.
    pub epoch: Epoch,
    /// Fence of the lease.
    pub fence: Fence,
    /// Records of the lease as it was given, in order; at most [`SPANS_MAX`].
    pub held: Vec<Span>,
}

impl Token {
    /// Writes the token.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(320 + 4 * self.held.len());
        out.put_u8(VERSION);
        for name in [self.topic.as_str(), self.group.as_str()] {
            encode_varint(name.len() as u64, &mut out);
            out.put_slice(name.as_bytes());
        }
        out.put_u64(self.id.0);
        out.put_u64(self.epoch.get());
        encode_varint(self.fence.0, &mut out);
        let mut at = 0;
        for span in &self.held {
            encode_varint(span.start.wrapping_sub(at), &mut out);
            encode_varint(span.end - span.start, &mut out);
            at = span.end;
        }
        out.freeze()
    }

    /// Reads a token; `None` if it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > TOKEN_BYTES_MAX || *bytes.first()? != VERSION {
            return None;
        }
        let mut rest = &bytes[1..];
        let topic = TopicName::parse(name(&mut rest)?).ok()?;
        let group = GroupName::parse(name(&mut rest)?).ok()?;
        let id = GroupId(rest.try_get_u64().ok()?);
        let epoch = Epoch::new(rest.try_get_u64().ok()?);
        let fence = Fence(decode_varint(&mut rest).ok()?);
        let (mut held, mut at) = (Vec::new(), 0_u64);
        while rest.has_remaining() {
            let start = at.checked_add(decode_varint(&mut rest).ok()?)?;
            let end = start.checked_add(decode_varint(&mut rest).ok()?)?;
            held.push(Span::new(start, end).filter(|_| held.len() < SPANS_MAX)?);
            at = end;
        }
        Some(Self { topic, group, id, epoch, fence, held })
    }
}

/// Reads a name with its length before it.
fn name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (name, after) = rest.split_at_checked(len)?;
    *rest = after;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::{SPANS_MAX, Token};
    use crate::group::logic::{Fence, GroupId, GroupName, Span};
    use crate::record::{Epoch, TopicName};
    use proptest::prelude::*;

    fn token(held: Vec<Span>) -> Token {
        Token {
            topic: TopicName::parse("orders").unwrap(),
            group: GroupName::parse("workers").unwrap(),
            id: GroupId(7),
            epoch: Epoch::new(u64::MAX),
            fence: Fence(1 << 41),
            held,
        }
    }

    fn spans(count: u64) -> Vec<Span> {
        (0..count)
            .map(|n| Span { start: u64::MAX - 3000 + 3 * n, end: u64::MAX - 3000 + 3 * n + 2 })
            .collect()
    }

    #[test]
    fn a_token_comes_back_and_longer_ones_are_refused() {
        for count in [0, 1, SPANS_MAX as u64] {
            let token = token(spans(count));
            assert_eq!(Token::decode(&token.encode()), Some(token));
        }
        let long = token((0..=SPANS_MAX as u64).map(|n| Span { start: 2 * n, end: 2 * n + 1 }).collect());
        assert_eq!(Token::decode(&long.encode()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let mut bytes = token(spans(20)).encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = Token::decode(&bytes);
            let _ = Token::decode(&bytes[..cut.index(bytes.len())]);
        }
    }
}
