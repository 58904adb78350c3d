//! Copies of records that are given up, in the dead letter topic.

use bytes::{Bytes, BytesMut};

use super::logic::{Copied, Fence, GroupId, GroupName, Span};
use super::recent::Recent;
use super::source;
use crate::record::block::{Blocks, records_fields};
use crate::record::protobuf::put_bytes;
use crate::record::{Batch, BatchLimits, TopicName};
use crate::storage::{Error, Hold, Retention, TopicLog};
use crate::topic::{self, Topics};

/// Tag of a record's headers: field 3, length-delimited.
const HEADERS_TAG: u8 = 0x1a;
/// Tags of a header's key and value: fields 1 and 2, length-delimited.
const HEADER_KEY_TAG: u8 = 0x0a;
const HEADER_VALUE_TAG: u8 = 0x12;
/// Bytes that the headers of a copy may add to a batch.
const HEADERS_BYTES_MAX: u32 = 8 << 10;

/// A record that is given up.
#[derive(Debug)]
pub(super) struct Copy {
    pub group: GroupId,
    pub name: GroupName,
    pub offset: u64,
    pub deliveries: u32,
    /// Fence up to which tokens of the group settle nothing: it rises whenever records are opened again.
    pub void_to: Fence,
    pub reason: Option<Box<str>>,
}

/// Publishes a copy. It is stored once within the window of request ids, however often it is published.
///
/// # Errors
/// The reason why the dead letter topic did not take it, for people.
pub(super) async fn publish(
    topics: &Topics,
    (topic, recent): (&dyn TopicLog, &Recent),
    to: &TopicName,
    copy: Copy,
    limits: BatchLimits,
) -> Result<Copied, String> {
    let span = Span { start: copy.offset, end: copy.offset + 1 };
    let runs = match source::read(topic, recent, &[span]).await {
        Ok(runs) => runs,
        // Retention took the record, so that there is nothing to copy.
        Err(Error::Trimmed { .. } | Error::TopicNotFound) => return Ok(Copied::Gone),
        Err(error) => return Err(error.to_string()),
    };
    let Some(record) = runs.first().and_then(record_of) else { return Ok(Copied::Gone) };
    let record = with_headers(&record, topic, &copy);
    let limits = BatchLimits { bytes_max: limits.bytes_max.saturating_add(HEADERS_BYTES_MAX), ..limits };
    // A record that was opened again and is given up again gets another copy.
    let id = format!("dead-letter/{:016x}/{:x}/{}", copy.group.0, copy.void_to.0, copy.offset);
    let batch = Batch::check(records_fields([&record[..]]), limits)
        .and_then(|batch| batch.with_request_id(&id))
        .map_err(|violation| violation.to_string())?;
    let log = obtain(topics, to).await.map_err(|error| error.to_string())?;
    let appended = log.appender().append(vec![batch], Hold::default()).await;
    match (appended.receipts.first(), appended.failure) {
        (Some(_), _) => Ok(Copied::Stored),
        // The copy was stored before a crash, after which the reason is not known any more.
        (None, Some(Error::RequestIdReused { .. })) => Ok(Copied::Stored),
        (None, Some(error)) => Err(error.to_string()),
        (None, None) => Err("no answer of the storage".to_owned()),
    }
}

async fn obtain(topics: &Topics, to: &TopicName) -> Result<std::sync::Arc<dyn TopicLog>, topic::Error> {
    match topics.get(to).await {
        Err(topic::Error::Storage(Error::TopicNotFound)) => {}
        found => return found,
    }
    match topics.create(to.clone(), Retention::default()).await {
        Ok(_) | Err(topic::Error::Storage(Error::TopicExists)) => topics.get(to).await,
        Err(error) => Err(error),
    }
}

fn record_of(run: &Bytes) -> Option<Bytes> {
    let block = Blocks::new(run).next()?.ok()?;
    let record = block.records().next()?;
    Some(run.slice_ref(record))
}

/// The record with the headers that name its source. Headers that it has already are replaced.
fn with_headers(record: &Bytes, topic: &dyn TopicLog, copy: &Copy) -> BytesMut {
    let mut out = BytesMut::from(&record[..]);
    let headers = [
        ("streamway-topic", topic.name().to_string()),
        ("streamway-epoch", topic.epoch().to_string()),
        ("streamway-group", copy.name.to_string()),
        ("streamway-offset", copy.offset.to_string()),
        ("streamway-deliveries", copy.deliveries.to_string()),
    ];
    for (key, value) in headers {
        put_header(key, &value, &mut out);
    }
    if let Some(reason) = &copy.reason {
        put_header("streamway-reason", reason, &mut out);
    }
    out
}

fn put_header(key: &str, value: &str, out: &mut BytesMut) {
    let mut entry = BytesMut::new();
    put_bytes(HEADER_KEY_TAG, key.as_bytes(), &mut entry);
    put_bytes(HEADER_VALUE_TAG, value.as_bytes(), &mut entry);
    put_bytes(HEADERS_TAG, &entry, out);
}
