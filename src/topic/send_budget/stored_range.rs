//! Delivered blocks as a range of a log, from which they can be read again.

use std::sync::Arc;

use bytes::Bytes;

use crate::record::walk::Malformed;
use crate::record::{Offset, block};
use crate::storage::{Error, TopicLog};

/// Bytes of one read.
const READ_BYTES: usize = 256 << 10;

/// A range of a topic's records.
#[derive(Clone)]
pub struct StoredRange {
    /// The topic.
    pub log: Arc<dyn TopicLog>,
    /// Offset of the first record.
    pub from: Offset,
    /// Offset after the last record.
    pub to: Offset,
}

impl StoredRange {
    /// Reads the blocks of the range.
    ///
    /// # Errors
    /// Some of the records are no longer stored, or the storage fails.
    pub async fn read(self) -> Result<Vec<Bytes>, Error> {
        let malformed = |what: Malformed| Error::Damaged(what.0.to_owned());
        let (mut runs, mut at) = (Vec::new(), self.from);
        while at < self.to {
            let chunk = self.log.read(at, READ_BYTES).await?;
            if chunk.runs.is_empty() || chunk.next <= at {
                return Err(Error::Damaged("records of a delivery are no longer stored".to_owned()));
            }
            let mut read = if chunk.first < at {
                block::runs_starting_at(&chunk.runs, at).map_err(malformed)?
            } else {
                chunk.runs
            };
            if chunk.next > self.to {
                let cut: Result<Vec<_>, _> = read.iter().map(|run| block::ending_at(run, self.to)).collect();
                read = cut.map_err(malformed)?.into_iter().flatten().collect();
            }
            runs.extend(read);
            at = chunk.next;
        }
        Ok(runs)
    }
}
