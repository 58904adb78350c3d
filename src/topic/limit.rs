//! When a subscription ends by itself: records, bytes, the tail, a time.
//! Never: waits.

use crate::record::block::{Block, Blocks};
use crate::record::walk::Malformed;
use crate::record::{Offset, UnixMicros, protobuf};
use crate::storage::Chunk;

/// When to end by itself. The first limit reached counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLimit {
    /// Records at most.
    pub max_records: Option<u64>,
    /// Bytes of blocks at most; one record is sent whatever its size.
    pub max_bytes: Option<u64>,
    /// Stop at the tail as it is when the subscription starts.
    pub stop_at_tail: bool,
    /// Stop before the first batch stored at or after this time.
    pub until: Option<UnixMicros>,
}

impl ReadLimit {
    /// Whether there is any limit.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What is left of the limits of one subscription.
#[derive(Debug)]
pub(super) struct Remaining {
    records: u64,
    bytes: u64,
    stop: Offset,
    until: Option<UnixMicros>,
    /// Whether a record was let through.
    begun: bool,
    reached: bool,
}

impl Remaining {
    pub(super) fn new(limit: &ReadLimit, start: Offset, tail: Offset) -> Self {
        let stop = if limit.stop_at_tail { tail } else { Offset::MAX };
        Self {
            records: limit.max_records.unwrap_or(u64::MAX),
            bytes: limit.max_bytes.unwrap_or(u64::MAX),
            stop,
            until: limit.until,
            begun: false,
            reached: start >= stop,
        }
    }

    /// Whether nothing more may be sent.
    pub(super) const fn is_reached(&self) -> bool {
        self.reached
    }

    /// Bytes still worth reading, at least 1.
    pub(super) fn bytes_wanted(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).max(1)
    }

    /// The time limit.
    pub(super) const fn until(&self) -> Option<UnixMicros> {
        self.until
    }

    /// No batch stored before the time limit can come any more.
    pub(super) const fn end(&mut self) {
        self.reached = true;
    }

    /// What lies before `next` will not be sent: it is no longer kept.
    pub(super) fn skip_to(&mut self, next: Offset) {
        self.reached |= next >= self.stop;
    }

    /// Cuts the chunk to what may still be sent.
    ///
    /// # Errors
    /// The runs are not made of blocks.
    pub(super) fn cut(&mut self, chunk: &mut Chunk) -> Result<(), Malformed> {
        let bytes = chunk.bytes() as u64;
        let fits = chunk.records <= self.records && bytes <= self.bytes && chunk.next <= self.stop;
        if fits && self.until.is_none() {
            self.take(chunk.records, bytes);
        } else {
            self.cut_blocks(chunk)?;
        }
        self.reached |= self.records == 0 || self.bytes == 0 || chunk.next >= self.stop;
        Ok(())
    }

    const fn take(&mut self, records: u64, bytes: u64) {
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.begun |= records > 0;
    }

    fn cut_blocks(&mut self, chunk: &mut Chunk) -> Result<(), Malformed> {
        let (mut kept, mut records) = (Vec::new(), 0);
        let (runs, mut next) = (std::mem::take(&mut chunk.runs), chunk.next);
        for run in runs {
            let mut whole = 0;
            for block in Blocks::new(&run) {
                let block = block?;
                let count = block.count();
                let allowed = self.allowed(&block, count);
                if allowed == count {
                    whole = block.at + block.bytes.len();
                    records += count;
                    self.take(count, block.bytes.len() as u64);
                    continue;
                }
                self.reached = true;
                next = block.first.plus(allowed);
                kept.extend((whole > 0).then(|| run.slice(..whole)));
                if let Some(part) = block.part(0, allowed) {
                    self.take(allowed, part.len() as u64);
                    kept.push(part);
                }
                (chunk.runs, chunk.next, chunk.records) = (kept, next, records + allowed);
                return Ok(());
            }
            kept.push(run);
        }
        (chunk.runs, chunk.next, chunk.records) = (kept, next, records);
        Ok(())
    }

    /// How many of the block's records may be sent.
    fn allowed(&self, block: &Block<'_>, count: u64) -> u64 {
        if self.until.is_some_and(|until| block.time() >= until) {
            return 0;
        }
        let fitting = if block.bytes.len() as u64 <= self.bytes { count } else { self.fitting(block) };
        count.min(self.records).min(self.stop.since(block.first)).min(fitting)
    }

    /// How many of the block's records fit the bytes left; one where none was sent yet.
    fn fitting(&self, block: &Block<'_>) -> u64 {
        let field_len = |record: &[u8]| protobuf::field_len(record.len()) as u64;
        let head = block.bytes.len() as u64 - block.records().map(field_len).sum::<u64>();
        let mut size = head;
        let fits = block.records().map(field_len).take_while(|len| {
            size += len;
            size <= self.bytes
        });
        (fits.count() as u64).max(u64::from(!self.begun))
    }
}

/// Cuts the batches stored before `time` off the front of a chunk.
pub(super) fn stored_from(chunk: &mut Chunk, time: UnixMicros) -> Result<(), Malformed> {
    while let Some(run) = chunk.runs.first().cloned() {
        for block in Blocks::new(&run) {
            let block = block?;
            if block.time() >= time {
                chunk.runs[0] = run.slice(block.at..);
                chunk.first = block.first;
                return Ok(());
            }
            chunk.records = chunk.records.saturating_sub(block.count());
        }
        chunk.runs.remove(0);
    }
    Ok(())
}
