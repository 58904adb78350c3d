//! Listing of a data directory: its files by kind, and the removal of those that no catalog names.

use std::collections::HashSet;
use std::path::Path;

use super::catalog::{self, Catalog};
use super::disk::Disk;
use super::ids;
use super::journal;
use super::journal_image::Image;
use super::open::OpenError;
use super::segment;
use crate::record::Offset;

/// The files of a data directory by kind.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sequence numbers of the journals, in order.
    pub journals: Vec<u64>,
    /// Names of old journals whose space can be reused.
    pub spares: Vec<String>,
    ids: Vec<String>,
    making: Vec<String>,
    segments: Vec<String>,
}

impl Listing {
    /// Lists the files of a data directory.
    ///
    /// # Errors
    /// Returns the disk's error.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, OpenError> {
        let mut files = Self::default();
        for (name, _) in disk.list(dir).map_err(|e| OpenError::io(dir, e))? {
            if let Some(seq) = journal::parse_name(&name) {
                files.journals.push(seq);
            } else if name.starts_with("spare-") {
                files.spares.push(name);
            } else if name.starts_with("ids-") {
                files.ids.push(name);
            } else if name.ends_with(".tmp") {
                files.making.push(name);
            }
        }
        files.journals.sort_unstable();
        let dir = dir.join("segments");
        let segments = match disk.list(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|e| OpenError::io(&dir, e))?,
        };
        files.segments = segments.into_iter().map(|(name, _)| name).collect();
        Ok(files)
    }

    /// Returns true if the directory holds none of the files that a log creates once it stores anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.journals.is_empty() && self.spares.is_empty() && self.ids.is_empty() && self.segments.is_empty()
    }

    /// Checks that a directory without a catalog is a new one, and not one that lost its catalog.
    ///
    /// # Errors
    /// Reports a lost catalog or other damage, or returns the disk's error.
    pub fn check_empty(&self, disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let missing = || OpenError::damaged(&dir.join(catalog::FILE_NAME), "catalog is missing, data is not");
        if !self.segments.is_empty() || !self.ids.is_empty() || !self.spares.is_empty() {
            return Err(missing());
        }
        for seq in &self.journals {
            let image = Image::read(disk, &dir.join(journal::file_name(*seq)))?;
            // A first start that was interrupted leaves a journal that would begin with commit 1 but holds no
            // commit.
            if image.first_commit != 1 {
                return Err(missing());
            }
            image.replay(*seq, None, |_| Err(missing()))?;
        }
        Ok(())
    }

    /// Removes files that the catalog does not name, which an interrupted checkpoint left. A file that cannot
    /// be removed is tried again at the next start.
    pub fn clean(&self, disk: &dyn Disk, dir: &Path, catalog: &Catalog) {
        let named: HashSet<String> = catalog
            .topics
            .iter()
            .flat_map(|topic| {
                topic.segments.iter().map(|s| segment::file_name(topic.id, Offset::new(s.base)))
            })
            .chain(catalog.ids.iter().map(|entry| ids::file_name(entry.seq)))
            .collect();
        let old =
            self.journals.iter().filter(|seq| **seq < catalog.journal).map(|seq| journal::file_name(*seq));
        let unnamed = self.ids.iter().filter(|name| !named.contains(*name)).cloned();
        for name in self.making.iter().cloned().chain(old).chain(unnamed) {
            let _ = disk.remove(&dir.join(name));
        }
        for name in self.segments.iter().filter(|name| !named.contains(*name)) {
            let _ = disk.remove(&dir.join("segments").join(name));
        }
    }
}
