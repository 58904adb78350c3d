//! The backup file: topics and their batches, with every frame checksummed in one chain. docs/backup.md describes its
//! bytes. A file whose end is missing is never accepted as complete, and only bytes whose checksum matches are
//! returned.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::cli::{Failure, files};
use crate::file;
use crate::proto::v1;
use crate::record::block::{Block, Blocks};
use crate::record::{Epoch, Offset, Position};

const MAGIC: &[u8; 16] = b"streamway-backup";
const VERSION: u32 = 1;
/// Length of the file header: magic, version, and the checksum of both.
const HEADER_LEN: u64 = 24;
/// Length of a frame's header: length of the body, kind, checksum.
const FRAME_HEADER_LEN: usize = 12;
/// Maximum length of a body: a batch at its configured limit (at most 16 MiB), and what surrounds it.
const BODY_MAX: u32 = 24 << 20;
/// Size of the read and write buffers.
const BUFFER: usize = 1 << 20;

/// Kind of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    /// An encoded `streamway.v1.Topic`. The topic's batches follow.
    Topic = 1,
    /// One batch, as a `batches` field of a `SubscribeResponse`.
    Batch = 2,
    /// The end of a topic: its numbers of records and batches, 8 bytes each, little-endian.
    TopicEnd = 3,
    /// The end of the file: the number of topics, 8 bytes, little-endian.
    End = 4,
}

impl Kind {
    const fn of(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Topic),
            2 => Some(Self::Batch),
            3 => Some(Self::TopicEnd),
            4 => Some(Self::End),
            _ => None,
        }
    }
}

/// Reason for which a file cannot be read.
#[derive(Debug)]
enum Bad {
    Io(io::Error),
    Damaged(&'static str),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ => Self::Io(error),
        }
    }
}

/// A position in a file, and the checksum of everything before it.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    chain: u32,
}

fn header() -> ([u8; HEADER_LEN as usize], Place) {
    let mut bytes = [0; HEADER_LEN as usize];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
    let chain = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&chain.to_le_bytes());
    (bytes, Place { at: HEADER_LEN, chain })
}

/// Reader of a file's frames, one after the other.
#[derive(Debug)]
struct Frames {
    file: BufReader<File>,
    place: Place,
}

impl Frames {
    fn new(file: File) -> Result<Self, Bad> {
        let mut file = BufReader::with_capacity(BUFFER, file);
        let (wanted, place) = header();
        let mut found = [0; HEADER_LEN as usize];
        file.read_exact(&mut found).map_err(|_| Bad::Damaged("it is no backup of streamway"))?;
        if found[..16] != wanted[..16] {
            return Err(Bad::Damaged("it is no backup of streamway"));
        }
        if found != wanted {
            return Err(Bad::Damaged("its header is damaged, or of a version this streamway does not know"));
        }
        Ok(Self { file, place })
    }

    fn next(&mut self) -> Result<(Kind, Bytes), Bad> {
        let mut header = [0; FRAME_HEADER_LEN];
        self.file.read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (len, checksum) = (word(0), word(8));
        let kind = Kind::of(word(4)).ok_or(Bad::Damaged("a frame is of no kind there is"))?;
        if len > BODY_MAX {
            return Err(Bad::Damaged("a frame is longer than any can be"));
        }
        let mut body = vec![0; len as usize];
        self.file.read_exact(&mut body)?;
        let chain = crc32c::crc32c_append(crc32c::crc32c_append(self.place.chain, &header[..8]), &body);
        if chain != checksum {
            return Err(Bad::Damaged("a checksum does not match"));
        }
        self.place = Place { at: self.place.at + (FRAME_HEADER_LEN + body.len()) as u64, chain };
        Ok((kind, body.into()))
    }
}

/// Reads the single batch in a body.
fn only(body: &Bytes) -> Result<Block<'_>, Bad> {
    let mut blocks = Blocks::new(body);
    match (blocks.next(), blocks.next()) {
        (Some(Ok(block)), None) if block.count() > 0 => Ok(block),
        _ => Err(Bad::Damaged("a batch is malformed")),
    }
}

/// Contents of a backup, or of the beginning of one.
#[derive(Debug)]
struct Survey {
    topics: Vec<Saved>,
    /// Position at which the last of `topics` continues, if it has no end.
    open: Option<Position>,
    complete: bool,
    /// Position after the last valid frame.
    end: Place,
    /// Error in the bytes after `end`.
    bad: Option<Bad>,
}

