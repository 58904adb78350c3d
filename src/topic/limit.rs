//! Limits at which a subscription ends: records, bytes, the tail or a time.

use crate::record::block::{Block, Blocks};
use crate::record::walk::Malformed;
use crate::record::{Offset, UnixMicros, protobuf};
use crate::storage::Chunk;

/// The limits of a subscription. It ends at the first one that is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLimit {
    /// Largest number of records.
    pub max_records: Option<u64>,
    /// Largest size of blocks in bytes. The first record is sent whatever its size.
    pub max_bytes: Option<u64>,
    /// Stop at the tail of the time when the subscription starts.
    pub stop_at_tail: bool,
    /// Stop before the first batch stored at or after this time.
    pub until: Option<UnixMicros>,
}

impl ReadLimit {
    /// Returns true if there is no limit.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The rest of the limits of one subscription.
#[derive(Debug)]
pub(super) struct Remaining {
    records: u64,
    bytes: u64,
    stop: Offset,
    until: Option<UnixMicros>,
    /// A record was delivered.
    has_delivered: bool,
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
            has_delivered: false,
            reached: start >= stop,
        }
    }

    /// Returns true if nothing more may be delivered.
    pub(super) const fn is_reached(&self) -> bool {
        self.reached
    }

    /// Number of bytes worth reading, at least 1.
    pub(super) fn bytes_wanted(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).max(1)
    }

    /// The time limit.
    pub(super) const fn until(&self) -> Option<UnixMicros> {
        self.until
    }

    /// Notes that no batch stored before the time limit can follow.
    pub(super) const fn end(&mut self) {
        self.reached = true;
    }

    /// Notes that the records before `next` are gone.
    pub(super) fn skip_to(&mut self, next: Offset) {
        self.reached |= next >= self.stop;
    }

    /// Cuts the chunk to what may still be delivered.
    ///
    /// # Errors
    /// The runs are malformed.
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
        self.has_delivered |= records > 0;
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

    /// Number of the block's records that may be delivered.
    fn allowed(&self, block: &Block<'_>, count: u64) -> u64 {
        if self.until.is_some_and(|until| block.time() >= until) {
            return 0;
        }
        let fitting = if block.bytes.len() as u64 <= self.bytes { count } else { self.fitting(block) };
        count.min(self.records).min(self.stop.since(block.first)).min(fitting)
    }

    /// Number of the block's records that fit the remaining bytes; at least one if none was delivered yet.
    fn fitting(&self, block: &Block<'_>) -> u64 {
        let field_len = |record: &[u8]| protobuf::field_len(record.len()) as u64;
        let head = block.bytes.len() as u64 - block.records().map(field_len).sum::<u64>();
        let mut size = head;
        let fits = block.records().map(field_len).take_while(|len| {
            size += len;
            size <= self.bytes
        });
        (fits.count() as u64).max(u64::from(!self.has_delivered))
    }
}

/// Removes the batches stored before `time` from the front of a chunk.
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
