//! The frame, of which journals and segments consist: a 64-byte header with its own checksum, followed by the
//! body. docs/format.md specifies the bytes. Nothing here does I/O. A frame with a wrong checksum or field is
//! always an error.

use bytes::{Buf, BufMut, Bytes};

use crate::record::{Offset, Scope, UnixMicros};
use crate::storage::tail::Run;
use crate::storage::window::Mark;

/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 64;

/// Approximate size in bytes of the frames into which blocks are gathered: large enough that headers and
/// checksums cost nothing, small enough that a reader that starts inside a frame wastes little.
pub const FRAME_TARGET: usize = 64 << 10;

/// Maximum length of a body in bytes: a batch at its configured limit (at most 16 MiB) and what surrounds it.
pub const BODY_MAX: usize = 24 << 20;

/// Kind of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Blocks of one topic, followed by their request ids in a journal.
    Batches = 1,
    /// A change of the catalog: an encoded [`super::catalog::Change`].
    Change = 2,
    /// Request ids of one topic.
    Ids = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Kind of the body.
    pub kind: Kind,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// Length in bytes of the blocks (or of the change).
    pub blocks_len: u32,
    /// Length in bytes of the request ids after them.
    pub ids_len: u32,
    /// Number of batches.
    pub batches: u32,
    /// Id of the topic.
    pub topic: u64,
    /// Offset of the first record.
    pub first: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// Time at which the first batch was stored.
    pub first_time: UnixMicros,
    /// Time at which the last batch was stored.
    pub last_time: UnixMicros,
}

/// Reason for which bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The bytes end before the frame does.
    #[error("frame is cut short")]
    Short,
    /// The header's checksum or a field is wrong.
    #[error("frame header is damaged")]
    Header,
    /// The body's checksum is wrong.
    #[error("frame body is damaged")]
    Body,
}

impl Header {
    /// Makes the run that this header describes, given its blocks.
    #[must_use]
    pub fn run(&self, blocks: Bytes) -> Run {
        Run {
            crc: crc32c::crc32c(&blocks),
            blocks,
            batches: self.batches,
            first: self.first,
            end: self.end,
            first_time: self.first_time,
            last_time: self.last_time,
        }
    }

    /// Returns the length of the body, in bytes.
    #[must_use]
    pub const fn body_len(&self) -> usize {
        self.blocks_len as usize + self.ids_len as usize
    }

    /// Returns the length of the whole frame, in bytes.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        HEADER_LEN + self.body_len()
    }

    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut out = &mut bytes[4..];
        out.put_u32_le(self.body_crc);
        out.put_u32_le(self.blocks_len);
        out.put_u32_le(self.ids_len);
        out.put_u16_le(self.kind as u16);
        out.put_u16_le(0);
        out.put_u32_le(self.batches);
        out.put_u64_le(self.topic);
        out.put_u64_le(self.first.get());
        out.put_u64_le(self.end.get());
        out.put_u64_le(self.first_time.0);
        out.put_u64_le(self.last_time.0);
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header; it does not look at what follows.
    ///
    /// # Errors
    /// Returns [`BadFrame::Short`] or [`BadFrame::Header`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let Some(mut rest) = bytes.get(..HEADER_LEN) else { return Err(BadFrame::Short) };
        if rest.get_u32_le() != crc32c::crc32c(&bytes[4..HEADER_LEN]) {
            return Err(BadFrame::Header);
        }
        let (body_crc, blocks_len, ids_len) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        let kind = match rest.get_u16_le() {
            1 => Kind::Batches,
            2 => Kind::Change,
            3 => Kind::Ids,
            _ => return Err(BadFrame::Header),
        };
        let _zero = rest.get_u16_le();
        let batches = rest.get_u32_le();
        let topic = rest.get_u64_le();
        let (first, end) = (Offset::new(rest.get_u64_le()), Offset::new(rest.get_u64_le()));
        let (first_time, last_time) = (UnixMicros(rest.get_u64_le()), UnixMicros(rest.get_u64_le()));
        let header =
            Self { kind, body_crc, blocks_len, ids_len, batches, topic, first, end, first_time, last_time };
        if header.body_len() > BODY_MAX || end < first {
            return Err(BadFrame::Header);
        }
        Ok(header)
    }

    /// Decodes a whole frame at the start of `bytes`: its header, and its body after verifying the checksum.
    ///
    /// # Errors
    /// Returns any [`BadFrame`].
    pub fn decode_frame(bytes: &[u8]) -> Result<(Self, &[u8]), BadFrame> {
        let header = Self::decode(bytes)?;
        let body = bytes.get(HEADER_LEN..header.frame_len()).ok_or(BadFrame::Short)?;
        if crc32c::crc32c(body) != header.body_crc {
            return Err(BadFrame::Body);
        }
        Ok((header, body))
    }
}

