//! Space reserved on the disk for operations that free a full disk: a trim or a deletion must write a
//! catalog, request ids and a small journal before anything can be removed. The reserve consists of files
//! that hold no data. A file's space is used by renaming the file, so that nobody else can take the space in
//! between.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, File, Mode, is_full};

/// Number of files: one for each file that a checkpoint may need at once, which are a journal, request ids
/// and the catalog.
const FILES: u32 = 3;
/// Minimum size of each file in bytes: a journal of some changes, or the catalog of a few hundred topics.
const BYTES_MIN: u64 = 64 << 10;
const BLOCK: u64 = 4096;

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("reserve-{number}"))
}

/// Reserves enough room for a catalog of `len` bytes to double. If the disk is too full for that, the
/// existing files stay.
pub fn keep(disk: &dyn Disk, dir: &Path, len: u64) {
    let want = (2 * len).max(BYTES_MIN).div_ceil(BLOCK) * BLOCK;
    for number in 1..=FILES {
        let path = path(dir, number);
        let there = disk.open(&path, Mode::Write).and_then(|file| Ok((file.size()?, file)));
        let made = match there {
            Ok((size, _)) if size >= want => continue,
            Ok((_, file)) => file.allocate(want),
            Err(_) => disk.open(&path, Mode::Create).and_then(|file| file.allocate(want)),
        };
        if made.is_err() {
            // An empty file reserves nothing.
            if disk.open(&path, Mode::Read).and_then(|file| file.size()).is_ok_and(|size| size == 0) {
                let _ = disk.remove(&path);
            }
            return;
        }
    }
}

/// Finds a file of the reserve with room for `len` bytes. Returns its path and its size.
#[must_use]
pub fn find(disk: &dyn Disk, dir: &Path, len: u64) -> Option<(PathBuf, u64)> {
    (1..=FILES).find_map(|number| {
        let path = path(dir, number);
        let size = disk.open(&path, Mode::Read).and_then(|file| file.size()).ok()?;
        (size >= len).then_some((path, size))
    })
}

/// Writes `bytes` to the file `to` and syncs it, but not its directory entry. On a full disk, it uses the
/// space of the reserve.
///
/// # Errors
/// Returns the disk's error. A full disk leaves nothing of the file behind.
pub fn write(disk: &dyn Disk, dir: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    let put = |file: Arc<dyn File>| {
        file.write_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync()
    };
    match disk.open(to, Mode::Create).and_then(put) {
        Err(full) if is_full(&full) => {
            let _ = disk.remove(to);
            let Some((from, _)) = find(disk, dir, bytes.len() as u64) else { return Err(full) };
            disk.rename(&from, to)?;
            disk.open(to, Mode::Write).and_then(put)
        }
        written => written,
    }
}
