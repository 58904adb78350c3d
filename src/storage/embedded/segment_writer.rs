//! The segment writer: appends runs of one topic to its segments, and starts the next segment when one is
//! full. A checkpoint and a repair use it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, File, Mode};
use super::segment::{self, FILE_HEADER_LEN, Fault, Segment};
use crate::record::UnixMicros;
use crate::storage::tail::Run;

/// Number of bytes of blocks that are gathered before they are written.
const WRITE_BYTES: usize = 4 << 20;

/// The point at which a segment takes no more.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Size in bytes at which a segment is full.
    pub bytes: u64,
    /// A segment whose first batch was stored before this is full.
    pub oldest: UnixMicros,
}

impl Limit {
    /// Returns true if a segment is full.
    #[must_use]
    pub const fn is_reached_by(&self, segment: &Segment) -> bool {
        segment.len >= self.bytes || segment.first_time.0 < self.oldest.0
    }
}

/// Writes segments of one topic.
#[derive(Debug)]
pub struct SegmentWriter<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    topic: u64,
    epoch: u64,
    limit: Limit,
    /// The segment that is being written, and its file.
    active: Option<(Segment, Arc<dyn File>)>,
    /// Runs to be packed into frames together.
    waiting: Vec<Run>,
    /// Size of the blocks of those runs, in bytes.
    waiting_bytes: usize,
    packed: Vec<u8>,
    done: Vec<Segment>,
}

impl<'a> SegmentWriter<'a> {
    /// Creates a writer of segments of `topic` with this epoch, in the data directory `dir`.
    #[must_use]
    pub fn new(disk: &'a dyn Disk, dir: &'a Path, (topic, epoch): (u64, u64), limit: Limit) -> Self {
        let (active, waiting, packed, done) = (None, Vec::new(), Vec::new(), Vec::new());
        Self { disk, dir, topic, epoch, limit, active, waiting, waiting_bytes: 0, packed, done }
    }

    /// Continues in a segment that exists.
    #[must_use]
    pub fn resume(self, segment: Segment, file: Arc<dyn File>) -> Self {
        Self { active: Some((segment, file)), ..self }
    }

    /// Returns the path of the file that is written next, or was written last.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let segment = self.active.as_ref().map(|(segment, _)| segment).or(self.done.last());
        let base = self.waiting.first().map(|run| run.first).or(segment.map(|segment| segment.base));
        segment::path(self.dir, self.topic, base.unwrap_or_default())
    }

    /// Appends a run, in the order of offsets. It is written once there is enough for one write.
    ///
    /// # Errors
    /// Fails if the disk does, or if a run no longer has the checksum it was committed with.
    pub fn push(&mut self, run: Run) -> Result<(), Fault> {
        let is_behind = self.waiting.last().is_none_or(|last| last.end == run.first);
        let bytes = self.waiting_bytes + run.blocks.len();
        if !self.waiting.is_empty() && (!is_behind || bytes > WRITE_BYTES.min(self.room())) {
            self.write()?;
        }
        self.waiting_bytes += run.blocks.len();
        self.waiting.push(run);
        Ok(())
    }

    /// Writes and syncs what was pushed, and returns the segments that were written to, in order.
    ///
    /// # Errors
    /// Same as [`Self::push`].
    pub fn finish(&mut self) -> Result<Vec<Segment>, Fault> {
        self.write()?;
        if let Some((segment, file)) = self.active.take() {
            file.sync()?;
            self.done.push(segment);
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Returns the number of bytes until the segment that is written next is full.
    fn room(&self) -> usize {
        let active = self.active.as_ref().filter(|(segment, _)| !self.limit.is_reached_by(segment));
        let len = active.map_or(FILE_HEADER_LEN, |(segment, _)| segment.len);
        usize::try_from(self.limit.bytes.saturating_sub(len)).unwrap_or(usize::MAX)
    }

    fn write(&mut self) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (self.waiting.first(), self.waiting.last()) else { return Ok(()) };
        let (end, last_time) = (last.end, last.last_time);
        self.packed.clear();
        segment::pack(self.topic, &self.waiting, &mut self.packed)?;
        let takes = |segment: &Segment| !self.limit.is_reached_by(segment) && segment.end == first.first;
        let (mut segment, file) = match self.active.take() {
            Some(active) if takes(&active.0) => active,
            full => {
                if let Some((segment, file)) = full {
                    file.sync()?;
                    self.done.push(segment);
                }
                self.begin(first)?
            }
        };
        file.write_at(&self.packed, segment.len)?;
        segment.len += self.packed.len() as u64;
        (segment.end, segment.last_time) = (end, last_time);
        self.active = Some((segment, file));
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    fn begin(&self, first: &Run) -> Result<(Segment, Arc<dyn File>), Fault> {
        let file = self.disk.open(&segment::path(self.dir, self.topic, first.first), Mode::Create)?;
        file.write_at(&segment::file_header(self.topic, self.epoch, first.first), 0)?;
        Ok((Segment::begin(first), file))
    }
}
