//! Segments: files that hold one topic's batches in order, as frames. A checkpoint appends to them. A reader
//! reads only up to the length that was synced, and verifies the checksum of every frame before its records
//! are served (P10). docs/format.md specifies the bytes.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes};

use super::catalog::SegmentEntry;
use super::disk::File;
use super::frame::{FRAME_TARGET, HEADER_LEN, Header, Kind};
use crate::record::{Offset, UnixMicros};
use crate::storage::tail::Run;

/// Length of a segment's header, in bytes.
pub const FILE_HEADER_LEN: u64 = 64;
const MAGIC: &[u8; 8] = b"STRMWYS1";
const VERSION: u32 = 1;
/// Approximate distance in bytes between two entries of the index: on average, a lookup reads half of it
/// needlessly, and the index of a full segment takes about 50 KiB.
const INDEX_STRIDE: u64 = 32 << 10;

/// Returns the name of the segment of `topic` that begins at `base`.
#[must_use]
pub fn file_name(topic: u64, base: Offset) -> String {
    format!("{topic:016x}-{:020}.seg", base.get())
}

/// Returns the topic and the first offset in a segment's name.
#[must_use]
pub fn parse_name(name: &str) -> Option<(u64, Offset)> {
    let (topic, base) = name.strip_suffix(".seg")?.split_once('-')?;
    let (topic, base) = (u64::from_str_radix(topic, 16).ok()?, Offset::new(base.parse().ok()?));
    (file_name(topic, base) == name).then_some((topic, base))
}

/// Extent of one segment at one moment. The value is replaced, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the first record.
    pub base: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// Length of the valid part of the file, in bytes.
    pub len: u64,
    /// Time at which the first batch was stored.
    pub first_time: UnixMicros,
    /// Time at which the last batch was stored.
    pub last_time: UnixMicros,
}

impl Segment {
    /// Creates a segment that has only a header so far, with `first` as its first run.
    #[must_use]
    pub fn begin(first: &Run) -> Self {
        let (base, time) = (first.first, first.first_time);
        Self { base, end: base, len: FILE_HEADER_LEN, first_time: time, last_time: time }
    }
}

impl From<&SegmentEntry> for Segment {
    fn from(entry: &SegmentEntry) -> Self {
        Self {
            base: Offset::new(entry.base),
            end: Offset::new(entry.end),
            len: entry.len,
            first_time: UnixMicros(entry.first_time),
            last_time: UnixMicros(entry.last_time),
        }
    }
}

impl From<&Segment> for SegmentEntry {
    fn from(segment: &Segment) -> Self {
        Self {
            base: segment.base.get(),
            end: segment.end.get(),
            len: segment.len,
            first_time: segment.first_time.0,
            last_time: segment.last_time.0,
        }
    }
}

/// Encodes the header of a new segment.
#[must_use]
pub fn file_header(topic: u64, epoch: u64, base: Offset) -> Vec<u8> {
    let mut body = Vec::with_capacity(FILE_HEADER_LEN as usize);
    body.put_u32_le(VERSION);
    body.put_u64_le(topic);
    body.put_u64_le(epoch);
    body.put_u64_le(base.get());
    let mut bytes = Vec::with_capacity(FILE_HEADER_LEN as usize);
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(crc32c::crc32c(&body));
    bytes.put_slice(&body);
    bytes.resize(FILE_HEADER_LEN as usize, 0);
    bytes
}

/// Error of a segment.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The bytes are damaged.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Position in the file, in bytes.
        at: u64,
        /// Description of the damage.
        what: String,
    },
    /// The file system returned an error.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn damaged(at: u64, what: impl ToString) -> Fault {
    Fault::Damaged { at, what: what.to_string() }
}

/// Packs runs into frames of about [`FRAME_TARGET`] bytes, and verifies the checksum of each run.
///
/// # Errors
/// Fails if a run no longer has the checksum it was committed with, which means that memory is damaged.
pub fn pack(topic: u64, runs: &[Run], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let mut len = first.blocks.len();
        let more = rest[1..].iter().take_while(|run| {
            len += run.blocks.len();
            len <= FRAME_TARGET
        });
        let (packed, left) = rest.split_at(1 + more.count());
        write_frame(topic, packed, out)?;
        rest = left;
    }
    Ok(())
}

fn write_frame(topic: u64, runs: &[Run], out: &mut Vec<u8>) -> Result<(), Fault> {
    let (first, last) = (&runs[0], &runs[runs.len() - 1]);
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    for run in runs {
        let at = out.len();
        out.extend_from_slice(&run.blocks);
        if crc32c::crc32c(&out[at..]) != run.crc {
            return Err(damaged(0, "blocks changed in memory between commit and checkpoint"));
        }
    }
    let body = &out[start + HEADER_LEN..];
    let header = Header {
        kind: Kind::Batches,
        body_crc: crc32c::crc32c(body),
        blocks_len: body.len() as u32,
        ids_len: 0,
        batches: runs.iter().map(|run| run.batches).sum(),
        topic,
        first: first.first,
        end: last.end,
        first_time: first.first_time,
        last_time: last.last_time,
    };
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
    Ok(())
}

