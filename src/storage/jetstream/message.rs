//! Format of one message of a topic's stream: a commit of batches, which is stored whole or not at all.
//!
//! ```text
//! Nats-Expected-Last-Sequence: the sequence this commit follows
//! Streamway-Group: <nonce> <time in µs> <records before it> <records> <CRC32C of the payload>
//! Streamway-Ids:   <index>.<records>.<SHA-256/128 of a request_id>.<scope>.<CRC32C of its records' content>,…
//!                  The header is absent if no batch has an id. The scope is empty without an identity.
//!                  Earlier versions write and read only the first three fields.
//! Streamway-By:    <address of the follower that stored it>
//! Streamway-Handed: <address of a follower>.<nonce>.<index of its first record>,…    for commits of other replicas
//! payload:         batches without their offsets (crate::record::offsetless)
//! ```

use std::fmt::Write;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::bus::Address;
use super::names::{INDEX_BITS, RECORDS_MAX};
use crate::record::offsetless::assign_offsets;
use crate::record::{Offset, RequestId, Scope, UnixMicros};
use crate::storage::tail::Run;
use crate::storage::window::Mark;

const EXPECTED: &str = "Nats-Expected-Last-Sequence";
const GROUP: &str = "Streamway-Group";
const IDS: &str = "Streamway-Ids";
const BY: &str = "Streamway-By";
const HANDED: &str = "Streamway-Handed";

/// Length of a [`Digest`] in bytes.
const DIGEST: usize = 16;
/// Maximum number of bytes of one id in the header: two numbers up to 1024, the digest, a scope, a checksum, and five
/// separators.
pub const ID_BYTES: usize = 4 + 4 + 2 * DIGEST + 2 * DIGEST + 8 + 5;

/// Half of the SHA-256 of a `request_id`. It has a fixed length and is the same on every replica, and nobody can find
/// two ids with the same half.
pub type Digest = [u8; DIGEST];

/// Computes the digest of a `request_id`, which in a backup is the digest already.
#[must_use]
pub fn digest(id: &RequestId) -> Digest {
    match id.as_bytes().try_into() {
        Ok(digest) if id.is_stored() => digest,
        _ => digest_of(id.as_bytes()),
    }
}

fn digest_of(id: &[u8]) -> Digest {
    let whole = ring::digest::digest(&ring::digest::SHA256, id);
    let mut half = [0; DIGEST];
    half.copy_from_slice(&whole.as_ref()[..DIGEST]);
    half
}

/// Offset just after a message, which is the offset of the first record of the next message.
#[must_use]
pub const fn end_of(sequence: u64) -> Offset {
    Offset::new(sequence << INDEX_BITS)
}

/// Offset of a message's first record. Sequences begin at 1.
#[must_use]
pub const fn start_of(sequence: u64) -> Offset {
    Offset::new((sequence - 1) << INDEX_BITS)
}

/// Sequence of the message that holds an offset, if the message has that many records.
#[must_use]
pub const fn sequence_of(offset: Offset) -> u64 {
    (offset.get() >> INDEX_BITS) + 1
}

/// Entry for a `request_id` that is stored with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    /// Index of the first record of its batch.
    pub index: u32,
    /// Number of records of its batch.
    pub count: u32,
    /// Digest of the id.
    pub digest: Digest,
    /// Scope of the id and checksum of the stored content. None if an earlier version stored it.
    pub mark: Option<Mark>,
}

/// Maximum number of commits of other replicas in one message. Their entries take less than 1 KiB of headers.
pub const HANDED_MAX: usize = 16;
/// Maximum number of bytes of one such entry in the header: two numbers of 16 digits, an index, and three separators.
pub const HANDED_BYTES: usize = 16 + 16 + 4 + 3;

/// Entry for a commit that another replica built and that is stored within this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Address of the follower that built it.
    pub from: Address,
    /// Nonce of the commit.
    pub nonce: u64,
    /// Index of its first record in this message.
    pub index: u32,
}

/// Content of the headers of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Random number by which the replica that built the message recognizes it.
    pub nonce: u64,
    /// Publish time.
    pub time: UnixMicros,
    /// Number of records stored before it, as far as the writer knew.
    pub before: u64,
    /// Number of its records.
    pub records: u32,
    /// CRC32C of its payload.
    pub crc: u32,
    /// Request ids that are stored with it.
    pub ids: Vec<IdEntry>,
    /// Address of the follower that stored it. None if it was an earlier version.
    pub by: Option<Address>,
    /// Commits in it that other replicas built.
    pub handed: Vec<Handed>,
}

