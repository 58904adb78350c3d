//! The records of a group's topic: what an owner needs to know of them, and the bytes that a member gets.

use std::time::Duration;

use bytes::Bytes;

use super::logic::{GroupId, KeyHash, ReadItem, Span};
use super::recent::{Recent, Runs};
use crate::record::block::{Blocks, ending_at, runs_starting_at};
use crate::record::walk::Malformed;
use crate::record::{Offset, RecordRef, UnixMicros};
use crate::storage::{Chunk, Error, Numbering, TopicLog};

/// Bytes read at once for an owner.
pub(super) const READ_BYTES: usize = 256 << 10;
/// Bytes read at once for a member.
const LEASE_READ_BYTES: usize = 64 << 10;

/// Reads records for an owner from storage. They are kept for a moment, for the members that get them.
///
/// # Errors
/// Those of [`TopicLog::read`].
pub(super) async fn read_chunk(topic: &dyn TopicLog, recent: &Recent, from: Offset) -> Result<Chunk, Error> {
    let chunk = topic.read(from, READ_BYTES).await?;
    recent.keep(topic.epoch(), &chunk).map_err(damaged)?;
    Ok(chunk)
}

/// Describes the records of a chunk from `from` on to an owner. Hashes keys if `keyed` names the group.
///
/// # Errors
/// The chunk is not made of blocks.
pub(super) fn items(chunk: &Chunk, from: u64, keyed: Option<GroupId>) -> Result<Vec<ReadItem>, Error> {
    let mut items = Vec::with_capacity(usize::try_from(chunk.records).unwrap_or(0));
    for run in &chunk.runs {
        for block in Blocks::new(run) {
            let block = block.map_err(damaged)?;
            for (offset, record) in (block.first.get()..).zip(block.records()) {
                if offset < from {
                    continue;
                }
                let key = keyed.and_then(|group| key_of(record).map(|key| KeyHash::of(group, key)));
                items.push(ReadItem { offset, size: u32::try_from(record.len()).unwrap_or(u32::MAX), key });
            }
        }
    }
    Ok(items)
}

/// The key of a record; none if it is empty.
fn key_of(record: &[u8]) -> Option<&[u8]> {
    let record = RecordRef::parse(Offset::ZERO, UnixMicros(0), record).ok()?;
    Some(record.key).filter(|key| !key.is_empty())
}

fn damaged(Malformed(reason): Malformed) -> Error {
    Error::Damaged(reason.to_owned())
}

/// The records of these spans from memory; none if some of them must be read from disk.
pub(super) fn cached(
    topic: &dyn TopicLog,
    recent: &Recent,
    spans: &[Span],
) -> Result<Option<Vec<Bytes>>, Error> {
    let mut runs = Vec::new();
    for span in spans {
        let mut at = span.start;
        while at < span.end {
            let Some(found) = in_memory(topic, recent, at, span.end) else { return Ok(None) };
            at = take(found, at, span.end, &mut runs)?;
        }
    }
    Ok(Some(runs))
}

/// Records from the one at `at` on, up to about `end`, if they are in memory.
fn in_memory(topic: &dyn TopicLog, recent: &Recent, at: u64, end: u64) -> Option<Runs> {
    let at = Offset::new(at);
    let cached = topic.read_cached(at, LEASE_READ_BYTES).map(Runs::from);
    cached.or_else(|| recent.find(topic.epoch(), at, end).filter(|_| at >= topic.earliest()))
}

/// The records of these spans. A span beyond the tail ends there.
///
/// # Errors
/// The storage failed, or [`Error::Trimmed`]: some of the records are not kept any more.
pub(super) async fn read(topic: &dyn TopicLog, recent: &Recent, spans: &[Span]) -> Result<Vec<Bytes>, Error> {
    let mut runs = Vec::new();
    for span in spans {
        let mut at = span.start;
        while at < span.end {
            let found = match in_memory(topic, recent, at, span.end) {
                Some(found) => found,
                None => {
                    let bytes = bytes_of(topic, recent, at, span.end);
                    let chunk = topic.read(Offset::new(at), bytes).await?;
                    recent.keep(topic.epoch(), &chunk).map_err(damaged)?;
                    chunk.into()
                }
            };
            let before = at;
            at = take(found, at, span.end, &mut runs)?;
            if at == before {
                break;
            }
        }
    }
    Ok(runs)
}

/// Bytes to read at once for the records from `at` up to `end`. Where offsets are sparse, a short span is within a batch,
/// which is read alone unless batch after batch is being read.
fn bytes_of(topic: &dyn TopicLog, recent: &Recent, at: u64, end: u64) -> usize {
    /// Most offsets of a batch.
    const BATCH_OFFSETS: u64 = 1024;
    let is_sparse = topic.state().numbering() == Numbering::Sparse;
    let is_alone = is_sparse && end - at <= BATCH_OFFSETS && !recent.ends_at(topic.epoch(), Offset::new(at));
    if is_alone { 1 } else { LEASE_READ_BYTES }
}

/// Age of the record at `offset`, or of the next one; none if it is not in memory.
pub(super) fn cached_age(topic: &dyn TopicLog, offset: Offset) -> Option<Duration> {
    topic.read_cached(offset, 1).and_then(|chunk| age(&chunk))
}

/// Age of the first record of a chunk.
pub(super) fn age(chunk: &Chunk) -> Option<Duration> {
    let block = Blocks::new(chunk.runs.first()?).next()?.ok()?;
    Some(Duration::from_micros(UnixMicros::now().0.saturating_sub(block.time().0)))
}

/// Adds what runs hold of the records from `at` up to `end`. Returns the next offset to read.
fn take(found: Runs, at: u64, end: u64, runs: &mut Vec<Bytes>) -> Result<u64, Error> {
    let Runs { runs: mut found, first, next } = found;
    if first < at {
        found = runs_starting_at(&found, Offset::new(at)).map_err(damaged)?;
    }
    if next <= end {
        runs.extend(found);
        return Ok(next);
    }
    for run in &found {
        runs.extend(ending_at(run, Offset::new(end)).map_err(damaged)?);
    }
    Ok(next)
}
