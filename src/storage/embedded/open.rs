//! The errors of opening a data directory. Each message says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Reason for which a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory locked.
    #[error("data directory {0} is locked by another process: stop that one, or choose another --data-dir")]
    Locked(PathBuf),
    /// The path is not a directory.
    #[error("{0} is not a directory: choose another --data-dir")]
    NotADirectory(PathBuf),
    /// No server has stored anything in the directory.
    #[error(
        "{0} is not a data directory: it has neither a catalog nor a journal. Name the --data-dir of a server"
    )]
    NoData(PathBuf),
    /// A file has a newer format.
    #[error("{path} is of format {version}, newer than this program: run the newer one")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Version of its format.
        version: u32,
    },
    /// Stored data is damaged.
    #[error(
        "{path}: {what}; nothing was changed. `streamway check {dir}` lists every damage: restore a backup, \
         or salvage what is whole with `streamway check --repair {dir}`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The data directory.
        dir: PathBuf,
        /// Description of the damage.
        what: String,
    },
    /// The file system returned an error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
}

impl OpenError {
    /// Creates the error for a failure of the file system at `path`.
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Creates the error for damage of the file `path`, from which it derives the data directory.
    #[must_use]
    pub fn damaged(path: &Path, what: impl Into<String>) -> Self {
        let parent = path.parent().unwrap_or(path);
        let inside = parent.file_name().is_some_and(|name| name == "segments");
        let dir = if inside { parent.parent().unwrap_or(parent) } else { parent };
        Self::Damaged { path: path.into(), dir: dir.into(), what: what.into() }
    }
}