impl Head {
    /// Builds the headers of a message that must follow the message `after`.
    #[must_use]
    pub fn headers(&self, after: u64) -> HeaderMap {
        let mut headers = self.described();
        headers.insert(EXPECTED, after.to_string().as_str());
        if let Some(by) = self.by {
            headers.insert(BY, by.to_string().as_str());
        }
        if !self.handed.is_empty() {
            let one = |Handed { from, nonce, index }: &Handed| format!("{from}.{nonce:016x}.{index}");
            headers.insert(HANDED, self.handed.iter().map(one).collect::<Vec<_>>().join(",").as_str());
        }
        headers
    }

    /// Builds only those headers that do not depend on the replica that stores the commit and on its place.
    #[must_use]
    pub fn described(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Self { nonce, time, before, records, crc, ids, .. } = self;
        let group = format!("{nonce:016x} {} {before} {records} {crc:08x}", time.0);
        headers.insert(GROUP, group.as_str());
        if !ids.is_empty() {
            let mut text = String::with_capacity(ids.len() * ID_BYTES);
            for IdEntry { index, count, digest, mark } in ids {
                let comma = if text.is_empty() { "" } else { "," };
                let _ = write!(text, "{comma}{index}.{count}.{:032x}", u128::from_be_bytes(*digest));
                let _ = match mark {
                    None => Ok(()),
                    Some(Mark { scope: Scope::NONE, content }) => write!(text, "..{content:08x}"),
                    Some(Mark { scope, content }) => {
                        write!(text, ".{:032x}.{content:08x}", u128::from_be_bytes(scope.bytes()))
                    }
                };
            }
            headers.insert(IDS, text.as_str());
        }
        headers
    }

    /// Parses the headers of a message. None if this server did not write them.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut commit = headers.get(GROUP)?.as_str().split(' ');
        let nonce = u64::from_str_radix(commit.next()?, 16).ok()?;
        let time = UnixMicros(commit.next()?.parse().ok()?);
        let (before, records) = (commit.next()?.parse().ok()?, commit.next()?.parse().ok()?);
        let crc = u32::from_str_radix(commit.next()?, 16).ok()?;
        let ids = match headers.get(IDS) {
            None => Vec::new(),
            Some(ids) => ids.as_str().split(',').map(parse_id).collect::<Option<_>>()?,
        };
        let by = headers.get(BY).and_then(|by| Address::parse(by.as_str()));
        let handed = match headers.get(HANDED) {
            None => Vec::new(),
            Some(handed) => handed.as_str().split(',').map(parse_handed).collect::<Option<_>>()?,
        };
        (records <= RECORDS_MAX).then_some(Self { nonce, time, before, records, crc, ids, by, handed })
    }
}

