//! The catalog: every topic with its settings and segments, as of one synced commit. It is written as a whole
//! and put in place by an atomic rename, never changed in place. Changes between two catalogs go through the
//! journal as [`Change`]s.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut};
use prost::Message;

use super::disk::Disk;
use super::open::OpenError;
use super::reserve;
use crate::record::{Epoch, Offset};
use crate::storage::{Ancestor, Lineage, Retention};

/// The catalog's file name.
pub const FILE_NAME: &str = "catalog";
const MAGIC: &[u8; 8] = b"STRMWYC1";
/// The version that is written. Version 1, which is read too, has no lineages.
const VERSION: u32 = 2;
const HEADER_LEN: usize = 24;

/// The catalog's content.
#[derive(Clone, PartialEq, Message)]
pub struct Catalog {
    /// Number of the synced commit whose state this is; later commits are replayed.
    #[prost(uint64, tag = "1")]
    pub commit: u64,
    /// Sequence number of the first journal that holds later commits.
    #[prost(uint64, tag = "2")]
    pub journal: u64,
    /// Id of the next topic to be created.
    #[prost(uint64, tag = "3")]
    pub next_topic: u64,
    /// The newest publish time, in microseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub clock: u64,
    /// Every topic.
    #[prost(message, repeated, tag = "5")]
    pub topics: Vec<TopicEntry>,
    /// Files of the remembered request ids, oldest first.
    #[prost(message, repeated, tag = "6")]
    pub ids: Vec<IdsEntry>,
    /// Newest commit known to be acknowledged: journals that end before it are damaged. A clean stop sets it;
    /// 0 if it is not known.
    #[prost(uint64, tag = "7")]
    pub last_acked_commit: u64,
}

/// One topic.
#[derive(Clone, PartialEq, Message)]
pub struct TopicEntry {
    /// Number of the topic, which is never used again.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name of the topic.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Epoch of this incarnation of the topic.
    #[prost(fixed64, tag = "3")]
    pub epoch: u64,
    /// Time at which it was created, in microseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub created: u64,
    /// Time at which its settings last changed.
    #[prost(uint64, tag = "5")]
    pub updated: u64,
    /// Limits on the records that are kept.
    #[prost(message, optional, tag = "6")]
    pub retention: Option<RetentionEntry>,
    /// The oldest offset kept.
    #[prost(uint64, tag = "7")]
    pub earliest: u64,
    /// Offset of the next record to be stored.
    #[prost(uint64, tag = "8")]
    pub tail: u64,
    /// Time at which the newest batch was stored; 0 if there never was one.
    #[prost(uint64, tag = "9")]
    pub last_publish: u64,
    /// Segments of the topic, in order.
    #[prost(message, repeated, tag = "10")]
    pub segments: Vec<SegmentEntry>,
    /// Earlier incarnations that it was restored from, the newest first.
    #[prost(message, repeated, tag = "11")]
    pub restored_from: Vec<AncestorEntry>,
}

/// An earlier incarnation that a topic was restored from.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AncestorEntry {
    /// Epoch of the topic.
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    /// Offset up to which its positions are valid.
    #[prost(uint64, tag = "2")]
    pub cut: u64,
}

impl From<&Ancestor> for AncestorEntry {
    fn from(ancestor: &Ancestor) -> Self {
        Self { epoch: ancestor.epoch.get(), cut: ancestor.cut.get() }
    }
}

impl TopicEntry {
    /// Earlier incarnations of the topic. Those that break a rule, which no version writes, are not known.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        let ancestor =
            |entry: &AncestorEntry| Ancestor { epoch: Epoch::new(entry.epoch), cut: Offset::new(entry.cut) };
        Lineage::new(self.restored_from.iter().map(ancestor).collect()).unwrap_or_default()
    }
}

/// One segment file.
#[derive(Clone, PartialEq, Message)]
pub struct SegmentEntry {
    /// Offset of the first record, which is in the file's name.
    #[prost(uint64, tag = "1")]
    pub base: u64,
    /// Offset after the last record.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// Length of the valid part of the file, in bytes.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// Time at which the first batch was stored.
    #[prost(uint64, tag = "4")]
    pub first_time: u64,
    /// Time at which the last batch was stored.
    #[prost(uint64, tag = "5")]
    pub last_time: u64,
}

/// Retention limits of one topic. Zero means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RetentionEntry {
    /// Maximum age, in microseconds.
    #[prost(uint64, tag = "1")]
    pub max_age: u64,
    /// Maximum size, in bytes of blocks.
    #[prost(uint64, tag = "2")]
    pub max_bytes: u64,
    /// Maximum number of records.
    #[prost(uint64, tag = "3")]
    pub max_records: u64,
}

/// One file of request ids.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IdsEntry {
    /// Number of the file, which is in its name.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Length of the file, in bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
    /// Number of request ids in the file.
    #[prost(uint64, tag = "3")]
    pub count: u64,
    /// Time at which the newest id was stored.
    #[prost(uint64, tag = "4")]
    pub last_time: u64,
    /// CRC32C of the whole file; none if an earlier version of the program wrote it.
    #[prost(fixed32, optional, tag = "5")]
    pub crc: Option<u32>,
}