/// One request id in a frame's ids section: first offset, record count, mark, id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry<'a> {
    /// Offset of the batch's first record.
    pub first: Offset,
    /// Records in the batch, fewer than [`MARKED`].
    pub count: u32,
    /// Scope of the id and checksum of what was stored; none if an earlier version of the program wrote it.
    pub mark: Option<Mark>,
    /// The request id.
    pub id: &'a [u8],
}

/// Bit of the record count that is set if there is a mark. No batch has this many records.
const MARKED: u32 = 1 << 31;
/// Length of a mark in bytes. It precedes the id and is part of the id's length.
const MARK_LEN: usize = 16 + 4;

impl IdEntry<'_> {
    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (flag, mark_len) = if self.mark.is_some() { (MARKED, MARK_LEN) } else { (0, 0) };
        out.put_u64_le(self.first.get());
        out.put_u32_le(self.count | flag);
        // The length fits, because RequestId::MAX_LEN is 128.
        out.put_u8((mark_len + self.id.len()) as u8);
        if let Some(Mark { scope, content }) = self.mark {
            out.put_slice(&scope.bytes());
            out.put_u32_le(content);
        }
        out.put_slice(self.id);
    }
}

/// Iterates over an ids section; ends early if the bytes do.
pub fn ids(mut bytes: &[u8]) -> impl Iterator<Item = IdEntry<'_>> {
    std::iter::from_fn(move || {
        let (mut head, rest) = bytes.split_at_checked(13)?;
        let (first, count, len) = (head.get_u64_le(), head.get_u32_le(), head.get_u8());
        let (mut id, rest) = rest.split_at_checked(usize::from(len))?;
        bytes = rest;
        let mut mark = None;
        if count & MARKED != 0 {
            let (scope, rest) = id.split_first_chunk()?;
            let (content, rest) = rest.split_first_chunk()?;
            mark = Some(Mark { scope: Scope::new(*scope), content: u32::from_le_bytes(*content) });
            id = rest;
        }
        Some(IdEntry { first: Offset::new(first), count: count & !MARKED, mark, id })
    })
}

#[cfg(test)]
mod tests {
    use super::{BadFrame, Header, IdEntry, Kind, Mark, ids};
    use crate::record::{Offset, Scope, UnixMicros};
    use proptest::prelude::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: Kind::Batches,
            body_crc: crc32c::crc32c(body),
            blocks_len: body.len() as u32,
            ids_len: 0,
            batches: 1,
            topic: 7,
            first: Offset::new(3),
            end: Offset::new(5),
            first_time: UnixMicros(1),
            last_time: UnixMicros(2),
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        [&header.encode()[..], body].concat()
    }

    proptest! {
        /// P10: the checksums detect any flipped bit.
        #[test]
        fn any_flipped_bit_is_found(body in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8_u8) {
            let mut bytes = frame(&body);
            prop_assert!(Header::decode_frame(&bytes).is_ok());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::decode_frame(&bytes).is_err());
        }

        #[test]
        fn any_cut_is_found(body in proptest::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index) {
            let bytes = frame(&body);
            let cut = at.index(bytes.len());
            prop_assert_eq!(Header::decode_frame(&bytes[..cut]).unwrap_err(), BadFrame::Short);
        }

        #[test]
        fn ids_round_trip(entries in proptest::collection::vec((any::<u64>(), 0..1_u32 << 31, any::<Option<([u8; 16], u32)>>(), proptest::collection::vec(any::<u8>(), 1..=128)), 0..5)) {
            let mut bytes = Vec::new();
            let mark = |mark: Option<([u8; 16], u32)>| mark.map(|(scope, content)| Mark { scope: Scope::new(scope), content });
            let entries: Vec<_> = entries.iter().map(|(first, count, of, id)| IdEntry { first: Offset::new(*first), count: *count, mark: mark(*of), id }).collect();
            entries.iter().for_each(|entry| entry.encode(&mut bytes));
            prop_assert_eq!(ids(&bytes).collect::<Vec<_>>(), entries);
        }
    }
}
