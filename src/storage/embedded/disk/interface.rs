//! The interface to the file system. All file operations of the embedded log go through it, so that a test can
//! substitute a disk that tears writes, fails and fills up.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Mode in which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Opens an existing file for reading.
    Read,
    /// Opens an existing file for reading and writing.
    Write,
    /// Creates a file, and truncates it if it exists.
    Create,
}

/// A directory tree.
pub trait Disk: Debug + Send + Sync {
    /// Creates a directory and its parents, unless they exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names and lengths of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// Renames a file over another. The change is durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Reads `buf.len()` bytes, or fewer at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes later writes bypass the page cache, if the file system supports it. Their memory, file offsets and lengths
    /// must be multiples of [`ALIGN`](super::ALIGN).
    fn bypass_cache(&self);
    /// Makes everything that was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Reserves space for the first `len` bytes, so that writing them cannot run out of it.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Truncates or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns the file's length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// Reads a whole file. Returns `None` if it does not exist.
///
/// # Errors
/// Errors of the disk.
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

/// True if an error means that too many files are open, in this process or on the whole machine. The condition is
/// temporary.
#[must_use]
pub fn is_too_many_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// True if an error means that the disk is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
