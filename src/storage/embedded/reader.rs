//! Reads from segments, for readers that are behind the tail cache. They block the thread, and verify every
//! checksum (P10).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, Mode};
use super::health::Monitor;
use super::ids_index::IdsIndex;
use super::segment::{self, Fault, Mark, OpenSegment, Segment};
use super::topic::{NUMBERING, Topic};
use crate::record::block::Blocks;
use crate::record::{Offset, UnixMicros};
use crate::storage::contract::FirstIds;
use crate::storage::{Chunk, Error, Stored};

type Key = (u64, Offset);

#[derive(Debug, Default)]
struct Lru {
    open: HashMap<Key, (Arc<OpenSegment>, u64)>,
    clock: u64,
}

impl Lru {
    fn get(&mut self, key: Key) -> Option<Arc<OpenSegment>> {
        self.clock += 1;
        let (file, used) = self.open.get_mut(&key)?;
        *used = self.clock;
        Some(file.clone())
    }

    fn insert(&mut self, key: Key, file: Arc<OpenSegment>, open_max: usize) {
        if self.open.len() >= open_max {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.map(|key| self.open.remove(&key));
        }
        self.open.insert(key, (file, self.clock));
    }
}

/// Segment files that are open: the most recently used ones.
#[derive(Debug)]
pub struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open_max: usize,
    lru: Mutex<Lru>,
    /// Places of the request ids of each topic. One call at a time reads them, because it may hold a whole file in memory.
    pub ids: Arc<tokio::sync::Mutex<IdsIndex>>,
    health: Monitor,
}

impl Files {
    /// Opens files of the log in `dir`, at most `open_max` at once.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, open_max: usize, health: Monitor) -> Self {
        Self { disk, dir, open_max: open_max.max(1), lru: Mutex::default(), ids: Arc::default(), health }
    }

    /// Reads request ids of a topic from their files, but for those that were stored before `since`.
    ///
    /// # Errors
    /// The disk fails.
    pub fn request_ids(
        &self,
        index: &mut IdsIndex,
        of: (u64, UnixMicros),
        found: &mut FirstIds,
    ) -> Result<(), Error> {
        index.collect(&*self.disk, &self.dir, of, found).map_err(|error| Error::Unavailable {
            reason: format!("request ids: {error}"),
            stored: Stored::Nothing,
        })
    }

    fn lru(&self) -> MutexGuard<'_, Lru> {
        self.lru.lock().expect("no panic while it is held")
    }

    fn open(&self, topic: &Topic, base: Offset) -> Result<Arc<OpenSegment>, Fault> {
        let key = (topic.id, base);
        if let Some(file) = self.lru().get(key) {
            return Ok(file);
        }
        // The lock is not held here, so that a slow disk delays no reader whose file is open.
        let file = self.disk.open(&segment::path(&self.dir, topic.id, base), Mode::Read)?;
        let file = Arc::new(OpenSegment::new(file, topic.id, topic.state.epoch.get(), base)?);
        let mut lru = self.lru();
        if let Some(other) = lru.get(key) {
            return Ok(other);
        }
        // A file is closed after its segment was removed from the topic, so a file of a segment that is still
        // there will be closed.
        if topic.has_segment(base) {
            lru.insert(key, file.clone(), self.open_max);
        }
        Ok(file)
    }

    /// Closes the file of a segment that its topic no longer has, before the file is removed.
    pub fn close(&self, topic: u64, base: Offset) {
        self.lru().open.remove(&(topic, base));
    }

    /// Returns true if a segment's file is open.
    #[cfg(test)]
    pub fn is_open(&self, topic: u64, base: Offset) -> bool {
        self.lru().open.contains_key(&(topic, base))
    }

    /// Converts a fault to the error of a reader at `from`. A file that was trimmed away meanwhile is not damaged.
    fn error(&self, topic: &Topic, from: Offset, base: Offset, fault: &Fault) -> Error {
        if let Err(error) = topic.state.check_readable(from) {
            return error;
        }
        let path = segment::path(&self.dir, topic.id, base);
        let missing = matches!(fault, Fault::Io(e) if e.kind() == std::io::ErrorKind::NotFound);
        match fault {
            Fault::Io(error) if !missing => {
                Error::Unavailable { reason: format!("{}: {error}", path.display()), stored: Stored::Nothing }
            }
            fault => {
                let what = format!("{}: {fault}", path.display());
                self.health.fail(&what);
                Error::Damaged(what)
            }
        }
    }
}