/// A place to start reading: the frame at `at` begins with `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Offset of the frame's first record.
    pub first: Offset,
    /// Time at which the frame's first batch was stored.
    pub first_time: UnixMicros,
    /// Position of the frame in the file, in bytes.
    pub at: u64,
}

#[derive(Debug)]
struct Index {
    marks: Vec<Mark>,
    scanned: u64,
    /// Offset of the first record of the next frame.
    next: Offset,
}

/// An open segment file with its sparse index, which is built on first use.
#[derive(Debug)]
pub struct OpenSegment {
    file: Arc<dyn File>,
    topic: u64,
    index: Mutex<Index>,
}

impl OpenSegment {
    /// Opens a segment on its file, after checking the header.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the header cannot be read or is not this segment's.
    pub fn new(file: Arc<dyn File>, topic: u64, epoch: u64, base: Offset) -> Result<Self, Fault> {
        let mut head = [0; FILE_HEADER_LEN as usize];
        let read = file.read_at(&mut head, 0)?;
        if read < head.len() || head[..] != file_header(topic, epoch, base)[..] {
            return Err(damaged(0, "segment header is not this segment's"));
        }
        let index = Index { marks: Vec::new(), scanned: 0, next: base };
        Ok(Self { file, topic, index: Mutex::new(index) })
    }

    /// Passes the marks of the first `len` bytes to `look`, after reading the frame headers not seen before.
    ///
    /// # Errors
    /// Returns a [`Fault`] if a frame header cannot be read or is damaged.
    pub fn marks<T>(&self, len: u64, look: impl FnOnce(&[Mark]) -> T) -> Result<T, Fault> {
        let mut index = self.index.lock().expect("no panic while it is held");
        while index.scanned.max(FILE_HEADER_LEN) < len {
            let at = index.scanned.max(FILE_HEADER_LEN);
            let mut head = [0; HEADER_LEN];
            self.file.read_at(&mut head, at)?;
            let header = Header::decode(&head).map_err(|bad| damaged(at, bad))?;
            if header.first != index.next {
                return Err(damaged(at, "frame is in the wrong place"));
            }
            index.next = header.end;
            if index.marks.last().is_none_or(|mark| at >= mark.at + INDEX_STRIDE) {
                index.marks.push(Mark { first: header.first, first_time: header.first_time, at });
            }
            index.scanned = at + header.frame_len() as u64;
        }
        Ok(look(&index.marks))
    }

    /// Reads whole frames from `at` on; the frame at `at` must begin at or before offset `from`. Returns the
    /// frames that end after `from`: about `bytes_max` bytes of blocks, and at least one frame unless `len`
    /// is reached.
    ///
    /// # Errors
    /// Returns a [`Fault`] if a frame cannot be read or is damaged.
    pub fn frames(
        &self,
        mut at: u64,
        len: u64,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<(Header, Bytes)>, Fault> {
        let mut found: Vec<(Header, Bytes)> = Vec::new();
        let mut wanted = bytes_max + HEADER_LEN;
        let mut taken = 0;
        while at < len && (found.is_empty() || taken < bytes_max) {
            let size = wanted.min((len - at) as usize);
            let mut buf = vec![0; size];
            let read = self.file.read_at(&mut buf, at)?;
            if read < size {
                return Err(damaged(at, "segment is shorter than it was"));
            }
            let mut bytes = Bytes::from(buf);
            let mut whole = 0;
            while let Some((header, blocks)) = self.next_frame(&mut bytes, at + whole, &mut wanted)? {
                if found.last().is_some_and(|(last, _)| last.end != header.first) {
                    return Err(damaged(at + whole, "frame is in the wrong place"));
                }
                whole += header.frame_len() as u64;
                if header.end > from && (found.is_empty() || taken < bytes_max) {
                    taken += blocks.len();
                    found.push((header, blocks));
                }
            }
            if !found.is_empty() {
                break;
            }
            if whole == 0 && size as u64 == len - at {
                return Err(damaged(at, "frame is longer than its segment"));
            }
            at += whole;
        }
        Ok(found)
    }

    /// Takes the frame at the front of `bytes`. If they end before the frame does, it returns none and raises
    /// `wanted` to the length of the frame.
    fn next_frame(
        &self,
        bytes: &mut Bytes,
        at: u64,
        wanted: &mut usize,
    ) -> Result<Option<(Header, Bytes)>, Fault> {
        if bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = Header::decode(bytes).map_err(|bad| damaged(at, bad))?;
        if header.kind != Kind::Batches || header.topic != self.topic {
            return Err(damaged(at, "frame of another topic"));
        }
        if bytes.len() < header.frame_len() {
            *wanted = (*wanted).max(header.frame_len());
            return Ok(None);
        }
        let (header, body) = Header::decode_frame(bytes).map_err(|bad| damaged(at, bad))?;
        let blocks = bytes.slice(HEADER_LEN..HEADER_LEN + body.len());
        bytes.advance(header.frame_len());
        Ok(Some((header, blocks)))
    }
}

/// Returns the path of a segment.
#[must_use]
pub fn path(dir: &Path, topic: u64, base: Offset) -> std::path::PathBuf {
    dir.join("segments").join(file_name(topic, base))
}

#[cfg(test)]
mod tests {
    use super::{FILE_HEADER_LEN, FRAME_TARGET, Fault, OpenSegment, file_header, pack};
    use crate::record::{Offset, UnixMicros};
    use crate::storage::embedded::disk::sim::SimDisk;
    use crate::storage::embedded::disk::{Disk, Mode};
    use crate::storage::tail::Run;
    use std::path::Path;

