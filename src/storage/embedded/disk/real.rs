//! The file system of this machine, without buffers of our own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::{Disk, File, Mode};
use crate::file;

/// Mode of directories. Only the server's user may read what is stored, whatever the umask.
const DIR_MODE: u32 = 0o700;
/// Mode of files, likewise.
pub const FILE_MODE: u32 = 0o600;

/// The file system of this machine.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                files.push((name, meta.len()));
            }
        }
        Ok(files)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(mode != Mode::Read);
        options.create(mode == Mode::Create).truncate(mode == Mode::Create).mode(FILE_MODE);
        Ok(Arc::new(RealFile(file::open(path, &mut options)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl RealFile {
    fn bypasses_cache(&self) -> bool {
        fcntl_getfl(&self.0).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
    }

    /// Turns direct I/O on or off. A file system that does not support it refuses, and the file stays as it is.
    fn set_direct(&self, direct: bool) {
        if let Ok(mut flags) = fcntl_getfl(&self.0) {
            flags.set(OFlags::DIRECT, direct);
            let _ = fcntl_setfl(&self.0, flags);
        }
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self.0.write_all_at(bytes, at) {
            // The file system requires another alignment than `ALIGN`, so the write goes through the
            // page cache.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) && self.bypasses_cache() => {
                self.set_direct(false);
                self.0.write_all_at(bytes, at)
            }
            result => result,
        }
    }

    fn bypass_cache(&self) {
        self.set_direct(true);
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // The file system does not support fallocate, so the first write finds out whether there is space.
            Err(Errno::OPNOTSUPP) => self.0.set_len(len),
            result => Ok(result?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
