//! Check and repair of the data directory of a server that is not running. docs/format.md and
//! `streamway check --help` explain how to use them. A directory that a running server has locked is refused.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::catalog;
use super::dir::flock;
use super::disk::{Disk, RealDisk};
use super::listing::Listing;
use super::open::OpenError;
use super::repair;
use super::scan::{self, Scan};
use crate::file;
use crate::record::Epoch;

pub use super::scan::Damage;

/// Contents of a data directory, and everything that is wrong with it.
#[derive(Debug)]
pub struct Report {
    /// Every topic.
    pub topics: Vec<TopicReport>,
    /// Every place that is not as it was written.
    pub damages: Vec<Damage>,
    /// Findings that are not damage but are worth reporting.
    pub notes: Vec<String>,
    /// Number of segments read, and their total size in bytes.
    pub segments: (u64, u64),
    /// Number of journals found.
    pub journals: usize,
    /// Number of files of request ids that are intact.
    pub ids: usize,
}

/// One topic of a [`Report`].
#[derive(Clone, Debug)]
pub struct TopicReport {
    /// Name of the topic. A name made up for data whose topic is unknown begins with `recovered-`.
    pub name: String,
    /// Epoch of this incarnation of the topic.
    pub epoch: Epoch,
    /// The oldest offset kept.
    pub earliest: u64,
    /// Offset of the next record to be stored.
    pub tail: u64,
    /// Ranges of offsets that were stored and are no longer intact: the first offset, and the one after the
    /// last.
    pub lost: Vec<(u64, u64)>,
    /// True if more may be lost, in a damaged place that does not say which topic it belonged to.
    pub doubt: bool,
}

/// Result of a repair.
#[derive(Debug)]
pub struct Repaired {
    /// Report from before the repair.
    pub before: Report,
    /// Topics that lost records or may have lost some: each as it was before, and as it is now.
    pub renewed: Vec<(TopicReport, TopicReport)>,
    /// Directory that holds the replaced files; none if nothing had to be done.
    pub kept: Option<PathBuf>,
    /// Report from after the repair.
    pub after: Report,
}

/// Reads everything in the data directory, and changes nothing.
///
/// # Errors
/// Fails if a server has the directory locked, if it is not a data directory, if its format is newer, or if
/// the file system fails.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let _lock = take(dir)?;
    expect_data(dir)?;
    Ok(report(&scan::scan(&RealDisk, dir)?))
}

/// Salvages what is intact into a data directory that a server accepts. Replaced files are moved aside, so
/// the disk needs space for what is rewritten. If there is no damage, nothing is changed.
///
/// # Errors
/// Same as [`check`].
pub fn repair(dir: &Path) -> Result<Repaired, OpenError> {
    let _lock = take(dir)?;
    expect_data(dir)?;
    repair_on(&RealDisk, dir)
}

/// Does the same as [`repair`], without taking the lock.
pub(super) fn repair_on(disk: &dyn Disk, dir: &Path) -> Result<Repaired, OpenError> {
    let found = scan::scan(disk, dir)?;
    let before = report(&found);
    if before.damages.is_empty() {
        let after = report(&found);
        return Ok(Repaired { before, renewed: Vec::new(), kept: None, after });
    }
    let (renewed, kept) = repair::repair(disk, dir, &found)?;
    let after = report(&scan::scan(disk, dir)?);
    let of = |id: u64| found.topics.get(&id).map(topic_report);
    let named = |name: &str| after.topics.iter().find(|topic| topic.name == name).cloned();
    let pairs = renewed.iter().filter_map(|(id, name)| Some((of(*id)?, named(name)?)));
    Ok(Repaired { before, renewed: pairs.collect(), kept: Some(kept), after })
}

/// Builds the report of a scan.
pub(super) fn report(scan: &Scan) -> Report {
    Report {
        topics: scan.topics.values().map(topic_report).collect(),
        damages: scan.damages.clone(),
        notes: scan.notes.clone(),
        segments: scan.segments,
        journals: scan.journals.len(),
        ids: scan.ids.len(),
    }
}

fn topic_report(topic: &scan::Topic) -> TopicReport {
    TopicReport {
        name: topic.entry.name.clone(),
        epoch: Epoch::new(topic.entry.epoch),
        earliest: topic.entry.earliest,
        tail: topic.entry.tail,
        lost: topic.lost.clone(),
        doubt: topic.doubt || !topic.known,
    }
}

/// Refuses a directory in which no server has ever stored anything: most likely another one was meant.
fn expect_data(dir: &Path) -> Result<(), OpenError> {
    let has_catalog = dir.join(catalog::FILE_NAME).symlink_metadata().is_ok();
    if !has_catalog && Listing::read(&RealDisk, dir)?.is_empty() {
        return Err(OpenError::NoData(dir.into()));
    }
    Ok(())
}

/// Takes the directory's lock if it has a lock file, which is only opened for reading: a copy on a read-only
/// disk may have no lock file, or one that cannot be written.
fn take(dir: &Path) -> Result<Option<std::fs::File>, OpenError> {
    if !dir.is_dir() {
        return Err(OpenError::NotADirectory(dir.into()));
    }
    match file::open(&dir.join("lock"), OpenOptions::new().read(true)) {
        Ok(file) => flock(dir, file).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(&dir.join("lock"), error)),
    }
}
