//! Recovery: reads the catalog, and then replays the commits after it. Its time does not grow with the amount
//! of stored data. The log serves only after everything that was found is durable, and a damaged journal is
//! not changed.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::catalog::{self, Catalog};
use super::commit::Pending;
use super::disk::{Disk, Mode, is_full};
use super::frame::{Header, Kind};
use super::ids;
use super::journal::{self, Commit, CommitBuf, Image};
use super::open::OpenError;
use super::registry::{Registry, topic_of};
use super::reserve;
use super::segment;
use crate::record::{Offset, TopicName, UnixMicros};
use crate::storage::tail::Run;
use crate::storage::window::Window;

/// Result of recovery.
#[derive(Debug)]
pub struct Recovered {
    /// Registry of all topics.
    pub registry: Registry,
    /// Journal to continue with.
    pub journal: journal::Writer,
    /// Window of remembered request ids.
    pub window: Window,
    /// The newest publish time.
    pub clock: UnixMicros,
    /// Id of the next topic to be created.
    pub next_topic: u64,
    /// Runs that the journals hold and no segment does.
    pub pending: Vec<Pending>,
    /// The catalog on disk.
    pub catalog: Catalog,
    /// Old journals whose space can be reused.
    pub spares: Vec<PathBuf>,
    /// True if the newest commit is already empty.
    pub sealed: bool,
}

/// Reads the data directory, and makes everything it found durable again.
///
/// # Errors
/// Fails if data is damaged, if the format is newer, or if the disk fails.
pub fn recover(
    disk: &dyn Disk,
    dir: &Path,
    journal_bytes: u64,
    mut window: Window,
) -> Result<Recovered, OpenError> {
    let segments = dir.join("segments");
    disk.create_dir(&segments).map_err(|e| OpenError::io(&segments, e))?;
    // A killed process may have left directory entries that are visible but not durable. They are synced
    // first, so that nothing built on them can outlive them.
    for dir in [dir, &segments] {
        disk.sync_dir(dir).map_err(|e| OpenError::io(dir, e))?;
    }
    let mut files = Listing::read(disk, dir)?;
    let found = Catalog::read(disk, dir)?;
    let fresh = found.is_none();
    if fresh {
        files.check_empty(disk, dir)?;
    }
    let first = Catalog { commit: 0, journal: 1, next_topic: 1, ..Catalog::default() };
    let catalog = found.unwrap_or(first);
    check_segments(disk, &segments, &catalog)?;
    for entry in &catalog.ids {
        ids::read(disk, dir, entry, &mut window)?;
    }
    let mut replay = Replay::new(dir, &catalog, window)?;
    let journals: &[u64] = if fresh { &[] } else { &files.journals };
    let mut found = replay.journals(disk, dir, &catalog, journals, fresh)?;
    if !fresh {
        // Files that the durable catalog does not need are removed first, because the new journal may need
        // the space.
        files.clean(disk, dir, &catalog);
    }
    let seq = journals.last().map_or(catalog.journal, |last| last + 1).max(catalog.journal);
    let (journal, sealed) = begin_journal(disk, dir, seq, journal_bytes, &mut files.spares, &mut found)?;
    if fresh {
        // The catalog is written last, so that a catalog always has its journal.
        catalog.write(disk, dir).map_err(|e| OpenError::io(dir, e))?;
        files.clean(disk, dir, &catalog);
    } else {
        // An earlier version of the program left no reserve.
        reserve::keep(disk, dir, catalog.encoded_len() as u64);
    }
    Ok(Recovered {
        sealed,
        registry: replay.registry,
        journal,
        window: replay.window,
        clock: replay.clock,
        next_topic: replay.next_topic,
        pending: replay.pending,
        catalog,
        spares: files.spares.iter().map(|name| dir.join(name)).collect(),
    })
}