/// Reads whole frames of `segment` from the one that holds `from` on.
fn frames(
    topic: &Topic,
    files: &Files,
    segment: &Segment,
    from: Offset,
    bytes_max: usize,
) -> Result<Chunk, Fault> {
    let file = files.open(topic, segment.base)?;
    let last_at_or_before =
        |marks: &[Mark]| marks.partition_point(|mark| mark.first <= from).checked_sub(1).map(|i| marks[i].at);
    let at = file.marks(segment.len, last_at_or_before)?;
    let missing = || Fault::Damaged { at: 0, what: format!("no frame holds offset {from}") };
    let at = at.ok_or_else(missing)?;
    let found = file.frames(at, segment.len, from, bytes_max)?;
    if found.first().is_none_or(|(header, _)| header.first > from || header.end <= from) {
        return Err(missing());
    }
    let runs = found.into_iter().map(|(header, blocks)| (header.first, header.end, blocks));
    Chunk::of(from, runs, NUMBERING).map_err(|bad| Fault::Damaged { at, what: bad.to_string() })
}

/// Reads from `from` on, at least one batch; an empty chunk at the tail.
///
/// # Errors
/// Same as [`crate::storage::TopicLog::read`].
pub fn read(topic: &Topic, files: &Files, from: Offset, bytes_max: usize) -> Result<Chunk, Error> {
    // A run that left the cache in between is in a segment, in which the next attempt finds it.
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        topic.state.check_readable(from)?;
        if let Some(chunk) = topic.state.read_cached(from, bytes_max) {
            return Ok(chunk);
        }
        if from == topic.state.tail() {
            return Ok(Chunk::empty(from));
        }
        let segments = topic.segments.load_full();
        let at = segments.partition_point(|segment| segment.end <= from);
        if let Some(segment) = segments.get(at).filter(|segment| segment.base <= from) {
            match frames(topic, files, segment, from, bytes_max) {
                Ok(chunk) => return Ok(chunk),
                Err(fault) => return Err(files.error(topic, from, segment.base, &fault)),
            }
        }
    }
    topic.state.check_readable(from)?;
    let what = format!("topic {}: offset {from} is neither in memory nor in a segment", topic.state.name);
    files.health.fail(&what);
    Err(Error::Damaged(what))
}

/// Bytes read in one step of a search: about one frame, as the index leads to the right one.
const SEARCH_BYTES: usize = 64 << 10;

/// Finds the offset at which the batch that holds `offset` begins.
///
/// # Errors
/// Same as [`read`].
pub fn batch_start(topic: &Topic, files: &Files, offset: Offset) -> Result<Offset, Error> {
    let earliest = topic.state.earliest();
    if offset <= earliest || offset >= topic.state.tail() {
        return Ok(offset.clamp(earliest, topic.state.tail().max(earliest)));
    }
    // A read that begins inside a batch encodes the rest of the batch again, so this one begins at the start
    // of the frame.
    let mut at = frame_start(topic, files, offset)?.max(earliest);
    loop {
        let chunk = match read(topic, files, at, SEARCH_BYTES) {
            Err(Error::Trimmed { earliest, .. }) if earliest >= offset => return Ok(earliest),
            Err(Error::Trimmed { earliest, .. }) if earliest > at => {
                at = earliest;
                continue;
            }
            read => read?,
        };
        for run in &chunk.runs {
            for block in Blocks::new(run).map_while(Result::ok) {
                if block.first.plus(block.count()) > offset {
                    return Ok(block.first);
                }
            }
        }
        if chunk.next <= at {
            return Ok(at);
        }
        at = chunk.next;
    }
}

/// Finds a batch boundary at or before `offset`, not far from it.
fn frame_start(topic: &Topic, files: &Files, offset: Offset) -> Result<Offset, Error> {
    let mut once = false;
    if let Some(run) = topic.state.cache.runs_from(offset, |_| !std::mem::replace(&mut once, true)).first() {
        return Ok(run.first);
    }
    let segments = topic.segments.load_full();
    let at = segments.partition_point(|segment| segment.end <= offset);
    let Some(segment) = segments.get(at) else { return Ok(topic.state.earliest()) };
    let find = |marks: &[Mark]| {
        marks
            .partition_point(|mark| mark.first <= offset)
            .checked_sub(1)
            .map_or(segment.base, |i| marks[i].first)
    };
    files
        .open(topic, segment.base)
        .and_then(|file| file.marks(segment.len, find))
        .map_err(|fault| files.error(topic, offset, segment.base, &fault))
}

/// Finds the offset of the first batch stored at or after `time`; the tail if there is none.
///
/// # Errors
/// Same as [`read`].
pub fn offset_at(topic: &Topic, files: &Files, time: UnixMicros) -> Result<Offset, Error> {
    Ok(first_since(topic, files, time)?.0)
}

