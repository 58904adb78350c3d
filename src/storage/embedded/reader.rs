//! Reads from segments, for those who are behind the tail cache. Blocking.
//! Never: on an async worker, and never past a checksum that does not match (P10).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, Mode};
use super::health::Monitor;
use super::segment::{self, Fault, Mark, OpenSegment, Segment};
use super::topic::{NUMBERING, Topic};
use crate::record::block::Blocks;
use crate::record::{Offset, UnixMicros};
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

/// Open segment files: the most recently used, at most so many.
#[derive(Debug)]
pub struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open_max: usize,
    lru: Mutex<Lru>,
    health: Monitor,
}

impl Files {
    /// Files of the log in `dir`, at most `open_max` open at once.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, open_max: usize, health: Monitor) -> Self {
        Self { disk, dir, open_max: open_max.max(1), lru: Mutex::default(), health }
    }

    fn lru(&self) -> MutexGuard<'_, Lru> {
        self.lru.lock().expect("no panic while it is held")
    }

    fn open(&self, topic: &Topic, base: Offset) -> Result<Arc<OpenSegment>, Fault> {
        let key = (topic.id, base);
        if let Some(file) = self.lru().get(key) {
            return Ok(file);
        }
        // Not under the lock: a disk that is slow here holds up nobody whose file is open.
        let file = self.disk.open(&segment::path(&self.dir, topic.id, base), Mode::Read)?;
        let file = Arc::new(OpenSegment::new(file, topic.id, topic.state.epoch.get(), base)?);
        let mut lru = self.lru();
        if let Some(other) = lru.get(key) {
            return Ok(other);
        }
        // One that is removed from the topic is closed after that: what is still there now will be.
        if topic.has_segment(base) {
            lru.insert(key, file.clone(), self.open_max);
        }
        Ok(file)
    }

    /// Closes a segment that is about to be removed: it is none of its topic's any more.
    pub fn close(&self, topic: u64, base: Offset) {
        self.lru().open.remove(&(topic, base));
    }

    /// Whether a segment's file is kept open.
    #[cfg(test)]
    pub fn is_open(&self, topic: u64, base: Offset) -> bool {
        self.lru().open.contains_key(&(topic, base))
    }

    /// What a fault means to a reader at `from`: a file that was trimmed away meanwhile is no damage.
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

/// Whole frames of `segment` from the one that holds `from` on.
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

