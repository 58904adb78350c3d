//! What is whole in a data directory and what is not, file by file, going on behind every damage.
//! `check` prints it, `repair` salvages it. Reads whole files; a segment at a time.
//! Never: changes anything, or takes a byte for whole that its checksum does not cover.

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
use super::open::OpenError;
use super::recovery::Listing;
use crate::record::TopicName;
pub use frames::{frames, segment_frames};

/// One place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub at: u64,
    /// What is wrong.
    pub what: String,
}

/// A whole frame of a journal that no segment holds.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its header.
    pub header: Header,
    /// Its blocks.
    pub blocks: Bytes,
    /// The request ids stored with them.
    pub ids: Bytes,
}

/// One topic, as far as it can be told.
#[derive(Clone, Debug)]
pub struct Topic {
    /// What the catalog and the changes after it say; its tail is that of the journals.
    pub entry: TopicEntry,
    /// Whether its name and epoch are known, and not made up for data without an owner.
    pub known: bool,
    /// Whole frames of the journals, in order.
    pub pending: Vec<Pending>,
    /// Offsets that were stored and are not whole any more, in order.
    pub lost: Vec<(u64, u64)>,
    /// Whether more may have been lost, in a place that does not say whose it was.
    pub doubt: bool,
    /// Whether a segment is damaged, be it where it was trimmed.
    pub damaged: bool,
    /// Offsets the catalog names no segment for: as it must be where the topic is deleted later on.
    unnamed: Option<(u64, u64)>,
}

impl Topic {
    /// Whether it still is exactly what was acknowledged.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.known && self.lost.is_empty() && !self.doubt
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Scan {
    /// The catalog; none where it is missing or damaged.
    pub catalog: Option<Catalog>,
    /// By id.
    pub topics: BTreeMap<u64, Topic>,
    /// Everything that is not as it was written.
    pub damages: Vec<Damage>,
    /// What is no damage, and worth a line.
    pub notes: Vec<String>,
    /// The ids files that are whole.
    pub ids: Vec<IdsEntry>,
    /// The ids files that are not.
    pub bad_ids: Vec<IdsEntry>,
    /// Journals there are, by number.
    pub journals: Vec<u64>,
    /// The highest number of a commit seen.
    pub commit: u64,
    /// The id the next topic gets.
    pub next_topic: u64,
    /// The newest publish time seen, in microseconds since 1970.
    pub clock: u64,
    /// Segments read, and their bytes.
    pub segments: (u64, u64),
}

/// Looks at everything in `dir`.
///
/// # Errors
/// A newer format; the disk's. Damage is no error here.
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
        // What was trimmed is not lost.
        let earliest = topic.entry.earliest;
        topic.lost.retain(|(_, end)| *end > earliest);
        topic.lost.iter_mut().for_each(|(first, _)| *first = earliest.max(*first));
        topic.lost.sort_unstable();
    }
    Ok(scan)
}

/// Reads a whole file; none where it is not there.
///
/// # Errors
/// The disk's.
pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    super::disk::read_file(disk, path).map_err(|error| OpenError::io(path, error))
}

struct Looking<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    out: Scan,
    /// Commits up to this one are in segments, or were seen already.
    already: u64,
    /// Nothing was ever stored here.
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
                    let known = TopicName::parse(&entry.name).is_ok();
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

    /// The topic of this id, made up where nothing else speaks of it.
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
