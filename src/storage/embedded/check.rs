//! Checking and repairing the data directory of a server that does not run. docs/format.md and
//! `streamway check --help` say how it is used.
//! Never: works on a directory that a server holds.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::catalog;
use super::dir::flock;
use super::disk::{Disk, RealDisk};
use super::open::OpenError;
use super::recovery::Listing;
use super::repair;
use super::scan::{self, Scan};
use crate::file;
use crate::record::Epoch;

pub use super::scan::Damage;

/// What a data directory holds, and what is wrong with it.
#[derive(Debug)]
pub struct Report {
    /// Every topic.
    pub topics: Vec<TopicReport>,
    /// Everything that is not as it was written.
    pub damages: Vec<Damage>,
    /// What is no damage, and worth a line.
    pub notes: Vec<String>,
    /// Segments read, and their bytes.
    pub segments: (u64, u64),
    /// Journals found.
    pub journals: usize,
    /// Files of request ids that are whole.
    pub ids: usize,
}

/// One topic of a [`Report`].
#[derive(Clone, Debug)]
pub struct TopicReport {
    /// Its name; one made up for data without an owner begins with `recovered-`.
    pub name: String,
    /// Its incarnation.
    pub epoch: Epoch,
    /// The oldest offset kept.
    pub earliest: u64,
    /// The offset the next record gets.
    pub tail: u64,
    /// Offsets that were stored and are not whole any more: first, and after the last.
    pub lost: Vec<(u64, u64)>,
    /// Whether more may be lost, in a place that does not say whose it was.
    pub doubt: bool,
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// What was found before.
    pub before: Report,
    /// Topics that lost records, or may have: before, and as they are now.
    pub renewed: Vec<(TopicReport, TopicReport)>,
    /// Where the files that were replaced are kept; none where nothing had to be done.
    pub kept: Option<PathBuf>,
    /// What is found now.
    pub after: Report,
}

/// Reads everything in the data directory, and changes nothing.
///
/// # Errors
/// A server has the directory; it is not one; a newer format; the file system's.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let _lock = take(dir)?;
    expect_data(dir)?;
    Ok(report(&scan::scan(&RealDisk, dir)?))
}

/// Salvages what is whole into a data directory that a server takes. Files that are replaced are
/// moved aside, so space for what is rewritten is needed. Without damage nothing is changed.
///
/// # Errors
/// As [`check`].
pub fn repair(dir: &Path) -> Result<Repaired, OpenError> {
    let _lock = take(dir)?;
    expect_data(dir)?;
    repair_on(&RealDisk, dir)
}

/// [`repair`] without the lock.
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

/// The report of what was found.
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

/// Refuses a directory in which no server ever stored anything: most likely it is not the one that was meant.
fn expect_data(dir: &Path) -> Result<(), OpenError> {
    let has_catalog = dir.join(catalog::FILE_NAME).symlink_metadata().is_ok();
    if !has_catalog && Listing::read(&RealDisk, dir)?.is_empty() {
        return Err(OpenError::NoData(dir.into()));
    }
    Ok(())
}

/// Takes the directory's lock, where there is one: a copy on a read-only disk has none, or one that
/// cannot be written.
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
