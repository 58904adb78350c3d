//! Why a data directory could not be opened. Each says what to do.
//! Never: an error of a log that is open.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {0} is locked by another process: stop that one, or choose another --data-dir")]
    Locked(PathBuf),
    /// It is something else.
    #[error("{0} is not a directory: choose another --data-dir")]
    NotADirectory(PathBuf),
    /// No server has stored anything in the directory.
    #[error(
        "{0} is not a data directory: it has neither a catalog nor a journal. Name the --data-dir of a server"
    )]
    NoData(PathBuf),
    /// A file is of a newer format.
    #[error("{path} is of format {version}, newer than this program: run the newer one")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
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
        /// What is wrong.
        what: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

impl OpenError {
    /// The file system refused.
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Stored data is damaged.
    #[must_use]
    pub fn damaged(path: &Path, what: impl Into<String>) -> Self {
        let parent = path.parent().unwrap_or(path);
        let inside = parent.file_name().is_some_and(|name| name == "segments");
        let dir = if inside { parent.parent().unwrap_or(parent) } else { parent };
        Self::Damaged { path: path.into(), dir: dir.into(), what: what.into() }
    }
}
