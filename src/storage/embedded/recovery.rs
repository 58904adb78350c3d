//! Recovery: reads the catalog, and then replays the commits after it. Its time does not grow with the amount
//! of stored data. The log serves only after everything that was found is durable, and a damaged journal is
//! not changed.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use prost::Message;

use super::catalog::Catalog;
use super::commit::Pending;
use super::disk::{Disk, Mode, is_full};
use super::ids;
use super::journal::{self, CommitBuf};
use super::listing::Listing;
use super::open::OpenError;
use super::registry::Registry;
use super::replay::{Replay, Replayed};
use super::reserve;
use super::segment;
use crate::record::{Offset, UnixMicros};
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
