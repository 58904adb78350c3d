//! The ids files: the request ids of one checkpoint each, so that the window survives a restart
//! without being written anew every time.
//! Never: changed once written.

use std::io;
use std::path::Path;

use super::backlog::Snapshot;
use super::catalog::IdsEntry;
use super::disk::{Disk, Mode};
use super::frame::{self, Header, Kind};
use super::group::Pending;
use super::open::OpenError;
use crate::storage::window::{Stored, Window};

/// The name of ids file `seq`.
#[must_use]
pub fn file_name(seq: u64) -> String {
    format!("ids-{seq:016x}.log")
}

fn push_frame(item: &Pending, out: &mut Vec<u8>) {
    let run = &item.run;
    let header = Header {
        kind: Kind::Ids,
        body_crc: crc32c::crc32c(&item.ids),
        blocks_len: 0,
        ids_len: item.ids.len() as u32,
        batches: 0,
        topic: item.topic.id,
        first: run.first,
        end: run.end,
        first_time: run.first_time,
        last_time: run.last_time,
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(&item.ids);
}

/// Writes and syncs the snapshot's request ids; none where it has none. Named after its group.
///
/// # Errors
/// The disk's.
pub fn write(disk: &dyn Disk, dir: &Path, snapshot: &Snapshot) -> io::Result<Option<IdsEntry>> {
    let mut bytes = Vec::new();
    let (mut count, mut last_time) = (0, 0);
    for item in snapshot.pending.iter().filter(|item| !item.ids.is_empty()) {
        push_frame(item, &mut bytes);
        count += frame::ids(&item.ids).count() as u64;
        last_time = item.run.last_time.0;
    }
    if count == 0 {
        return Ok(None);
    }
    let seq = snapshot.group;
    let file = disk.open(&dir.join(file_name(seq)), Mode::Create)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    Ok(Some(IdsEntry { seq, len: bytes.len() as u64, count, last_time }))
}

/// Reads an ids file into the window.
///
/// # Errors
/// The disk's; damage.
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
    while !rest.is_empty() {
        let (header, body) =
            Header::decode_frame(rest).map_err(|bad| OpenError::damaged(&path, bad.to_string()))?;
        insert(&header, body, window);
        rest = &rest[header.frame_len()..];
    }
    Ok(())
}

/// Puts the ids section of a frame into the window.
pub fn insert(header: &Header, ids: &[u8], window: &mut Window) {
    for entry in frame::ids(ids) {
        let stored = Stored { first: entry.first, count: entry.count, time: header.last_time };
        window.insert(window.key(header.topic, entry.id), stored);
    }
}
