//! The search of a dead letter topic for the records of a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::Error;
use super::info::Info;
use super::logic::Span;
use super::requests::Redrive;
use crate::record::block::{Block, Blocks, records_fields};
use crate::record::walk::Malformed;
use crate::record::{Batch, BatchLimits, Offset, RecordRef};
use crate::storage::{self, Hold, TopicLog};
use crate::topic::{self, Topics};

/// Bytes of the dead letter topic that are searched at a time.
const READ_BYTES: usize = 1 << 20;

/// A search that is under way.
pub(super) struct Search {
    info: Info,
    topic: Arc<dyn TopicLog>,
    dead_letters: Arc<dyn TopicLog>,
    at: Offset,
    /// Tail of the dead letter topic at the begin: what is given up again meanwhile is not delivered again.
    end: Offset,
    redrive: Redrive,
}

/// Records that a part of the search found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that the topic holds, in order.
    pub offsets: Vec<u64>,
    /// The offset of the dead letter topic up to which it was searched; 0 where a request named the records.
    pub searched_to: u64,
    /// Copies that were published to the topic again.
    pub republished: u64,
    /// Records that the topic does not hold any more.
    pub missing: u64,
}

impl Search {
    /// Begins where the last one of the group ended, or with the first copy if the request names records. None if there
    /// is no dead letter topic.
    pub(super) async fn begin(topics: &Topics, info: Info, redrive: Redrive) -> Result<Option<Self>, Error> {
        let Some(name) = info.settings.dead_letter_topic.clone() else { return Ok(None) };
        let topic = topics.get(&info.topic).await?;
        let dead_letters = match topics.get(&name).await {
            Err(topic::Error::Storage(storage::Error::TopicNotFound)) => return Ok(None),
            found => found?,
        };
        let from = if redrive.spans.is_empty() { info.status.redriven_to } else { 0 };
        let at = Offset::new(from).max(dead_letters.earliest());
        let end = dead_letters.tail();
        Ok(Some(Self { info, topic, dead_letters, at, end, redrive }))
    }

    /// Searches the next part; none at the end.
    pub(super) async fn next(&mut self, limits: BatchLimits) -> Result<Option<Found>, Error> {
        if self.at >= self.end {
            return Ok(None);
        }
        let chunk = match self.dead_letters.read(self.at, READ_BYTES).await {
            // Retention took some of the copies meanwhile.
            Err(storage::Error::Trimmed { earliest, .. }) => {
                self.at = earliest;
                return Ok(Some(Found::default()));
            }
            read => read.map_err(topic::Error::from)?,
        };
        let damaged = |Malformed(reason)| {
            topic::Error::from(storage::Error::Damaged(format!("malformed message: {reason}")))
        };
        let (mut offsets, mut gone) = (BTreeSet::new(), Vec::new());
        for run in &chunk.runs {
            for block in Blocks::new(run) {
                let block = block.map_err(damaged)?;
                self.search(&block, &mut offsets, &mut gone).map_err(damaged)?;
            }
        }
        self.at = chunk.next.min(self.end);
        let searched_to = if self.redrive.spans.is_empty() { self.at.get() } else { 0 };
        let mut found = Found { offsets: offsets.into_iter().collect(), searched_to, ..Found::default() };
        for (offset, record) in gone {
            if self.redrive.republish_trimmed {
                found.republished += u64::from(self.republish(offset, &record, limits).await?);
            } else {
                found.missing += 1;
            }
        }
        Ok(Some(found))
    }

    /// Adds the copies of a block that are searched for: the offsets of records that the topic holds, and the offset and
    /// bytes of those that it does not.
    fn search(
        &self,
        block: &Block<'_>,
        offsets: &mut BTreeSet<u64>,
        gone: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<(), Malformed> {
        for (at, encoded) in (block.first.get()..).zip(block.records()) {
            if at < self.at.get() || at >= self.end.get() {
                continue;
            }
            let record = RecordRef::parse(Offset::new(at), block.time(), encoded)?;
            match self.source(&record) {
                Some(offset) if offset < self.topic.earliest().get() => gone.push((offset, encoded.to_vec())),
                Some(offset) => drop(offsets.insert(offset)),
                None => {}
            }
        }
        Ok(())
    }

    /// The offset that a copy came from, if it is of this group and asked for.
    fn source(&self, record: &RecordRef<'_>) -> Option<u64> {
        let header = |name| record.headers().filter(|(key, _)| *key == name).last().map(|(_, value)| value);
        let is_ours = header("streamway-group")? == self.info.name.as_str()
            && header("streamway-topic")? == self.info.topic.as_str()
            && header("streamway-epoch")? == self.info.topic_epoch.to_string();
        let offset = header("streamway-offset")?.parse().ok()?;
        let is_asked = self.redrive.spans.is_empty()
            || self.redrive.spans.iter().any(|span: &Span| span.contains(offset));
        (is_ours && is_asked).then_some(offset)
    }

    /// Publishes a copy to the topic again. Returns false if it was before.
    async fn republish(&self, offset: u64, record: &[u8], limits: BatchLimits) -> Result<bool, Error> {
        let invalid = |reason: String| {
            let stored = storage::Stored::Nothing;
            Error::Topic(storage::Error::Unavailable { reason, stored }.into())
        };
        // The headers of a copy may make it larger than a batch.
        let limits = BatchLimits { bytes_max: u32::MAX, ..limits };
        let id = format!("redrive/{:016x}/{offset}", self.info.id.0);
        let batch =
            Batch::check(records_fields([record]), limits).and_then(|batch| batch.with_request_id(&id));
        let batch = batch.map_err(|violation| invalid(violation.to_string()))?;
        let appended = self.topic.appender().append(vec![batch], Hold::default()).await;
        match (appended.receipts.first(), appended.failure) {
            (Some(receipt), _) => Ok(!receipt.duplicate),
            (None, failure) => Err(topic::Error::from(failure.unwrap_or(storage::Error::Closing)).into()),
        }
    }
}