fn parse_id(text: &str) -> Option<IdEntry> {
    let mut parts = text.split('.');
    let (index, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let hex = |text| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
    let digest = hex(parts.next()?)?;
    let mark = match parts.next() {
        None => None,
        Some(scope) => {
            let scope = if scope.is_empty() { Scope::NONE } else { Scope::new(hex(scope)?) };
            Some(Mark { scope, content: u32::from_str_radix(parts.next()?, 16).ok()? })
        }
    };
    Some(IdEntry { index, count, digest, mark })
}

fn parse_handed(text: &str) -> Option<Handed> {
    let mut parts = text.split('.');
    let (from, nonce) = (Address::parse(parts.next()?)?, u64::from_str_radix(parts.next()?, 16).ok()?);
    Some(Handed { from, nonce, index: parts.next()?.parse().ok()? })
}

/// Message that was read and checked, ready for delivery to subscribers.
#[derive(Clone, Debug)]
pub struct Message {
    /// Content of its headers.
    pub head: Head,
    /// Records with their offsets.
    pub run: Run,
    /// Offset just after its last record.
    pub next: Offset,
}

impl Message {
    /// Checks the batches of the message `sequence` (P10), and writes their offsets.
    ///
    /// # Errors
    /// The batches are damaged, or this server did not write the message.
    pub fn read(sequence: u64, headers: Option<&HeaderMap>, payload: &Bytes) -> Result<Self, String> {
        let damaged = |what: &str| format!("message {sequence}: {what}");
        let head = headers.and_then(Head::parse).ok_or_else(|| damaged("it is not one of this server's"))?;
        if crc32c::crc32c(payload) != head.crc {
            return Err(damaged("its checksum does not match"));
        }
        let first = start_of(sequence);
        let assigned = assign_offsets(payload, first).map_err(|error| damaged(&error.to_string()))?;
        if assigned.records != u64::from(head.records) || assigned.records == 0 {
            return Err(damaged("it holds another number of records than it says"));
        }
        let run = Run {
            crc: head.crc,
            batches: assigned.batches,
            blocks: assigned.blocks,
            first,
            end: end_of(sequence),
            first_time: head.time,
            last_time: head.time,
        };
        Ok(Self { next: first.plus(assigned.records), head, run })
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Handed, Head, ID_BYTES, IdEntry, Message, digest_of};
    use crate::record::testing::batch_of;
    use crate::record::{Offset, Scope, UnixMicros, offsetless};
    use crate::storage::window::Mark;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut payload = Vec::new();
        offsetless::encode(UnixMicros(1_700_000_000_000_000), &batch_of(&["a", "b"]), &mut payload);
        offsetless::encode(UnixMicros(1_700_000_000_000_000), &batch_of(&["c"]), &mut payload);
        let marks = [None, Some(Scope::new([0xab; 16]))];
        let ids = (0..2).zip(marks).map(|(n, scope)| {
            let mark = scope.map(|scope| Mark { scope, content: 0xc0ffee });
            IdEntry { index: n * 2, count: 2 - n, digest: digest_of(n.to_string().as_bytes()), mark }
        });
        let head = Head {
            nonce: 0xabc,
            time: UnixMicros(1_700_000_000_000_000),
            before: 17,
            records: 3,
            crc: crc32c::crc32c(&payload),
            ids: ids.collect(),
            by: Some(Address::random()),
            handed: (1..3).map(|index| Handed { from: Address::random(), nonce: 0xdef, index }).collect(),
        };
        let headers = head.headers(6);
        assert_eq!(headers.get("Nats-Expected-Last-Sequence").unwrap().as_str(), "6");
        let message = Message::read(7, Some(&headers), &payload.clone().into()).unwrap();
        assert_eq!(message.head, head);
        let run = &message.run;
        assert_eq!((run.first.get(), message.next.get(), run.end.get()), (6 << 10, (6 << 10) + 3, 7 << 10));
        assert_eq!((run.batches, run.first_time), (2, UnixMicros(1_700_000_000_000_000)));
        assert_eq!(super::sequence_of(Offset::new((6 << 10) + 2)), 7);
        // P10: every changed bit is detected.
        for at in 0..payload.len() {
            let mut other = payload.clone();
            other[at] ^= 1;
            assert!(Message::read(7, Some(&headers), &other.into()).is_err());
        }
        assert!(Message::read(7, None, &payload.into()).is_err());
    }

    /// Another version may write more fields.
    #[test]
    fn unknown_fields_of_a_message_are_ignored() {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Streamway-Group", "0000000000000abc 17 3 2 00c0ffee");
        let head = Head::parse(&headers).unwrap();
        headers.insert("Streamway-Group", "0000000000000abc 17 3 2 00c0ffee 5 a later field");
        assert_eq!(Head::parse(&headers), Some(head));
        headers.insert("Streamway-Group", "0000000000000abc 17 3 1025 00c0ffee");
        assert_eq!(Head::parse(&headers), None, "no message has more records");
    }

    /// An earlier version reads only the first three fields of an id, and this version reads ids that it wrote.
    #[test]
    fn ids_of_earlier_programs_have_no_mark() {
        let old = format!("0.1.{:032x},1023.1.{:032x}", 1, u128::MAX);
        let ids: Vec<_> = old.split(',').map(|id| super::parse_id(id).unwrap()).collect();
        assert!(ids.iter().all(|id| id.mark.is_none()) && ids[1].digest == [0xff; 16]);
        for scope in [Scope::NONE, Scope::new([0xff; 16])] {
            let mark = Some(Mark { scope, content: u32::MAX });
            let id = IdEntry { index: 1023, count: 1024, digest: [0xff; 16], mark };
            let (nonce, time, before, records, crc) = (1, UnixMicros(2), 3, 1024, 5);
            let headers =
                Head { nonce, time, before, records, crc, ids: vec![id], ..Head::default() }.headers(0);
            let text = headers.get("Streamway-Ids").unwrap().as_str();
            assert!(text.len() < ID_BYTES && text.starts_with("1023.1024.ffff"), "{text}");
            assert_eq!(Head::parse(&headers).unwrap().ids, [id]);
        }
        for bad in ["0.1.zz", "0.1.0.", "0.1.0.1.zz", "0.1.0.zz.1", "0.1"] {
            assert_eq!(super::parse_id(bad), None, "{bad}");
        }
    }
}