/// Opens a journal to continue with: a new one, or on a disk that is too full for it the last one, whose
/// space is already allocated. A start must not need more space than a running server, because only a running
/// server can free the disk.
fn begin_journal(
    disk: &dyn Disk,
    dir: &Path,
    seq: u64,
    capacity: u64,
    spares: &mut Vec<String>,
    found: &mut Replayed,
) -> Result<(journal::Writer, bool), OpenError> {
    let first_commit = if found.last.is_some() { found.next - 1 } else { found.next };
    let spec = journal::Spec { seq, capacity, first_commit };
    let spare = spares.pop().map(|name| dir.join(name));
    match new_journal(disk, dir, spec, spare.as_deref(), found.last.as_mut()) {
        Err(OpenError::Io { source, .. }) if is_full(&source) && found.end.is_some() => {
            let end = found.end.as_ref().expect("it was looked at");
            let path = dir.join(journal::file_name(end.seq));
            tracing::warn!(
                error = %source, path = %path.display(),
                "disk is full: going on in the last journal. Trim or delete topics, or free space"
            );
            let journal = journal::Writer::go_on(disk, dir, end, found.last.as_mut())
                .map_err(|e| OpenError::io(&path, e))?;
            Ok((journal, found.last.as_ref().is_some_and(CommitBuf::is_empty)))
        }
        made => Ok((made?, false)),
    }
}

fn new_journal(
    disk: &dyn Disk,
    dir: &Path,
    mut spec: journal::Spec,
    spare: Option<&Path>,
    last: Option<&mut CommitBuf>,
) -> Result<journal::Writer, OpenError> {
    let copied = last.as_ref().map_or(0, |last| last.len());
    spec.capacity = spec.capacity.max(copied + 4 * journal::ALIGN);
    let path = dir.join(journal::file_name(spec.seq));
    journal::Writer::create(disk, dir, spec, spare, last).map_err(|e| OpenError::io(&path, e))
}

