//! The data directory: it is made for one user, and locked for one process.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{self, Disk, RealDisk};
use super::open::OpenError;
use crate::file;

/// Makes the directory, for this user alone. One that is there keeps its permissions,
/// which may be meant; a warning says where they let others in.
///
/// # Errors
/// The file system's.
pub fn make(dir: &Path) -> std::io::Result<()> {
    if !dir.exists() {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent)?;
        }
        return RealDisk.create_dir(dir);
    }
    let (meta, me) = (std::fs::metadata(dir)?, rustix::process::geteuid().as_raw());
    // Not of one that belongs to somebody else, as a volume's root may: nothing could be done about it here.
    if meta.uid() == me && meta.mode() & 0o027 != 0 {
        let (path, mode) = (dir.display(), format!("{:04o}", meta.mode() & 0o7777));
        tracing::warn!(
            %path, mode,
            "others on this machine may read or change what is stored: `chmod -R go-rwx` the data directory"
        );
    }
    Ok(())
}

/// Takes the directory for this process, for as long as the file is open.
///
/// # Errors
/// Another process has it, or the file system's.
pub fn lock(dir: &Path) -> Result<std::fs::File, OpenError> {
    let path: PathBuf = dir.join("lock");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(disk::FILE_MODE);
    let file = file::open(&path, &mut options).map_err(|e| OpenError::io(&path, e))?;
    flock(dir, file)
}

/// Takes the directory by its lock file.
///
/// # Errors
/// Another process has it.
pub fn flock(dir: &Path, file: std::fs::File) -> Result<std::fs::File, OpenError> {
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(dir.into())),
        Err(error) => Err(OpenError::io(&dir.join("lock"), error.into())),
    }
}
