//! The embedded log: journal, segments, catalog.

use std::path::Path;
use std::sync::Arc;

use crate::config::StorageConfig;
use crate::storage::Error;

/// The embedded engine.
#[derive(Debug)]
pub struct EmbeddedLog {}

impl EmbeddedLog {
    /// Opens or creates the log in `dir`, recovering what a crash left. Blocking: up to a second.
    ///
    /// # Errors
    /// The directory is locked, read-only, of a newer format, not a directory, or damaged.
    pub fn open(_dir: &Path, _config: &StorageConfig, _topics_max: usize) -> Result<Arc<Self>, Error> {
        Err(Error::Closing)
    }
}