/// Change of the catalog, as the journal stores it.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    /// Content of the change.
    #[prost(oneof = "ChangeKind", tags = "1, 2, 3, 4")]
    pub kind: Option<ChangeKind>,
}

/// Content of a [`Change`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ChangeKind {
    /// A new topic, without segments.
    #[prost(message, tag = "1")]
    Create(TopicEntry),
    /// New settings: only `id`, `retention` and `updated` are set.
    #[prost(message, tag = "2")]
    Update(TopicEntry),
    /// Deletion of the topic with this id.
    #[prost(uint64, tag = "3")]
    Delete(u64),
    /// A new earliest offset: only `id` and `earliest` are set.
    #[prost(message, tag = "4")]
    Trim(TopicEntry),
}

impl From<Retention> for RetentionEntry {
    fn from(retention: Retention) -> Self {
        let micros = |age: std::time::Duration| u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        Self {
            max_age: retention.max_age.map_or(0, micros),
            max_bytes: retention.max_bytes.unwrap_or(0),
            max_records: retention.max_records.unwrap_or(0),
        }
    }
}

impl From<RetentionEntry> for Retention {
    fn from(entry: RetentionEntry) -> Self {
        let some = |value: u64| (value != 0).then_some(value);
        Self {
            max_age: some(entry.max_age).map(std::time::Duration::from_micros),
            max_bytes: some(entry.max_bytes),
            max_records: some(entry.max_records),
        }
    }
}

impl Catalog {
    /// Writes the catalog to a temporary file, syncs it and renames it over the current one. On a full disk
    /// it uses the space of the reserve, which is then filled up again as far as there is room.
    ///
    /// # Errors
    /// Returns the disk's error; the current catalog is still in place then.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let body = self.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(crc32c::crc32c(&body));
        bytes.put_u64_le(body.len() as u64);
        bytes.put_slice(&body);
        let making = dir.join("catalog.tmp");
        reserve::write(disk, dir, &making, &bytes)?;
        disk.rename(&making, &dir.join(FILE_NAME))?;
        disk.sync_dir(dir)?;
        reserve::keep(disk, dir, bytes.len() as u64);
        Ok(())
    }

    /// Reads the catalog; returns none if there is no such file.
    ///
    /// # Errors
    /// Fails if the disk does, if the format is newer, or if the catalog is damaged.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE_NAME);
        let bytes = super::disk::read_file(disk, &path).map_err(|e| OpenError::io(&path, e))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let damaged = || OpenError::damaged(&path, "catalog is damaged");
        let (mut head, body) = bytes.split_at_checked(HEADER_LEN).ok_or_else(damaged)?;
        if &head[..8] != MAGIC {
            return Err(damaged());
        }
        head.advance(8);
        let (version, crc, len) = (head.get_u32_le(), head.get_u32_le(), head.get_u64_le());
        if version > VERSION {
            return Err(OpenError::NewerFormat { path, version });
        }
        if version == 0 || len != body.len() as u64 || crc != crc32c::crc32c(body) {
            return Err(damaged());
        }
        Self::decode(body).map(Some).map_err(|_| damaged())
    }
}

#[cfg(test)]
mod tests {
    use super::{Catalog, FILE_NAME, OpenError, TopicEntry};
    use crate::storage::embedded::disk::sim::SimDisk;
    use std::path::Path;

    const DIR: &str = "/log";

    fn written() -> (SimDisk, Catalog) {
        let disk = SimDisk::default();
        let topic = TopicEntry { id: 7, name: "orders".into(), tail: 9, ..TopicEntry::default() };
        let catalog = Catalog { commit: 3, journal: 2, topics: vec![topic], ..Catalog::default() };
        catalog.write(&disk, Path::new(DIR)).unwrap();
        (disk, catalog)
    }

    fn changed(at: usize, value: u8) -> Result<Option<Catalog>, OpenError> {
        let mut files = written().0.files();
        files.get_mut(&Path::new(DIR).join(FILE_NAME)).unwrap()[at] = value;
        Catalog::read(&SimDisk::with(&files), Path::new(DIR))
    }

    #[test]
    fn what_was_written_is_read_and_what_is_not_there_is_none() {
        let (disk, catalog) = written();
        assert_eq!(Catalog::read(&disk, Path::new(DIR)).unwrap(), Some(catalog));
        assert_eq!(Catalog::read(&SimDisk::default(), Path::new(DIR)).unwrap(), None);
    }

    /// P10: damage and a newer format are refused, each with its own error.
    #[test]
    fn damage_and_newer_formats_are_refused() {
        assert!(matches!(changed(8, 3), Err(OpenError::NewerFormat { version: 3, .. })));
        for at in [0, 12, 16, 24, 30] {
            assert!(matches!(changed(at, 0xff), Err(OpenError::Damaged { .. })), "byte {at}");
        }
    }
}
