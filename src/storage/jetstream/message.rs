//! One message of a topic's stream: a group of batches, stored whole or not at all.
//!
//! ```text
//! Nats-Expected-Last-Sequence: the sequence this group follows
//! Streamway-Group: <nonce> <time in µs> <records before it> <records> <CRC32C of the payload>
//! Streamway-Ids:   <index>.<records>.<SHA-256/128 of a request_id>,…      where there are any
//! payload:         batches without their place (crate::record::unplaced)
//! ```
//! Never: decides what goes into a group.

use std::fmt::Write;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::names::{INDEX_BITS, RECORDS_MAX};
use crate::record::unplaced::place;
use crate::record::{Offset, UnixMicros};
use crate::storage::tail::Run;

const EXPECTED: &str = "Nats-Expected-Last-Sequence";
const GROUP: &str = "Streamway-Group";
const IDS: &str = "Streamway-Ids";

/// Bytes of a [`Digest`].
const DIGEST: usize = 16;
/// Most bytes one id takes in the header: two numbers under 1025, the digest, three separators.
pub const ID_BYTES: usize = 4 + 4 + 2 * DIGEST + 3;

/// Half of the SHA-256 of a `request_id`: of one length, printable in hexadecimal, the same on
/// every replica, and nobody finds two ids that share one.
pub type Digest = [u8; DIGEST];

/// The digest of a `request_id`.
#[must_use]
pub fn digest(id: &str) -> Digest {
    let whole = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    let mut half = [0; DIGEST];
    half.copy_from_slice(&whole.as_ref()[..DIGEST]);
    half
}

/// The offset just after a message: what the next record gets.
#[must_use]
pub const fn end_of(sequence: u64) -> Offset {
    Offset::new(sequence << INDEX_BITS)
}

/// The offset of a message's first record. Sequences begin at 1.
#[must_use]
pub const fn start_of(sequence: u64) -> Offset {
    Offset::new((sequence - 1) << INDEX_BITS)
}

/// The message that holds an offset, if it holds that many records.
#[must_use]
pub const fn sequence_of(offset: Offset) -> u64 {
    (offset.get() >> INDEX_BITS) + 1
}

/// A `request_id` stored with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    /// Index of its batch's first record.
    pub index: u32,
    /// Records of its batch.
    pub count: u32,
    /// The id.
    pub digest: Digest,
}

/// What the headers of a message say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Random: whose message this is.
    pub nonce: u64,
    /// When it was stored.
    pub time: UnixMicros,
    /// Records stored before it, as far as is known.
    pub before: u64,
    /// Its records.
    pub records: u32,
    /// CRC32C of its payload.
    pub crc: u32,
    /// The request ids stored with it.
    pub ids: Vec<IdEntry>,
}

impl Head {
    /// The headers of a message that must follow the message `after`.
    #[must_use]
    pub fn headers(&self, after: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, after.to_string().as_str());
        let Self { nonce, time, before, records, crc, ids } = self;
        headers.insert(GROUP, format!("{nonce:016x} {} {before} {records} {crc:08x}", time.0).as_str());
        if !ids.is_empty() {
            let mut text = String::with_capacity(ids.len() * ID_BYTES);
            for IdEntry { index, count, digest } in ids {
                let comma = if text.is_empty() { "" } else { "," };
                let _ = write!(text, "{comma}{index}.{count}.{:032x}", u128::from_be_bytes(*digest));
            }
            headers.insert(IDS, text.as_str());
        }
        headers
    }

    /// What the headers of a message say; none where they are not ours.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut group = headers.get(GROUP)?.as_str().split(' ');
        let nonce = u64::from_str_radix(group.next()?, 16).ok()?;
        let time = UnixMicros(group.next()?.parse().ok()?);
        let (before, records) = (group.next()?.parse().ok()?, group.next()?.parse().ok()?);
        let crc = u32::from_str_radix(group.next()?, 16).ok()?;
        let ids = match headers.get(IDS) {
            None => Vec::new(),
            Some(ids) => ids.as_str().split(',').map(parse_id).collect::<Option<_>>()?,
        };
        (records <= RECORDS_MAX).then_some(Self { nonce, time, before, records, crc, ids })
    }
}

fn parse_id(text: &str) -> Option<IdEntry> {
    let mut parts = text.split('.');
    let (index, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let digest = u128::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes();
    Some(IdEntry { index, count, digest })
}

/// A message that was read, ready to be handed to subscribers.
#[derive(Clone, Debug)]
pub struct Message {
    /// What its headers say.
    pub head: Head,
    /// Its blocks.
    pub run: Run,
    /// Just after its last record.
    pub next: Offset,
}

impl Message {
    /// Puts the offsets before the batches of the message `sequence`, after checking them (P10).
    ///
    /// # Errors
    /// They are damaged, or not ours.
    pub fn read(sequence: u64, headers: Option<&HeaderMap>, payload: &Bytes) -> Result<Self, String> {
        let damaged = |what: &str| format!("message {sequence}: {what}");
        let head = headers.and_then(Head::parse).ok_or_else(|| damaged("it is not one of this server's"))?;
        if crc32c::crc32c(payload) != head.crc {
            return Err(damaged("its checksum does not match"));
        }
        let first = start_of(sequence);
        let placed = place(payload, first).map_err(|error| damaged(&error.to_string()))?;
        if placed.records != u64::from(head.records) || placed.records == 0 {
            return Err(damaged("it holds another number of records than it says"));
        }
        let run = Run {
            crc: head.crc,
            batches: placed.batches,
            blocks: placed.blocks,
            first,
            end: end_of(sequence),
            first_time: head.time,
            last_time: head.time,
        };
        Ok(Self { next: first.plus(placed.records), head, run })
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, IdEntry, Message, digest};
    use crate::record::{Offset, UnixMicros, unplaced};
    use crate::topic::memory::batch_of;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut payload = Vec::new();
        unplaced::encode(UnixMicros(1_700_000_000_000_000), &batch_of(&["a", "b"]), &mut payload);
        unplaced::encode(UnixMicros(1_700_000_000_000_000), &batch_of(&["c"]), &mut payload);
        let ids = (0..2).map(|n| IdEntry { index: n * 2, count: 2 - n, digest: digest(&n.to_string()) });
        let head = Head {
            nonce: 0xabc,
            time: UnixMicros(1_700_000_000_000_000),
            before: 17,
            records: 3,
            crc: crc32c::crc32c(&payload),
            ids: ids.collect(),
        };
        let headers = head.headers(6);
        assert_eq!(headers.get("Nats-Expected-Last-Sequence").unwrap().as_str(), "6");
        let message = Message::read(7, Some(&headers), &payload.clone().into()).unwrap();
        assert_eq!(message.head, head);
        let run = &message.run;
        assert_eq!((run.first.get(), message.next.get(), run.end.get()), (6 << 10, (6 << 10) + 3, 7 << 10));
        assert_eq!((run.batches, run.first_time), (2, UnixMicros(1_700_000_000_000_000)));
        assert_eq!(super::sequence_of(Offset::new((6 << 10) + 2)), 7);
        // P10: any bit that changed is found.
        for at in 0..payload.len() {
            let mut other = payload.clone();
            other[at] ^= 1;
            assert!(Message::read(7, Some(&headers), &other.into()).is_err());
        }
        assert!(Message::read(7, None, &payload.into()).is_err());
    }
}
