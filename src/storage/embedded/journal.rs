//! The journal: commits of all topics, with one write and one sync each. Commits begin on 4 KiB boundaries,
//! so that no later sync rewrites acknowledged bytes. docs/format.md specifies the bytes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::BufMut;

use super::disk::{self, AlignedBuf, Disk, File, Mode};
use super::frame::Header;
use crate::telemetry::METRICS;

/// Alignment of commits and of the file header, in bytes.
pub const ALIGN: u64 = disk::ALIGN as u64;
/// Number of zeros written after a small commit that reaches space not written before. In such space, a sync
/// must also make the file system's metadata durable, which is a second wait for the disk. With the zeros,
/// the next small commits find the space already written. A reused journal needs none.
const ZEROS_AHEAD: u64 = 128 << 10;
/// Maximum size of a small commit, in bytes. A larger one gains less from the zeros than they cost: they
/// double what is written.
const SMALL_COMMIT: u64 = 16 << 10;
/// Number of small commits in a row after which the next ones are expected to be small too.
const SMALL_COMMITS: u32 = 32;
/// First bytes of a journal file.
pub const MAGIC: &[u8; 8] = b"STRMWYJ1";
/// Version of the format that is written. Version 1, which is read too, has no topics with lineages.
pub const VERSION: u32 = 2;
/// First bytes of a commit's header.
pub const COMMIT_MAGIC: u32 = 0x5047_5753;
/// Length of a commit's header, in bytes.
pub const COMMIT_HEADER_LEN: usize = 64;

/// Returns the name of journal `seq`.
#[must_use]
pub fn file_name(seq: u64) -> String {
    format!("journal-{seq:016x}.log")
}

/// Returns the number in a journal's name.
#[must_use]
pub fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("journal-")?.strip_suffix(".log")?;
    (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

/// Rounds a length in bytes up to the alignment.
#[must_use]
pub const fn align_up(len: u64) -> u64 {
    len.div_ceil(ALIGN) * ALIGN
}

/// A commit being encoded: room for its header, followed by its frames.
#[derive(Debug, Default)]
pub struct CommitBuf {
    bytes: AlignedBuf,
    heads_crc: u32,
    frames: u32,
}

impl CommitBuf {
    /// Empties the buffer, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(COMMIT_HEADER_LEN);
        (self.heads_crc, self.frames) = (0, 0);
    }

    /// Adds a frame, given its header and the parts of its body.
    pub fn push(&mut self, header: &Header, body: &[&[u8]]) {
        let head = header.encode();
        self.heads_crc = crc32c::crc32c_append(self.heads_crc, &head);
        self.frames += 1;
        self.bytes.extend(&head);
        for part in body {
            self.bytes.extend(part);
        }
    }

    /// Returns true if the commit holds no frames, and so only seals the commits before it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Returns the number of bytes that the commit takes in the journal.
    #[must_use]
    pub fn len(&self) -> u64 {
        align_up(self.bytes.len() as u64)
    }

    fn seal(&mut self, file_id: u64, number: u64) -> &[u8] {
        let body_len = (self.bytes.len() - COMMIT_HEADER_LEN) as u32;
        let mut head = [0; COMMIT_HEADER_LEN];
        let mut out = &mut head[8..];
        out.put_u64_le(file_id);
        out.put_u64_le(number);
        out.put_u32_le(body_len);
        out.put_u32_le(self.frames);
        out.put_u32_le(self.heads_crc);
        let crc = crc32c::crc32c(&head[8..]);
        head[..4].copy_from_slice(&COMMIT_MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.len() as usize);
        let bytes = self.bytes.settled();
        bytes[..COMMIT_HEADER_LEN].copy_from_slice(&head);
        bytes
    }
}

/// Properties of a new journal file.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Sequence number of the journal.
    pub seq: u64,
    /// Space to reserve, in bytes.
    pub capacity: u64,
    /// Number of its first commit; all earlier commits are durable elsewhere.
    pub first_commit: u64,
}

/// The journal that is being written.
#[derive(Debug)]
pub struct Writer {
    file: Arc<dyn File>,
    /// Sequence number of the journal.
    pub seq: u64,
    id: u64,
    at: u64,
    /// Position up to which the space of the file was written before.
    written: u64,
    /// Number of small commits since the last larger one.
    small_commits: u32,
    capacity: u64,
    /// Number of the next commit.
    pub next_commit: u64,
}

/// End of the commits in a journal.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Sequence number of the journal.
    pub seq: u64,
    /// Id of the file.
    pub id: u64,
    /// Number after that of its last whole commit.
    pub next_commit: u64,
    /// Position after its last whole commit, in bytes.
    pub at: u64,
    /// Position of its last whole commit, in bytes; none if there is none, or if that commit was durable
    /// before the file got its name.
    pub last: Option<u64>,
}

/// Times at which a commit was written and synced.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    /// Time at which the write finished.
    pub written: Instant,
    /// Time at which the sync finished.
    pub synced: Instant,
}

