//! Frames of a backup file. Only bytes whose checksum matches are returned.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use bytes::Bytes;

const MAGIC: &[u8; 16] = b"streamway-backup";
/// The version that is written. Earlier ones are still read: version 2 holds neither groups nor request ids, and version 1 does not say
/// where a topic ends either.
pub(super) const VERSION: u32 = 3;
/// Length of the file header: magic, version, and the checksum of both.
pub(super) const HEADER_LEN: u64 = 24;
/// Length of a frame's header: length of the body, kind, checksum.
pub(super) const FRAME_HEADER_LEN: usize = 12;
/// Maximum length of a body: a batch at its configured limit (at most 16 MiB), and what surrounds it.
pub(super) const BODY_MAX: u32 = 24 << 20;
/// Size of the read and write buffers.
pub(super) const BUFFER: usize = 1 << 20;

/// Kind of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// An encoded `streamway.v1.Topic`. The topic's groups and batches follow.
    Topic = 1,
    /// One batch, as a `batches` field of a `SubscribeResponse`.
    Batch = 2,
    /// The end of a topic: its numbers of records and batches, and its tail, 8 bytes each, little-endian. Version 1 has
    /// no tail.
    TopicEnd = 3,
    /// The end of the file: the number of topics, 8 bytes, little-endian.
    End = 4,
    /// Request ids of the topic, as an encoded `streamway.v1.ListRequestIdsResponse`. They stand among its batches.
    RequestIds = 5,
    /// A part of a group of the topic, as an encoded `streamway.v1.SavedGroup`. All groups of a topic come before its
    /// batches.
    Group = 6,
}

impl Kind {
    const fn of(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Topic),
            2 => Some(Self::Batch),
            3 => Some(Self::TopicEnd),
            4 => Some(Self::End),
            5 => Some(Self::RequestIds),
            6 => Some(Self::Group),
            _ => None,
        }
    }
}

/// Reason for which a file cannot be read.
#[derive(Debug)]
pub(super) enum Bad {
    /// The disk returned an error.
    Io(io::Error),
    /// The file is no backup, or one of a version that this program does not know.
    Foreign(String),
    /// The file is a backup that is not as it was written.
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
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) chain: u32,
}

pub(super) fn header(version: u32) -> ([u8; HEADER_LEN as usize], Place) {
    let mut bytes = [0; HEADER_LEN as usize];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&version.to_le_bytes());
    let chain = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&chain.to_le_bytes());
    (bytes, Place { at: HEADER_LEN, chain })
}

/// Reader of a file's frames, one after the other.
#[derive(Debug)]
pub(super) struct Frames {
    file: BufReader<File>,
    /// Position after the last valid frame.
    pub(super) place: Place,
    /// Version of the file, from 1.
    pub(super) version: u32,
}

impl Frames {
    /// Reads the header of a file.
    pub(super) fn new(file: File) -> Result<Self, Bad> {
        let foreign = || Bad::Foreign("it is no backup of streamway".to_owned());
        let mut file = BufReader::with_capacity(BUFFER, file);
        let mut found = [0; HEADER_LEN as usize];
        match file.read_exact(&mut found) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(foreign()),
            Err(error) => return Err(Bad::Io(error)),
        }
        if found[..16] != MAGIC[..] {
            return Err(foreign());
        }
        let version = u32::from_le_bytes(found[16..20].try_into().expect("four bytes"));
        let (wanted, place) = header(version);
        if found != wanted || version == 0 {
            return Err(Bad::Damaged("its header is damaged"));
        }
        if version > VERSION {
            return Err(Bad::Foreign(format!("it is of version {version}, which a newer streamway reads")));
        }
        Ok(Self { file, place, version })
    }

    /// Continues to read a file of this version from a place that was read before.
    pub(super) fn at(mut file: File, place: Place, version: u32) -> io::Result<Self> {
        file.seek(SeekFrom::Start(place.at))?;
        Ok(Self { file: BufReader::with_capacity(BUFFER, file), place, version })
    }

    /// Returns true if nothing follows.
    pub(super) fn is_over(&mut self) -> io::Result<bool> {
        Ok(self.file.read(&mut [0])? == 0)
    }

    /// Reads the next frame.
    pub(super) fn next(&mut self) -> Result<(Kind, Bytes), Bad> {
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