/// What is stored from `from` on, at least one batch; an empty chunk at the tail.
///
/// # Errors
/// As [`crate::storage::TopicLog::read`].
pub fn read(topic: &Topic, files: &Files, from: Offset, bytes_max: usize) -> Result<Chunk, Error> {
    // What leaves the cache is in a segment by then: the second look finds it.
    const LOOKS: usize = 3;
    for _ in 0..LOOKS {
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

/// Bytes looked at in one step of a search: about one frame, as the index leads to the right one.
const SEARCH_BYTES: usize = 64 << 10;

/// Where the batch that holds `offset` begins.
///
/// # Errors
/// As [`read`].
pub fn batch_start(topic: &Topic, files: &Files, offset: Offset) -> Result<Offset, Error> {
    let earliest = topic.state.earliest();
    if offset <= earliest || offset >= topic.state.tail() {
        return Ok(offset.clamp(earliest, topic.state.tail().max(earliest)));
    }
    // A read inside a batch is encoded anew, so look from where the frame begins.
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

/// A batch boundary at or before `offset`, not far from it.
fn frame_start(topic: &Topic, files: &Files, offset: Offset) -> Result<Offset, Error> {
    let mut once = false;
    if let Some(run) = topic.state.cache.runs_from(offset, |_| !std::mem::replace(&mut once, true)).first() {
        return Ok(run.first);
    }
    let segments = topic.segments.load_full();
    let at = segments.partition_point(|segment| segment.end <= offset);
    let Some(segment) = segments.get(at) else { return Ok(topic.state.earliest()) };
    let look = |marks: &[Mark]| {
        marks
            .partition_point(|mark| mark.first <= offset)
            .checked_sub(1)
            .map_or(segment.base, |i| marks[i].first)
    };
    files
        .open(topic, segment.base)
        .and_then(|file| file.marks(segment.len, look))
        .map_err(|fault| files.error(topic, offset, segment.base, &fault))
}

/// The first batch stored at or after `time`; the tail where there is none.
///
/// # Errors
/// As [`read`].
pub fn offset_at(topic: &Topic, files: &Files, time: UnixMicros) -> Result<Offset, Error> {
    Ok(first_since(topic, files, time)?.0)
}

/// The same, and when that batch was stored; none where there is none.
///
/// # Errors
/// As [`read`].
pub fn first_since(
    topic: &Topic,
    files: &Files,
    time: UnixMicros,
) -> Result<(Offset, Option<UnixMicros>), Error> {
    // What is published from now on is not looked at: a busy topic must not keep this going.
    let tail = topic.state.tail();
    let mut at = time_start(topic, files, time)?.max(topic.state.earliest());
    while at < tail {
        let chunk = match read(topic, files, at, SEARCH_BYTES) {
            // Trimmed meanwhile: what is left is all newer.
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
    // Not the tail as it is now: a batch may have come in between.
    Ok((at, None))
}

/// When the oldest batch kept was stored, or earlier, without reading anything; none where none is kept.
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
    // Where it is in neither, a checkpoint came in between.
    Some(runs.first().map_or(UnixMicros(0), |run| run.first_time))
}

/// A batch boundary before which everything was stored before `time`, mostly not far from it.
fn time_start(topic: &Topic, files: &Files, time: UnixMicros) -> Result<Offset, Error> {
    // Segments come and go meanwhile, but not often; the checkpointer, which makes them, waits for none.
    const LOOKS: usize = 8;
    for _ in 0..LOOKS {
        // First of all: what is published from now on is not looked at, so it lies after the answer.
        let (tail, earliest) = (topic.state.tail(), topic.state.earliest());
        let segments = topic.segments.load_full();
        // What was trimmed is not read: its file may be gone, or damaged, which is why it was trimmed.
        let at = segments.partition_point(|segment| segment.last_time < time || segment.end <= earliest);
        if let Some(segment) = segments.get(at) {
            let look = |marks: &[Mark]| {
                let at = marks.partition_point(|mark| mark.first_time < time);
                at.checked_sub(1).map_or(segment.base, |i| marks[i].first)
            };
            let found = files.open(topic, segment.base).and_then(|file| file.marks(segment.len, look));
            if found.is_err() && segment.end <= topic.state.earliest() {
                // It was trimmed away meanwhile, and the file perhaps with it.
                continue;
            }
            let from = segment.base.max(topic.state.earliest());
            return found.map_err(|fault| files.error(topic, from, segment.base, &fault));
        }
        let flushed = segments.last().map_or(Offset::ZERO, |segment| segment.end).max(earliest);
        let runs = topic.state.cache.runs_from(flushed, |_| true);
        // Where nothing is cached, a checkpoint came in between: what left the cache is in a
        // segment that was not looked at.
        if runs.is_empty() && flushed < tail && !topic.state.is_deleted() {
            std::thread::yield_now();
            continue;
        }
        return Ok(runs.iter().find(|run| run.last_time >= time).map_or(tail, |run| run.first));
    }
    // Always true, if far: whoever reads on from here is told of what is wrong there.
    Ok(topic.state.earliest())
}

/// The newest frame boundary with at least `bytes` bytes after it; the oldest offset kept where there are fewer.
///
/// # Errors
/// As [`read`].
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
        // The newest frame boundary with enough behind it.
        let cut = segment.len - (bytes - kept);
        let look = |marks: &[Mark]| {
            let at = marks.partition_point(|mark| mark.at <= cut);
            at.checked_sub(1).map_or(segment.base, |i| marks[i].first)
        };
        let found = files.open(topic, segment.base).and_then(|file| file.marks(segment.len, look));
        return found.map_err(|fault| {
            files.error(topic, segment.base.max(topic.state.earliest()), segment.base, &fault)
        });
    }
    Ok(topic.state.earliest())
}