/// One topic of a backup.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// The topic as it was when the backup was made.
    pub(super) topic: v1::Topic,
    batches: Place,
    counts: [u64; 2],
}

fn survey(file: File, mut progress: impl FnMut(u64)) -> Result<Survey, Bad> {
    let mut frames = Frames::new(file)?;
    let end = frames.place;
    let mut survey = Survey { topics: Vec::new(), open: None, complete: false, end, bad: None };
    while !survey.complete {
        let taken = frames.next().and_then(|(kind, body)| survey.take(kind, &body, frames.place));
        if let Err(bad) = taken {
            survey.bad = Some(bad);
            return Ok(survey);
        }
        progress(frames.place.at - survey.end.at);
        survey.end = frames.place;
    }
    if frames.file.read(&mut [0])? != 0 {
        survey.bad = Some(Bad::Damaged("something follows its end"));
    }
    Ok(survey)
}

impl Survey {
    fn take(&mut self, kind: Kind, body: &Bytes, after: Place) -> Result<(), Bad> {
        const ORDER: Bad = Bad::Damaged("its frames are in no order there is");
        match (kind, &mut self.open) {
            (Kind::Topic, None) => {
                let topic = v1::Topic::decode(&body[..]).map_err(|_| Bad::Damaged("a topic is malformed"))?;
                let epoch = Epoch::parse(&topic.epoch).ok_or(Bad::Damaged("an epoch is malformed"))?;
                self.open = Some(Position { epoch, offset: Offset::new(topic.earliest_offset) });
                self.topics.push(Saved { topic, batches: after, counts: [0; 2] });
            }
            (Kind::Batch, Some(position)) => {
                let block = only(body)?;
                if block.first < position.offset {
                    return Err(ORDER);
                }
                position.offset = block.first.plus(block.count());
                let counts = &mut self.topics.last_mut().ok_or(ORDER)?.counts;
                *counts = [counts[0] + block.count(), counts[1] + 1];
            }
            (Kind::TopicEnd, Some(_)) if body[..] == ended(self.topics.last().ok_or(ORDER)?.counts) => {
                self.open = None;
            }
            (Kind::End, None) if body[..] == (self.topics.len() as u64).to_le_bytes() => self.complete = true,
            _ => return Err(ORDER),
        }
        Ok(())
    }
}

fn ended([records, batches]: [u64; 2]) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&records.to_le_bytes());
    body[8..].copy_from_slice(&batches.to_le_bytes());
    body
}

fn refused(path: &Path, at: u64, bad: Bad) -> Failure {
    let path = path.display();
    match bad {
        Bad::Io(error) => Failure::failed(format!("cannot read {path}: {error}")),
        Bad::Damaged(why) => {
            Failure::failed(format!("{path} is damaged at byte {at}: {why}; nothing was copied from it"))
        }
    }
}

/// Opens a backup for reading. A pipe is refused, because a backup is read twice.
fn open(path: &Path) -> Result<File, Failure> {
    file::open(path, OpenOptions::new().read(true))
        .map_err(|error| Failure::failed(format!("cannot open {}: {error}", path.display())))
}

/// A complete backup that was read once and found valid.
#[derive(Debug)]
pub(super) struct Backup {
    path: PathBuf,
    pub(super) topics: Vec<Saved>,
}

impl Backup {
    /// Opens a backup and checks all of it. `progress` is called with the number of bytes of each part that was read.
    pub(super) fn open(path: &Path, progress: impl FnMut(u64)) -> Result<Self, Failure> {
        let file = open(path)?;
        let survey = survey(file, progress).map_err(|bad| refused(path, 0, bad))?;
        match survey.bad {
            Some(bad) => Err(refused(path, survey.end.at, bad)),
            None => Ok(Self { path: path.to_owned(), topics: survey.topics }),
        }
    }

    /// Returns the batches of a topic, which are checked again as they are read.
    pub(super) fn batches(&self, saved: &Saved) -> Result<SavedBatches, Failure> {
        let mut file = open(&self.path)?;
        file.seek(SeekFrom::Start(saved.batches.at))?;
        let frames = Frames { file: BufReader::with_capacity(BUFFER, file), place: saved.batches };
        Ok(SavedBatches { path: self.path.clone(), frames })
    }
}

/// The batches of one topic of a backup.
#[derive(Debug)]
pub(super) struct SavedBatches {
    path: PathBuf,
    frames: Frames,
}

