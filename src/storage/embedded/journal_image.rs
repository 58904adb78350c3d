//! A journal file read into memory: its commits, verified, and the end of what was acknowledged (P10).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Buf;

use super::disk::Disk;
use super::frame::{HEADER_LEN as FRAME_HEADER_LEN, Header};
use super::journal::{ALIGN, COMMIT_HEADER_LEN, COMMIT_MAGIC, CommitBuf, End, MAGIC, VERSION, align_up};
use super::open::OpenError;

/// A commit as read from a journal.
#[derive(Debug)]
pub struct Commit<'a> {
    /// Number of the commit.
    pub number: u64,
    /// Frames of the commit, with bodies whose checksums were verified.
    pub frames: Vec<(Header, &'a [u8])>,
}

impl Commit<'_> {
    /// Encodes the same commit, to be written again.
    #[must_use]
    pub fn to_buf(&self) -> CommitBuf {
        let mut commit = CommitBuf::default();
        commit.clear();
        for (header, body) in &self.frames {
            commit.push(header, &[body]);
        }
        commit
    }
}

/// A journal file read into memory, to be replayed.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    id: u64,
    /// Number of its first commit.
    pub first_commit: u64,
    /// True if that commit was copied from an earlier journal, which proves that it was acknowledged.
    pub copied: bool,
}

