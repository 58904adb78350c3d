//! The data directory, which is created for one user and locked by one process.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{self, Disk, RealDisk};
use super::open::OpenError;
use crate::file;

/// Creates the directory, accessible to this user alone. An existing one keeps its permissions, which may be
/// intended; a warning is logged if they give other users access.
///
/// # Errors
/// Returns the file system's error.
pub fn make(dir: &Path) -> std::io::Result<()> {
    if !dir.exists() {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent)?;
        }
        return RealDisk.create_dir(dir);
    }
    let (meta, me) = (std::fs::metadata(dir)?, rustix::process::geteuid().as_raw());
    // There is no warning if the directory belongs to another user, as a volume's root may, because this user
    // cannot change it.
    if meta.uid() == me && meta.mode() & 0o027 != 0 {
        let (path, mode) = (dir.display(), format!("{:04o}", meta.mode() & 0o7777));
        tracing::warn!(
            %path, mode,
            "others on this machine may read or change what is stored: `chmod -R go-rwx` the data directory"
        );
    }
    Ok(())
}

/// Locks the directory for this process, for as long as the file is open.
///
/// # Errors
/// Fails if another process has it locked, or if the file system fails.
pub fn lock(dir: &Path) -> Result<std::fs::File, OpenError> {
    let path: PathBuf = dir.join("lock");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(disk::FILE_MODE);
    let file = file::open(&path, &mut options).map_err(|e| OpenError::io(&path, e))?;
    flock(dir, file)
}

/// Locks the directory through its lock file.
///
/// # Errors
/// Fails if another process has it locked, or if the file system fails.
pub fn flock(dir: &Path, file: std::fs::File) -> Result<std::fs::File, OpenError> {
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(dir.into())),
        Err(error) => Err(OpenError::io(&dir.join("lock"), error.into())),
    }
}