impl SavedBatches {
    /// Returns the next batch, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let at = self.frames.place.at;
        match self.frames.next() {
            Ok((Kind::Batch, body)) => Ok(Some(body)),
            Ok(_) => Ok(None),
            Err(bad) => Err(refused(&self.path, at, bad)),
        }
    }
}

/// A backup that is being written. Its file name ends in `.partial` until it is complete.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    place: Place,
    counts: [u64; 2],
    topics: u64,
    /// Topics that an earlier run finished.
    pub(super) done: HashSet<String>,
    /// True if the file is complete but not renamed yet.
    pub(super) is_complete: bool,
    /// The topic in which an earlier run was interrupted, and the position at which it continues.
    pub(super) open: Option<(v1::Topic, Position)>,
}

impl Writer {
    /// Starts a backup, or continues one that was interrupted.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            return Err(Failure::failed(format!("{} is there already; name another file", path.display())));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let cannot =
            |error: io::Error| Failure::failed(format!("cannot write {}: {error}", partial.display()));
        let mut file = files::open_kept(&partial).map_err(cannot)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!("{} is being written by another process", partial.display()))
        })?;
        if file.metadata().map_err(cannot)?.len() < HEADER_LEN {
            file.set_len(0).map_err(cannot)?;
            file.write_all(&header().0).map_err(cannot)?;
            file.rewind().map_err(cannot)?;
        }
        let found =
            survey(file.try_clone().map_err(cannot)?, |_| ()).map_err(|bad| refused(&partial, 0, bad))?;
        if let Some(Bad::Io(error)) = found.bad {
            return Err(cannot(error));
        }
        // The bytes after the last complete frame are from a write that was interrupted.
        file.set_len(found.end.at).map_err(cannot)?;
        file.seek(SeekFrom::Start(found.end.at)).map_err(cannot)?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER, file),
            place: found.end,
            counts: [0; 2],
            topics: found.topics.len() as u64,
            done: found.topics.iter().map(|saved| saved.topic.name.clone()).collect(),
            open: None,
            is_complete: found.complete,
            partial,
        };
        if let (Some(position), Some(last)) = (found.open, found.topics.last()) {
            writer.counts = last.counts;
            writer.done.remove(&last.topic.name);
            writer.open = Some((last.topic.clone(), position));
        }
        Ok(writer)
    }

    /// Returns the path of the unfinished file.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    fn put(&mut self, kind: Kind, body: &[u8]) -> Result<(), Failure> {
        let mut header = [0; FRAME_HEADER_LEN];
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= BODY_MAX);
        let len = len.ok_or_else(|| Failure::failed("a batch is longer than a backup takes"))?;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
        let chain = crc32c::crc32c_append(crc32c::crc32c_append(self.place.chain, &header[..8]), body);
        header[8..].copy_from_slice(&chain.to_le_bytes());
        self.file.write_all(&header).and_then(|()| self.file.write_all(body)).map_err(|e| self.cannot(&e))?;
        self.place = Place { at: self.place.at + (FRAME_HEADER_LEN + body.len()) as u64, chain };
        Ok(())
    }

    fn cannot(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot write {}: {error}", self.partial.display()))
    }

    pub(super) fn begin(&mut self, topic: &v1::Topic) -> Result<(), Failure> {
        (self.counts, self.topics) = ([0; 2], self.topics + 1);
        self.put(Kind::Topic, &topic.encode_to_vec())
    }

    pub(super) fn batch(&mut self, block: &Block<'_>) -> Result<(), Failure> {
        self.counts = [self.counts[0] + block.count(), self.counts[1] + 1];
        self.put(Kind::Batch, block.bytes)
    }

    pub(super) fn end(&mut self) -> Result<(), Failure> {
        self.put(Kind::TopicEnd, &ended(self.counts))?;
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(|error| self.cannot(&error))
    }

    /// Completes the file. All of it is on disk before it gets its final name.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        if !self.is_complete {
            self.put(Kind::End, &self.topics.to_le_bytes())?;
        }
        let mut rename = || -> io::Result<()> {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            files::finish_kept(&self.partial, &self.path)
        };
        rename().map_err(|error| Failure::failed(format!("cannot write {}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::Backup;

    #[test]
    fn a_pipe_is_no_backup_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let refused = Backup::open(&pipe, |_| ()).unwrap_err();
        assert!(refused.message.contains("not a regular file"), "{}", refused.message);
    }
}