impl Image {
    /// Reads a journal file.
    ///
    /// # Errors
    /// Fails if the disk does, if the format is newer, or if the header is damaged.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        let missing = || OpenError::io(path, io::ErrorKind::NotFound.into());
        let bytes = super::disk::read_file(disk, path).map_err(|e| OpenError::io(path, e))?;
        Self::parse(path, bytes.ok_or_else(missing)?)
    }

    /// Reads a journal whose header is damaged, and identifies it by its first commit with a number above
    /// `above`: commits of an earlier use of the space have lower numbers. Returns none if there is no such
    /// commit.
    ///
    /// # Errors
    /// Returns the disk's error.
    pub fn without_header(disk: &dyn Disk, path: &Path, above: u64) -> Result<Option<Self>, OpenError> {
        let bytes = super::disk::read_file(disk, path).map_err(|e| OpenError::io(path, e))?;
        let mut image = Self {
            path: path.into(),
            bytes: bytes.unwrap_or_default(),
            id: 0,
            first_commit: 0,
            copied: false,
        };
        for at in (ALIGN as usize..image.bytes.len()).step_by(ALIGN as usize) {
            let Some(head) = image.bytes.get(at + 8..at + 24) else { break };
            let (mut id, mut number) = (&head[..8], &head[8..]);
            image.id = id.get_u64_le();
            image.first_commit = number.get_u64_le();
            if image.first_commit > above && image.commit_header(at).is_some() {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, OpenError> {
        let damaged = || OpenError::damaged(path, "journal header is damaged");
        let head = bytes.get(..ALIGN as usize).ok_or_else(damaged)?;
        let mut body = &head[12..36];
        if &head[..8] != MAGIC || crc32c::crc32c(body).to_le_bytes() != head[8..12] {
            return Err(damaged());
        }
        let (version, copied) = (body.get_u32_le(), body.get_u32_le() != 0);
        if version > VERSION {
            return Err(OpenError::NewerFormat { path: path.into(), version });
        }
        let (id, first_commit) = (body.get_u64_le(), body.get_u64_le());
        Ok(Self { path: path.into(), bytes, id, first_commit, copied })
    }

    /// Passes every commit to `visit`, in order, up to (not including) number `before`, which is the first
    /// commit of the next file. The last file has no `before`, and ends after its last whole commit. Returns
    /// the end of the commits in this file, which is journal `seq`.
    ///
    /// # Errors
    /// Returns [`OpenError::Damaged`] if a commit that was acknowledged is not whole (P10), or the error of
    /// `visit`.
    pub fn replay(
        &self,
        seq: u64,
        before: Option<u64>,
        mut visit: impl FnMut(&Commit<'_>) -> Result<(), OpenError>,
    ) -> Result<End, OpenError> {
        let (mut at, mut number, mut last) = (ALIGN as usize, self.first_commit, None);
        while before.is_none_or(|before| number < before) {
            let Some((commit, len)) = self.commit(at, number) else {
                self.check_torn(at, number, before)?;
                break;
            };
            visit(&commit)?;
            let copied = self.copied && number == self.first_commit;
            last = (!copied).then_some(at as u64);
            at += len;
            number += 1;
        }
        Ok(End { seq, id: self.id, next_commit: number, at: at as u64, last })
    }

    /// Returns an error unless the bytes at `at`, which are no whole commit, can only be a torn tail, which
    /// was never acknowledged.
    fn check_torn(&self, at: usize, number: u64, before: Option<u64>) -> Result<(), OpenError> {
        let copied = self.copied && number == self.first_commit;
        if before.is_some() || copied || self.next_commit(at, number).is_some() {
            let what = format!("commit {number} at byte {at} is damaged, and was acknowledged");
            return Err(OpenError::damaged(&self.path, what));
        }
        Ok(())
    }

    /// Returns the length of the file, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Finds the next commit header of this file from `at` on with a number above `number`. Returns its
    /// position and its number.
    #[must_use]
    pub fn next_commit(&self, at: usize, number: u64) -> Option<(usize, u64)> {
        let places = (at..self.bytes.len()).step_by(ALIGN as usize);
        let mut heads = places.filter_map(|at| Some((at, self.commit_header(at)?.number)));
        heads.find(|(_, found)| *found > number)
    }

    /// Returns the bytes of the frames of commit `number` at `at`; none if its header is not whole.
    #[must_use]
    pub fn commit_body(&self, at: usize, number: u64) -> Option<&[u8]> {
        let head = self.commit_header(at).filter(|head| head.number == number)?;
        self.bytes.get(at + COMMIT_HEADER_LEN..at + COMMIT_HEADER_LEN + head.body_len)
    }

    fn commit_header(&self, at: usize) -> Option<CommitHead> {
        let head = self.bytes.get(at..at + COMMIT_HEADER_LEN)?;
        let (mut prefix, mut body) = (&head[..8], &head[8..]);
        if prefix.get_u32_le() != COMMIT_MAGIC || prefix.get_u32_le() != crc32c::crc32c(body) {
            return None;
        }
        (body.get_u64_le() == self.id).then(|| CommitHead {
            number: body.get_u64_le(),
            body_len: body.get_u32_le() as usize,
            frames: body.get_u32_le(),
            heads_crc: body.get_u32_le(),
        })
    }

    /// Reads commit `number` at `at`. Returns it and the bytes it takes; none if it is not whole.
    #[must_use]
    pub fn commit(&self, at: usize, number: u64) -> Option<(Commit<'_>, usize)> {
        let head = self.commit_header(at).filter(|head| head.number == number)?;
        let start = at + COMMIT_HEADER_LEN;
        let body = self.bytes.get(start..start + head.body_len)?;
        let (mut frames, mut rest, mut heads_crc) = (Vec::new(), body, 0);
        while !rest.is_empty() {
            let (header, frame_body) = Header::decode_frame(rest).ok()?;
            heads_crc = crc32c::crc32c_append(heads_crc, &rest[..FRAME_HEADER_LEN]);
            frames.push((header, frame_body));
            rest = &rest[header.frame_len()..];
        }
        let whole = frames.len() == head.frames as usize && heads_crc == head.heads_crc;
        let len = align_up((COMMIT_HEADER_LEN + head.body_len) as u64) as usize;
        whole.then_some((Commit { number, frames }, len))
    }
}

struct CommitHead {
    number: u64,
    body_len: usize,
    frames: u32,
    heads_crc: u32,
}