/// Does the same as [`offset_at`], and returns the time at which that batch was stored.
///
/// # Errors
/// Same as [`read`].
pub fn first_since(
    topic: &Topic,
    files: &Files,
    time: UnixMicros,
) -> Result<(Offset, Option<UnixMicros>), Error> {
    // Batches published from now on are not read, so that this ends on a busy topic too.
    let tail = topic.state.tail();
    let mut at = time_start(topic, files, time)?.max(topic.state.earliest());
    while at < tail {
        let chunk = match read(topic, files, at, SEARCH_BYTES) {
            // These records were trimmed meanwhile, and all remaining ones are newer.
            Err(Error::Trimmed { earliest, .. }) if earliest > at => {
                at = earliest;
                continue;
            }
            read => read?,
        };
        for run in &chunk.runs {
            let mut blocks = Blocks::new(run).map_while(Result::ok);
            if let Some(block) = blocks.find(|block| block.time() >= time) {
                return Ok((block.first, Some(block.time())));
            }
        }
        if chunk.next <= at {
            break;
        }
        at = chunk.next;
    }
    // This may differ from the current tail, because a batch may have been stored since.
    Ok((at, None))
}

/// Returns a lower bound of the time at which the oldest batch kept was stored, without reading from disk;
/// none if no batch is kept.
#[must_use]
pub fn oldest_time(topic: &Topic) -> Option<UnixMicros> {
    let (earliest, tail) = (topic.state.earliest(), topic.state.tail());
    if earliest >= tail {
        return None;
    }
    let segments = topic.segments.load();
    if let Some(segment) = segments.get(segments.partition_point(|segment| segment.end <= earliest)) {
        return Some(segment.first_time);
    }
    let mut once = false;
    let runs = topic.state.cache.runs_from(earliest, |_| !std::mem::replace(&mut once, true));
    // If the batch is in neither, a checkpoint has moved it in between.
    Some(runs.first().map_or(UnixMicros(0), |run| run.first_time))
}

/// Finds a batch boundary before which everything was stored before `time`, usually not far from it.
fn time_start(topic: &Topic, files: &Files, time: UnixMicros) -> Result<Offset, Error> {
    // The segments may change during the search, though not often: the checkpointer does not wait for
    // readers.
    const ATTEMPTS: usize = 8;
    for _ in 0..ATTEMPTS {
        // The tail is read first: batches published from now on are not searched, so they lie after the
        // answer.
        let (tail, earliest) = (topic.state.tail(), topic.state.earliest());
        let segments = topic.segments.load_full();
        // Trimmed records are not read: the file may be gone, or it was damaged and trimmed for that reason.
        let at = segments.partition_point(|segment| segment.last_time < time || segment.end <= earliest);
        if let Some(segment) = segments.get(at) {
            let find = |marks: &[Mark]| {
                let at = marks.partition_point(|mark| mark.first_time < time);
                at.checked_sub(1).map_or(segment.base, |i| marks[i].first)
            };
            let found = files.open(topic, segment.base).and_then(|file| file.marks(segment.len, find));
            if found.is_err() && segment.end <= topic.state.earliest() {
                // The segment was trimmed meanwhile, and its file may have been removed.
                continue;
            }
            let from = segment.base.max(topic.state.earliest());
            return found.map_err(|fault| files.error(topic, from, segment.base, &fault));
        }
        let flushed = segments.last().map_or(Offset::ZERO, |segment| segment.end).max(earliest);
        let runs = topic.state.cache.runs_from(flushed, |_| true);
        // If nothing is cached, a checkpoint has moved the runs in between to a segment that was not
        // searched.
        if runs.is_empty() && flushed < tail && !topic.state.is_deleted() {
            std::thread::yield_now();
            continue;
        }
        return Ok(runs.iter().find(|run| run.last_time >= time).map_or(tail, |run| run.first));
    }
    // The earliest offset is always a correct answer, though a distant one. A reader that starts there gets
    // any error itself.
    Ok(topic.state.earliest())
}

/// Finds the newest frame boundary with at least `bytes` bytes after it; the earliest offset if there are fewer.
///
/// # Errors
/// Same as [`read`].
pub fn offset_keeping(topic: &Topic, files: &Files, bytes: u64) -> Result<Offset, Error> {
    let segments = topic.segments.load_full();
    let flushed = segments.last().map_or(topic.state.earliest(), |segment| segment.end);
    let mut kept = 0;
    let runs = topic.state.cache.runs_from(flushed.max(topic.state.earliest()), |_| true);
    for run in runs.iter().rev() {
        kept += run.blocks.len() as u64;
        if kept >= bytes {
            return Ok(run.first);
        }
    }
    for segment in segments.iter().rev().filter(|segment| segment.end > topic.state.earliest()) {
        if kept + segment.len < bytes {
            kept += segment.len;
            continue;
        }
        // The newest frame boundary with enough bytes after it.
        let cut = segment.len - (bytes - kept);
        let find = |marks: &[Mark]| {
            let at = marks.partition_point(|mark| mark.at <= cut);
            at.checked_sub(1).map_or(segment.base, |i| marks[i].first)
        };
        let found = files.open(topic, segment.base).and_then(|file| file.marks(segment.len, find));
        return found.map_err(|fault| {
            files.error(topic, segment.base.max(topic.state.earliest()), segment.base, &fault)
        });
    }
    Ok(topic.state.earliest())
}
