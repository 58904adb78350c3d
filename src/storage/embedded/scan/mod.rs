//! Scan of a data directory: it finds what is whole and what is damaged, file by file, and continues after every
//! damage. `check` prints the result, and `repair` salvages what is whole. The scan reads whole files, and one segment
//! at a time. It changes nothing, and counts no byte as whole unless its checksum matches.

mod frames;
mod journals;
mod segments;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::catalog::{self, Catalog, IdsEntry, TopicEntry};
use super::disk::Disk;
use super::frame::Header;
use super::journal;
use super::listing::Listing;
use super::open::OpenError;
use crate::record::TopicName;
pub use frames::{frames, segment_frames};

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Path of the damaged file.
    pub file: PathBuf,
    /// Position in the file, in bytes.
    pub at: u64,
    /// Description of the damage.
    pub what: String,
}

/// A whole frame of a journal whose records are in no segment.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Header of the frame.
    pub header: Header,
    /// Blocks of the frame.
    pub blocks: Bytes,
    /// Request ids that are stored with the blocks.
    pub ids: Bytes,
}

/// One topic, as far as it is known.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Entry of the catalog, with the later changes applied. Its tail is that of the journals.
    pub entry: TopicEntry,
    /// True if the topic's name and epoch are known. Otherwise they were made up for data without an owner.
    pub known: bool,
    /// Whole frames of the journals, in order.
    pub pending: Vec<Pending>,
    /// Ranges of offsets that were stored but are no longer whole, in order.
    pub lost: Vec<(u64, u64)>,
    /// True if more may have been lost, in a place that does not tell its topic.
    pub doubt: bool,
    /// True if a segment is damaged, even in a part that was trimmed.
    pub damaged: bool,
    /// Range of offsets for which the catalog names no segment. This is correct for a topic that a later change
    /// deletes.
    unnamed: Option<(u64, u64)>,
}

impl Topic {
    /// True if the topic still holds exactly what was acknowledged.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.known && self.lost.is_empty() && !self.doubt
    }
}

/// Result of a scan.
#[derive(Debug, Default)]
pub struct Scan {
    /// The catalog, or `None` if it is missing or damaged.
    pub catalog: Option<Catalog>,
    /// Topics by id.
    pub topics: BTreeMap<u64, Topic>,
    /// All damaged places.
    pub damages: Vec<Damage>,
    /// Findings that are worth a line but are no damage.
    pub notes: Vec<String>,
    /// Files of request ids that are whole.
    pub ids: Vec<IdsEntry>,
    /// Files of request ids that are damaged.
    pub bad_ids: Vec<IdsEntry>,
    /// Numbers of the journals, in ascending order.
    pub journals: Vec<u64>,
    /// Highest commit number that was found.
    pub commit: u64,
    /// Id for the next topic.
    pub next_topic: u64,
    /// Newest publish time that was found, in microseconds since 1970.
    pub clock: u64,
    /// Number of segments that were read, and their bytes.
    pub segments: (u64, u64),
}

/// Scans everything in `dir`.
///
/// # Errors
/// Fails if the format is newer than this program, or on an error of the disk. Damage is not an error here.
pub fn scan(disk: &dyn Disk, dir: &Path) -> Result<Scan, OpenError> {
    let mut scan = Scan { next_topic: 1, ..Scan::default() };
    let listed = disk.list(dir).map_err(|e| OpenError::io(dir, e))?;
    let names: Vec<String> = listed.into_iter().map(|(name, _)| name).collect();
    scan.journals = names.iter().filter_map(|name| journal::parse_name(name)).collect();
    scan.journals.sort_unstable();
    let mut looking = Looking { disk, dir, out: scan, already: 0, fresh: false };
    looking.catalog()?;
    if looking.fresh {
        return Ok(looking.out);
    }
    looking.segments()?;
    looking.ids(&names)?;
    looking.journals()?;
    let unnamed = |topic: &Topic| topic.unnamed.map(|lost| (topic.entry.name.clone(), lost));
    let unnamed: Vec<_> = looking.out.topics.values().filter_map(unnamed).collect();
    for (name, (first, end)) in unnamed {
        let what = format!("topic {name} names no segment for offsets {first} to {end}");
        looking.damage(&dir.join(catalog::FILE_NAME), 0, what);
    }
    let mut scan = looking.out;
    let no_catalog = scan.catalog.is_none();
    for topic in scan.topics.values_mut() {
        topic.doubt |= no_catalog;
        // Offsets that were trimmed do not count as lost.
        let earliest = topic.entry.earliest;
        topic.lost.retain(|(_, end)| *end > earliest);
        topic.lost.iter_mut().for_each(|(first, _)| *first = earliest.max(*first));
        topic.lost.sort_unstable();
    }
    Ok(scan)
}

/// Reads a whole file. Returns `None` if it does not exist.
///
/// # Errors
/// Errors of the disk.
pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    super::disk::read_file(disk, path).map_err(|error| OpenError::io(path, error))
}

struct Looking<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    out: Scan,
    /// Number of the last commit that is in segments or was read already.
    already: u64,
    /// True if nothing was ever stored in the directory.
    fresh: bool,
}

impl Looking<'_> {
    fn damage(&mut self, file: &Path, at: u64, what: impl Into<String>) {
        self.out.damages.push(Damage { file: file.into(), at, what: what.into() });
    }

    fn catalog(&mut self) -> Result<(), OpenError> {
        let path = self.dir.join(catalog::FILE_NAME);
        match Catalog::read(self.disk, self.dir) {
            Ok(Some(catalog)) => {
                for entry in &catalog.topics {
                    let known = TopicName::stored(&entry.name).is_ok();
                    if !known {
                        self.damage(&path, 0, format!("topic {} has a bad name", entry.id));
                    }
                    self.out.topics.insert(entry.id, topic(entry.clone(), known));
                }
                (self.out.next_topic, self.out.clock) = (catalog.next_topic, catalog.clock);
                (self.out.commit, self.already) = (catalog.commit, catalog.commit);
                self.out.catalog = Some(catalog);
            }
            Ok(None) => match Listing::read(self.disk, self.dir)?.check_empty(self.disk, self.dir) {
                Ok(()) => self.fresh = true,
                Err(OpenError::Damaged { path, what, .. }) => self.damage(&path, 0, what),
                Err(error) => return Err(error),
            },
            Err(OpenError::Damaged { .. }) => self.damage(&path, 0, "catalog is damaged"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn segment_names(&self) -> Result<Vec<(String, u64)>, OpenError> {
        let dir = self.dir.join("segments");
        match self.disk.list(&dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(OpenError::io(&dir, error)),
        }
    }

    /// Returns the topic with this id, which is made up if nothing else names it.
    fn owner(&mut self, id: u64, earliest: u64) -> &mut Topic {
        self.out.next_topic = self.out.next_topic.max(id + 1);
        self.out.topics.entry(id).or_insert_with(|| {
            let name = format!("recovered-{id:x}");
            topic(TopicEntry { id, name, earliest, tail: earliest, ..TopicEntry::default() }, false)
        })
    }
}

fn topic(entry: TopicEntry, known: bool) -> Topic {
    Topic { entry, known, pending: Vec::new(), lost: Vec::new(), doubt: false, damaged: false, unnamed: None }
}
