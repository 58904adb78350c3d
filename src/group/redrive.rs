//! The search of a dead letter topic for the records of a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::Error;
use super::info::Info;
use super::logic::Span;
use super::requests::Redrive;
use crate::record::block::{Blocks, records_fields};
use crate::record::walk::{Fields, Value};
use crate::record::{Batch, BatchLimits, Offset};
use crate::storage::{self, Hold, TopicLog};
use crate::topic::{self, Topics};

/// Bytes of the dead letter topic that are searched at a time.
const READ_BYTES: usize = 1 << 20;
/// Number of a record's field with its headers.
const HEADERS: u32 = 3;

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
        let (mut offsets, mut gone) = (BTreeSet::new(), Vec::new());
        for run in &chunk.runs {
            for block in Blocks::new(run) {
                let block = block.map_err(|e| topic::Error::from(storage::Error::Damaged(e.to_string())))?;
                for (at, record) in (block.first.get()..).zip(block.records()) {
                    let source =
                        (self.at.get() <= at && at < self.end.get()).then(|| self.source(record)).flatten();
                    match source {
                        Some(offset) if offset >= self.topic.earliest().get() => {
                            offsets.insert(offset);
                        }
                        Some(offset) => gone.push((offset, record.to_vec())),
                        None => {}
                    }
                }
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

    /// The offset that a copy came from, if it is of this group and asked for.
    fn source(&self, record: &[u8]) -> Option<u64> {
        let is_ours = header(record, "streamway-group")? == self.info.name.as_str()
            && header(record, "streamway-topic")? == self.info.topic.as_str()
            && header(record, "streamway-epoch")? == self.info.topic_epoch.to_string();
        let offset = header(record, "streamway-offset")?.parse().ok()?;
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

/// The value of a header; the last one if there are several.
fn header<'a>(record: &'a [u8], name: &str) -> Option<&'a str> {
    let entries = Fields::new(record).map_while(Result::ok).filter(|field| field.number == HEADERS);
    let values = entries.filter_map(|field| match field.value {
        Value::Len(range) => Some(range),
        _ => None,
    });
    let values = values.filter_map(|entry| {
        let mut text = ["", ""];
        for field in Fields::within(record, entry).map_while(Result::ok) {
            if let (at @ (1 | 2), Value::Len(range)) = (field.number, field.value) {
                text[at as usize - 1] = std::str::from_utf8(&record[range]).ok()?;
            }
        }
        (text[0] == name).then_some(text[1])
    });
    values.last()
}
