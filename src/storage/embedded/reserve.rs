//! Room kept on the disk for what ends a full one: the catalog, the request ids and the small journal that
//! a trim or a deletion needs before anything can be removed. Files that hold nothing, whose space is taken
//! over under another name, so that nobody else can have it meanwhile.
//! Never: what a record waits for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, File, Mode, is_full};

/// One for each of what a checkpoint may need at once: a journal, request ids, the catalog.
const FILES: u32 = 3;
/// The least of each: a journal of some changes, the catalog of a few hundred topics.
const BYTES_MIN: u64 = 64 << 10;
const BLOCK: u64 = 4096;

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("reserve-{number}"))
}

/// Keeps room for a catalog of `len` bytes to double. Where the disk is too full for it, what there is stays.
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
            // Empty, it would only look like one.
            if disk.open(&path, Mode::Read).and_then(|file| file.size()).is_ok_and(|size| size == 0) {
                let _ = disk.remove(&path);
            }
            return;
        }
    }
}

/// A file of the reserve with room for `len` bytes, and its size; none where there is none.
#[must_use]
pub fn find(disk: &dyn Disk, dir: &Path, len: u64) -> Option<(PathBuf, u64)> {
    (1..=FILES).find_map(|number| {
        let path = path(dir, number);
        let size = disk.open(&path, Mode::Read).and_then(|file| file.size()).ok()?;
        (size >= len).then_some((path, size))
    })
}

/// Makes the file `to` of `bytes`, durable but for its entry; on a full disk from the reserve.
///
/// # Errors
/// The disk's; a full one leaves nothing of it behind.
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
