//! A chunk of stored batches: what one read of a topic returns.

use bytes::Bytes;

use crate::record::Offset;
use crate::record::block::{Blocks, starting_at};
use crate::record::walk::Malformed;

/// Numbering of a topic's records by an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Every offset below the tail names a record.
    Dense,
    /// Some offsets name no record, so that the records of a run must be counted.
    Sparse,
}

/// Stored batches, in order.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Runs of blocks ([`crate::record::block`]); end to end they are what a subscriber is sent.
    pub runs: Vec<Bytes>,
    /// The offset of the first record; `next` where the chunk is empty.
    pub first: Offset,
    /// The next offset to read.
    pub next: Offset,
    /// Number of records in the runs.
    pub records: u64,
}

impl Chunk {
    /// Creates a chunk that holds nothing, at `at`.
    #[must_use]
    pub const fn empty(at: Offset) -> Self {
        Self { runs: Vec::new(), first: at, next: at, records: 0 }
    }

    /// Builds the chunk that begins at `from`, of consecutive runs: the first offset of each, the offset after
    /// it, and its blocks. The first run covers `from`. Where offsets are sparse there may be no record between
    /// `from` and the end of that run; the chunk then has a higher `next`, and no runs.
    ///
    /// # Errors
    /// A run is not made of blocks.
    pub fn of(
        from: Offset,
        runs: impl Iterator<Item = (Offset, Offset, Bytes)>,
        numbering: Numbering,
    ) -> Result<Self, Malformed> {
        let mut chunk = Self::empty(from);
        for (first, end, blocks) in runs {
            if first < from {
                chunk.runs.extend(starting_at(&blocks, from)?);
            } else {
                chunk.runs.push(blocks);
            }
            chunk.next = end;
        }
        chunk.records = match numbering {
            Numbering::Dense => chunk.next.since(from),
            Numbering::Sparse => count(&chunk.runs)?,
        };
        Ok(chunk)
    }

    /// Bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(Bytes::len).sum()
    }
}

fn count(runs: &[Bytes]) -> Result<u64, Malformed> {
    let mut records = 0;
    for run in runs {
        for block in Blocks::new(run) {
            records += block?.count();
        }
    }
    Ok(records)
}
