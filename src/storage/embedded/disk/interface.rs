//! The seam to the file system: everything the embedded log does to files goes through here, so that a test can swap in
//! a disk that tears, fails and fills.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file; one that is there is emptied.
    Create,
}

/// A directory tree.
pub trait Disk: Debug + Send + Sync {
    /// Makes a directory and its parents; one that is there is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names and lengths of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// Renames a file over another. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Has the writes to come bypass the page cache, where the file system can. Their memory, places and
    /// lengths must be multiples of [`ALIGN`](super::ALIGN).
    fn bypass_cache(&self);
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Reserves space for the first `len` bytes, so that writing them cannot run out of it.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// Reads a whole file; none where there is no such file.
///
/// # Errors
/// The disk's.
pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, Mode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; file.size()? as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Whether an error means that too many files are open, here or on the whole machine: it passes.
#[must_use]
pub fn is_too_many_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether an error means that the disk is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