    /// Runs of ten records and `len` bytes each, from offset 100 on.
    fn runs(count: u64, len: usize) -> Vec<Run> {
        let run = |n: u64| {
            let blocks = bytes::Bytes::from(vec![n as u8; len]);
            Run {
                crc: crc32c::crc32c(&blocks),
                blocks,
                batches: 1,
                first: Offset::new(100 + n * 10),
                end: Offset::new(110 + n * 10),
                first_time: UnixMicros(n),
                last_time: UnixMicros(n),
            }
        };
        (0..count).map(run).collect()
    }

    fn segment(runs: &[Run], damage: Option<usize>) -> (OpenSegment, u64) {
        let disk = SimDisk::default();
        let file = disk.open(Path::new("/s"), Mode::Create).unwrap();
        let mut bytes = file_header(7, 8, Offset::new(100));
        pack(7, runs, &mut bytes).unwrap();
        if let Some(at) = damage {
            bytes[at] ^= 1;
        }
        file.write_at(&bytes, 0).unwrap();
        (OpenSegment::new(file, 7, 8, Offset::new(100)).unwrap(), bytes.len() as u64)
    }

    #[test]
    fn small_runs_are_packed_and_every_offset_is_found() {
        let (segment, len) = segment(&runs(100, 5000), None);
        let marks = segment.marks(len, <[_]>::to_vec).unwrap();
        assert!(marks.len() < 10, "{} frames", marks.len());
        for from in 100..1100 {
            let from = Offset::new(from);
            let mark = marks[marks.partition_point(|mark| mark.first <= from) - 1];
            let found = segment.frames(mark.at, len, from, 1).unwrap();
            assert_eq!(found.len(), 1);
            let (header, blocks) = &found[0];
            assert!(header.first <= from && from < header.end);
            assert!(blocks.len() <= FRAME_TARGET);
        }
        let all = segment.frames(FILE_HEADER_LEN, len, Offset::new(100), usize::MAX / 2).unwrap();
        assert!(all.windows(2).all(|pair| pair[0].0.end == pair[1].0.first));
        assert_eq!(all.last().unwrap().0.end.get(), 1100);
    }

    #[test]
    fn a_frame_larger_than_the_read_is_read_whole() {
        let (segment, len) = segment(&runs(3, 300_000), None);
        let found = segment.frames(FILE_HEADER_LEN, len, Offset::new(105), 1000).unwrap();
        assert_eq!((found.len(), found[0].1.len()), (1, 300_000));
    }

    /// P10: a flipped bit is reported at the frame it is in, and another segment's file is refused.
    #[test]
    fn damage_is_reported() {
        let runs = runs(4, 40_000);
        let (segment, len) = segment(&runs, Some(100_000));
        assert!(segment.frames(FILE_HEADER_LEN, len, Offset::new(100), 1).is_ok());
        let whole = segment.frames(FILE_HEADER_LEN, len, Offset::new(100), 1 << 20);
        assert!(matches!(whole, Err(Fault::Damaged { .. })));
        let mut swapped = runs.clone();
        swapped.swap(1, 2);
        let (segment, len) = self::segment(&swapped, None);
        for from in [100, 125] {
            let found = segment.frames(FILE_HEADER_LEN, len, Offset::new(from), 1 << 20);
            assert!(
                matches!(found, Err(Fault::Damaged { .. })),
                "whole frames in the wrong order, from {from}"
            );
        }
        assert!(matches!(segment.marks(len, <[_]>::len), Err(Fault::Damaged { .. })));
        let mut wrong = runs;
        wrong[1].crc ^= 1;
        assert!(matches!(pack(7, &wrong, &mut Vec::new()), Err(Fault::Damaged { .. })), "memory changed");
    }
}