impl Writer {
    /// Creates a journal under a temporary name, with `first` (if any) as its first commit, syncs it and
    /// renames it into place. `spare` is an old file to overwrite, whose space is already allocated.
    ///
    /// # Errors
    /// Returns the disk's error. A full disk leaves nothing behind but the temporary file.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        spec: Spec,
        spare: Option<&Path>,
        first: Option<&mut CommitBuf>,
    ) -> io::Result<Self> {
        let making = dir.join("journal.tmp");
        let made = Self::make(disk, &making, spec, spare, first);
        let writer = made.inspect_err(|_| {
            // A file that nobody writes to must not take space on a full disk.
            let _ = disk.remove(&making);
        })?;
        // From here on the next start may find the journal, so no error may be taken for a full disk, which
        // is temporary.
        disk.rename(&making, &dir.join(file_name(spec.seq))).map_err(io::Error::other)?;
        disk.sync_dir(dir).map_err(io::Error::other)?;
        Ok(writer)
    }

    fn make(
        disk: &dyn Disk,
        making: &Path,
        spec: Spec,
        spare: Option<&Path>,
        first: Option<&mut CommitBuf>,
    ) -> io::Result<Self> {
        let file = match spare {
            Some(spare) => {
                disk.rename(spare, making)?;
                disk.open(making, Mode::Write)?
            }
            None => disk.open(making, Mode::Create)?,
        };
        file.allocate(spec.capacity)?;
        // Nobody needs its pages in the page cache: records are read from the tail cache or from segments.
        file.bypass_cache();
        let id = random_id()?;
        let mut writer = Self {
            file,
            seq: spec.seq,
            id,
            at: ALIGN,
            // A spare was most likely written to its end. If it was not, the first sync of each unwritten
            // part is slower.
            written: if spare.is_some() { spec.capacity } else { ALIGN },
            small_commits: 0,
            capacity: spec.capacity,
            next_commit: spec.first_commit,
        };
        writer.file.write_at(file_header(id, spec.first_commit, first.is_some()).settled(), 0)?;
        match first {
            Some(commit) => drop(writer.append(commit)?),
            None => writer.file.sync()?,
        }
        Ok(writer)
    }

    /// Continues in an existing journal, which takes no new space. Its last commit is first written again in
    /// place and synced, because it may be only in the system's cache; the next commit follows it.
    ///
    /// # Errors
    /// Returns the disk's error.
    pub fn go_on(disk: &dyn Disk, dir: &Path, end: &End, last: Option<&mut CommitBuf>) -> io::Result<Self> {
        let file = disk.open(&dir.join(file_name(end.seq)), Mode::Write)?;
        file.bypass_cache();
        let capacity = file.size()? / ALIGN * ALIGN;
        let (seq, id) = (end.seq, end.id);
        let (at, written, next_commit) = (end.at, end.at, end.next_commit);
        let mut writer = Self { file, seq, id, at, written, small_commits: 0, capacity, next_commit };
        match (last, end.last) {
            (Some(commit), Some(at)) => {
                (writer.at, writer.next_commit) = (at, next_commit - 1);
                match writer.append(commit) {
                    // This file system does not write in place, and the file already holds the same bytes.
                    Err(error) if disk::is_full(&error) => {
                        writer.file.sync()?;
                        (writer.at, writer.next_commit) = (end.at, next_commit);
                    }
                    written => drop(written?),
                }
            }
            _ => writer.file.sync()?,
        }
        Ok(writer)
    }

    /// Returns true if a commit of `len` bytes fits.
    #[must_use]
    pub const fn has_room(&self, len: u64) -> bool {
        self.at + len <= self.capacity
    }

    /// Writes a commit and syncs it. Returns the times of both.
    ///
    /// # Errors
    /// Returns the disk's error. The commit may or may not be in the file then.
    pub fn append(&mut self, commit: &mut CommitBuf) -> io::Result<Synced> {
        let bytes = commit.seal(self.id, self.next_commit);
        let begun = Instant::now();
        let end = self.at + bytes.len() as u64;
        self.small_commits =
            if bytes.len() as u64 > SMALL_COMMIT { 0 } else { self.small_commits.saturating_add(1) };
        // The zeros are written first: a commit that is refused because they do not fit must not be in the
        // file.
        self.write_ahead(end)?;
        self.file.write_at(bytes, self.at)?;
        let written = Instant::now();
        // After a failed sync it is unknown what is on disk, whatever the reason.
        self.file.sync().map_err(io::Error::other)?;
        METRICS.storage.write.record_time(written - begun);
        let synced = Instant::now();
        METRICS.storage.sync.record_time(synced - written);
        self.at = end;
        self.next_commit += 1;
        Ok(Synced { written, synced })
    }

    /// Writes zeros from `end` on, if the next commits benefit from them.
    fn write_ahead(&mut self, end: u64) -> io::Result<()> {
        if end <= self.written {
            return Ok(());
        }
        let ahead = if self.small_commits < SMALL_COMMITS { 0 } else { ZEROS_AHEAD };
        self.written = (end + ahead).min(self.capacity / ALIGN * ALIGN).max(end);
        self.file.write_at(AlignedBuf::zeros((self.written - end) as usize).settled(), end)
    }
}

/// Generates a number that nobody can guess, so that no payload can look like a commit of this file.
fn random_id() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

fn file_header(id: u64, first_commit: u64, copied: bool) -> AlignedBuf {
    let mut body = Vec::with_capacity(32);
    body.put_u32_le(VERSION);
    body.put_u32_le(u32::from(copied));
    body.put_u64_le(id);
    body.put_u64_le(first_commit);
    let mut header = AlignedBuf::zeros(ALIGN as usize);
    let bytes = header.settled();
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes[12..12 + body.len()].copy_from_slice(&body);
    header
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