/// Truncates segments that a checkpoint made longer than the catalog says, and reports missing or shorter
/// ones as damage.
fn check_segments(disk: &dyn Disk, dir: &Path, catalog: &Catalog) -> Result<(), OpenError> {
    let listed = disk.list(dir).map_err(|e| OpenError::io(dir, e))?;
    let sizes: HashMap<&str, u64> = listed.iter().map(|(name, len)| (name.as_str(), *len)).collect();
    for topic in &catalog.topics {
        for entry in &topic.segments {
            let name = segment::file_name(topic.id, Offset::new(entry.base));
            let path = dir.join(&name);
            match sizes.get(name.as_str()) {
                None => return Err(OpenError::damaged(&path, "segment is missing")),
                Some(&len) if len < entry.len => {
                    return Err(OpenError::damaged(&path, "segment is shorter than the catalog says"));
                }
                Some(&len) if len > entry.len => {
                    let file = disk.open(&path, Mode::Write).map_err(|e| OpenError::io(&path, e))?;
                    file.set_len(entry.len).map_err(|e| OpenError::io(&path, e))?;
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// The files of a data directory by kind.
#[derive(Debug, Default)]
pub struct Listing {
    journals: Vec<u64>,
    spares: Vec<String>,
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
    fn clean(&self, disk: &dyn Disk, dir: &Path, catalog: &Catalog) {
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

/// Result of replaying the journals.
struct Replayed {
    /// The last commit, if there is one.
    last: Option<CommitBuf>,
    /// Number after that of the last commit.
    next: u64,
    /// End of the last journal, if it can be continued.
    end: Option<journal::End>,
}

struct Replay {
    registry: Registry,
    window: Window,
    clock: UnixMicros,
    next_topic: u64,
    pending: Vec<Pending>,
}

impl Replay {
    fn new(dir: &Path, catalog: &Catalog, window: Window) -> Result<Self, OpenError> {
        let registry = Registry::default();
        for entry in &catalog.topics {
            let bad = || OpenError::damaged(&dir.join(catalog::FILE_NAME), "catalog holds a bad topic name");
            let name = TopicName::parse(&entry.name).map_err(|_| bad())?;
            registry.insert(Arc::new(topic_of(entry, name)));
        }
        let (clock, next_topic) = (UnixMicros(catalog.clock), catalog.next_topic);
        Ok(Self { registry, window, clock, next_topic, pending: Vec::new() })
    }

    /// Replays the journals after the catalog's commit.
    fn journals(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        catalog: &Catalog,
        all: &[u64],
        fresh: bool,
    ) -> Result<Replayed, OpenError> {
        let seqs: Vec<u64> = all.iter().copied().filter(|seq| *seq >= catalog.journal).collect();
        let mut next = catalog.commit + 1;
        for (i, want) in (catalog.journal..).take(seqs.len().max(usize::from(!fresh))).enumerate() {
            if seqs.get(i) != Some(&want) {
                return Err(OpenError::damaged(&dir.join(journal::file_name(want)), "journal is missing"));
            }
        }
        let (mut last, mut ahead, mut found_end) = (None, None, None);
        for (i, seq) in seqs.iter().enumerate() {
            let path = dir.join(journal::file_name(*seq));
            let image = match ahead.take() {
                Some(image) => image,
                None => Image::read(disk, &path)?,
            };
            if let Some(seq) = seqs.get(i + 1) {
                ahead = Some(Image::read(disk, &dir.join(journal::file_name(*seq)))?);
            }
            let before = ahead.as_ref().map(|image: &Image| image.first_commit);
            if image.first_commit > next {
                return Err(OpenError::damaged(&path, format!("commits from {next} on are missing")));
            }
            let already = next;
            let end = image.replay(*seq, before, |commit| {
                // A copied commit has already been replayed from the journal that held it first.
                if commit.number >= already {
                    self.commit(&path, commit)?;
                }
                last = Some(commit.to_buf());
                Ok(())
            })?;
            next = next.max(end.next_commit);
            found_end = Some(end);
        }
        if next <= catalog.last_acked_commit {
            let path = seqs.last().map_or_else(|| dir.into(), |seq| dir.join(journal::file_name(*seq)));
            let what = format!(
                "commits from {next} to {} are missing, and were acknowledged",
                catalog.last_acked_commit
            );
            return Err(OpenError::damaged(&path, what));
        }
        Ok(Replayed { last, next, end: found_end.filter(|end| end.next_commit == next) })
    }

    fn commit(&mut self, path: &Path, commit: &Commit<'_>) -> Result<(), OpenError> {
        for (header, body) in &commit.frames {
            self.clock = self.clock.max(header.last_time);
            match header.kind {
                Kind::Batches => self.batches(path, header, body)?,
                Kind::Change => {
                    let change = catalog::Change::decode(*body)
                        .map_err(|_| OpenError::damaged(path, "a change cannot be read"))?;
                    let Some(kind) = change.kind else { continue };
                    if let catalog::ChangeKind::Create(entry) = &kind {
                        self.next_topic = self.next_topic.max(entry.id + 1);
                    }
                    self.registry.apply(&kind, None);
                }
                Kind::Ids => return Err(OpenError::damaged(path, "a journal holds a frame of ids")),
            }
        }
        Ok(())
    }

    fn batches(&mut self, path: &Path, header: &Header, body: &[u8]) -> Result<(), OpenError> {
        let Some(topic) = self.registry.by_id(header.topic) else {
            return Err(OpenError::damaged(path, format!("batches of unknown topic {}", header.topic)));
        };
        if header.first != topic.state.tail() {
            let what = format!(
                "topic {} goes on at {}, not at {}",
                topic.state.name,
                header.first,
                topic.state.tail()
            );
            return Err(OpenError::damaged(path, what));
        }
        let (blocks, ids) = body.split_at(header.blocks_len as usize);
        let run = Run {
            blocks: Bytes::copy_from_slice(blocks),
            crc: crc32c::crc32c(blocks),
            batches: header.batches,
            first: header.first,
            end: header.end,
            first_time: header.first_time,
            last_time: header.last_time,
        };
        super::ids::insert(header, ids, &mut self.window);
        topic.publish(run.clone());
        self.pending.push(Pending { topic, run, ids: Bytes::copy_from_slice(ids) });
        Ok(())
    }
}
