//! The ids files, in which the window of request ids survives a restart. Each holds the request ids of one
//! checkpoint, so that the whole window is not written again every time. A file never changes once it is
//! written.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::catalog::IdsEntry;
use super::checkpoint_queue::Snapshot;
use super::commit::Pending;
use super::disk::{Disk, Mode};
use super::frame::{self, Header, Kind};
use super::open::OpenError;
use super::reserve;
use crate::record::{Offset, UnixMicros};
use crate::storage::contract::FirstIds;
use crate::storage::window::{Stored, Window};

/// Returns the name of ids file `seq`.
#[must_use]
pub fn file_name(seq: u64) -> String {
    format!("ids-{seq:016x}.log")
}

/// Returns the number in an ids file's name.
#[must_use]
pub fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("ids-")?.strip_suffix(".log")?;
    (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

/// Writes and syncs the snapshot's request ids to a file with the number of its commit. Returns none if there
/// are no request ids.
///
/// # Errors
/// Returns the disk's error.
pub fn write(disk: &dyn Disk, dir: &Path, snapshot: &Snapshot) -> io::Result<Option<IdsEntry>> {
    let mut out = FileOut::default();
    // The request ids of a deleted topic can never be repeated.
    let is_kept = |item: &&Pending| !item.ids.is_empty() && !item.topic.state.is_deleted();
    let mut items: Vec<_> = snapshot.pending.iter().filter(is_kept).collect();
    // The ids of each topic stand together, in the order of their commits, so that a listing of one topic reads no others.
    items.sort_by_key(|item| item.topic.id);
    for item in items {
        out.push(item.topic.id, (item.run.first, item.run.end), item.run.last_time, &item.ids);
    }
    out.write(disk, dir, snapshot.commit)
}

/// An ids file being built.
#[derive(Debug, Default)]
pub struct FileOut {
    bytes: Vec<u8>,
    count: u64,
    last_time: UnixMicros,
}

impl FileOut {
    /// Adds the ids section of batches of `topic` with these offsets, stored at `time`.
    pub fn push(&mut self, topic: u64, (first, end): (Offset, Offset), time: UnixMicros, ids: &[u8]) {
        let header = Header {
            kind: Kind::Ids,
            body_crc: crc32c::crc32c(ids),
            blocks_len: 0,
            ids_len: ids.len() as u32,
            batches: 0,
            topic,
            first,
            end,
            first_time: time,
            last_time: time,
        };
        self.bytes.extend_from_slice(&header.encode());
        self.bytes.extend_from_slice(ids);
        self.count += frame::ids(ids).count() as u64;
        self.last_time = self.last_time.max(time);
    }

    /// Writes and syncs file `seq`; returns none if there is nothing to write.
    ///
    /// # Errors
    /// Returns the disk's error.
    pub fn write(self, disk: &dyn Disk, dir: &Path, seq: u64) -> io::Result<Option<IdsEntry>> {
        if self.count == 0 {
            return Ok(None);
        }
        reserve::write(disk, dir, &dir.join(file_name(seq)), &self.bytes)?;
        let len = self.bytes.len() as u64;
        let crc = Some(crc32c::crc32c(&self.bytes));
        Ok(Some(IdsEntry { seq, len, count: self.count, last_time: self.last_time.0, crc }))
    }
}

/// Reads an ids file into the window.
///
/// # Errors
/// Fails if the disk does, or if the file is damaged.
pub fn read(disk: &dyn Disk, dir: &Path, entry: &IdsEntry, window: &mut Window) -> Result<(), OpenError> {
    let path = dir.join(file_name(entry.seq));
    let file = match disk.open(&path, Mode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::damaged(&path, "file is missing"));
        }
        Err(error) => return Err(OpenError::io(&path, error)),
    };
    let mut bytes = vec![0; entry.len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(|e| OpenError::io(&path, e))?;
    let mut rest = &bytes[..read];
    if read < bytes.len() {
        return Err(OpenError::damaged(&path, "file is shorter than the catalog says"));
    }
    // Every frame may be intact although this is the wrong file.
    if entry.crc.is_some_and(|crc| crc != crc32c::crc32c(rest)) {
        return Err(OpenError::damaged(&path, "file is not what the catalog says"));
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let frame = Header::decode_frame(rest).map_err(|bad| OpenError::damaged(&path, bad.to_string()))?;
        rest = &rest[frame.0.frame_len()..];
        frames.push(frame);
    }
    // The window takes ids fastest in the order in which they were stored.
    frames.sort_by_key(|(header, _)| header.last_time);
    for (header, body) in frames {
        insert(&header, body, window);
    }
    Ok(())
}

/// Takes the ids of an ids section but for those of earlier versions, which say neither whose they are nor what was stored.
pub fn take(section: &[u8], found: &mut FirstIds) {
    for entry in frame::ids(section) {
        if let Some(mark) = entry.mark {
            found.add(entry.first, entry.id, mark.scope);
        }
    }
}

/// Takes the ids of sections that are in the order of their commits. Sections outside what `found` looks for are skipped.
pub fn take_sections(sections: &[Bytes], found: &mut FirstIds) {
    let first = |section: &Bytes| frame::ids(section).next().map(|entry| entry.first);
    for (n, section) in sections.iter().enumerate() {
        if first(section).is_some_and(|first| !found.wants(first)) {
            return;
        }
        let next = sections.get(n + 1).and_then(first);
        if next.is_none_or(|next| next > found.from()) {
            take(section, found);
        }
    }
}

/// Inserts the ids section of a frame into the window.
pub fn insert(header: &Header, ids: &[u8], window: &mut Window) {
    for entry in frame::ids(ids) {
        let (time, count) = (header.last_time, entry.count);
        let (key, owner) = window.marked(header.topic, entry.id, entry.mark);
        let content = entry.mark.map_or(0, |mark| mark.content);
        let stored = Stored { first: entry.first, span: count, content, owner, time, at: window.at(time) };
        window.insert(key, stored, window.at(UnixMicros(u64::MAX)));
    }
}
