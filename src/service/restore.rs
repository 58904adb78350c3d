//! RestoreTopic: a topic as its backup holds it, with the offsets that its records had.

use std::sync::Arc;

use bytes::Bytes;

use super::described::numbering;
use super::request;
use super::status::Error;
use crate::proto::v1;
use crate::record::block::{Block, Blocks};
use crate::record::{Batch, BatchLimits, Offset, RequestId, Scope, TopicName};
use crate::storage::{self, Ancestor, CUT_MAX, Lineage, StoredId, TopicLog};
use crate::topic::{self, Permit, Topics, store_restored};

/// A valid request, without its batches.
pub(super) struct Restore {
    pub(super) name: TopicName,
    first: Offset,
    lineage: Lineage,
}

impl Restore {
    /// Checks all fields but the batches, for a server with these topics.
    pub(super) async fn check(topics: &Topics, asked: &v1::RestoreTopicRequest) -> Result<Self, Error> {
        let name = request::topic("name", &asked.name)?;
        if asked.restored_from.is_empty() {
            return Err(Error::field("restored_from", "empty"));
        }
        let ancestors = asked.restored_from.iter().map(ancestor).collect::<Result<_, _>>()?;
        let lineage = Lineage::new(ancestors).map_err(|rule| Error::field("restored_from", rule))?;
        let first = Offset::new(asked.first_offset);
        if first > lineage.cut() {
            return Err(Error::field("first_offset", "beyond the cut"));
        }
        let is_step = |offset: Offset| offset.get().is_multiple_of(1024);
        if asked.numbering() == v1::OffsetNumbering::Sparse && !(is_step(first) && is_step(lineage.cut())) {
            return Err(Error::field("first_offset", "it or the cut is not a multiple of 1024"));
        }
        if asked.numbering() == v1::OffsetNumbering::Unspecified {
            return Err(Error::field("numbering", "not a known numbering"));
        }
        if asked.numbering() != numbering(topics.numbering().await?) {
            return Err(Error::Numbering);
        }
        Ok(Self { name, first, lineage })
    }

    /// Returns the topic to which this backup is being restored, or was; creates it if there is none of the name.
    ///
    /// # Errors
    /// A topic of the name exists, and is not of this backup.
    pub(super) async fn topic(&self, topics: &Topics) -> Result<Arc<dyn TopicLog>, Error> {
        let found = match topics.get(&self.name).await {
            Err(topic::Error::Storage(storage::Error::TopicNotFound)) => {
                match topics.restore(self.name.clone(), self.first, self.lineage.clone()).await {
                    // Another call of the same restore may have created it meanwhile.
                    Err(topic::Error::Storage(storage::Error::TopicExists)) => topics.get(&self.name).await?,
                    created => return Ok(created?),
                }
            }
            found => found?,
        };
        if found.state().lineage != self.lineage {
            return Err(storage::Error::TopicExists.into());
        }
        Ok(found)
    }

    /// Checks the batches of a request, before anything of it is stored. Returns each with the offset after its last record.
    pub(super) fn batches(
        &self,
        saved: &[v1::RestoredBatch],
        limits: BatchLimits,
    ) -> Result<Vec<(Offset, Batch)>, Error> {
        let check = |(index, saved): (usize, &v1::RestoredBatch)| {
            let field = || format!("batches[{index}].batch");
            let block = only(&saved.batch).ok_or_else(|| Error::field(field(), "not one batch"))?;
            let end = block.first.plus(block.count());
            if end > self.lineage.cut() {
                return Err(Error::field(field(), "beyond the cut"));
            }
            let records = saved.batch.slice_ref(block.encoded_records());
            let traceparent = std::str::from_utf8(block.traceparent()).unwrap_or_default();
            let batch = Batch::check(Bytes::copy_from_slice(&records), limits)
                .map_err(|violation| Error::batch(&format!("batches[{index}]."), &violation))?;
            let batch = batch.with_traceparent(traceparent).restored(block.first);
            match &saved.request_id {
                None => Ok((end, batch)),
                Some(id) => Ok((end, batch.with_stored_id(stored_id(id, index)?))),
            }
        };
        saved.iter().enumerate().map(check).collect()
    }

    /// Stores those batches that are not stored yet.
    ///
    /// # Errors
    /// A batch is not the next one of the backup; or the storage fails.
    pub(super) async fn store(
        &self,
        topic: &dyn TopicLog,
        batches: Vec<(Offset, Batch)>,
        permit: &Arc<Permit>,
    ) -> Result<(), Error> {
        let tail = topic.tail();
        let rest = batches.into_iter().filter(|(end, _)| *end > tail).map(|(_, batch)| batch).collect();
        match store_restored(topic, permit, rest).await {
            // Another call of the same restore has stored them, or stores them now.
            Err(topic::Error::Storage(storage::Error::ExpectedOffset { .. })) if topic.tail() > tail => {
                Err(storage::Error::Restoring { cut: self.lineage.cut() }.into())
            }
            stored => Ok(stored?),
        }
    }
}

fn ancestor(entry: &v1::RestoredFrom) -> Result<Ancestor, Error> {
    let field = "restored_from.epoch";
    let epoch = request::epoch(field, &entry.epoch)?.ok_or_else(|| Error::field(field, "empty"))?;
    let cut = Offset::new(entry.cut);
    if cut > CUT_MAX {
        return Err(Error::field("restored_from.cut", "larger than 2^62"));
    }
    Ok(Ancestor { epoch, cut })
}

fn stored_id(saved: &v1::StoredRequestId, index: usize) -> Result<RequestId, Error> {
    let field = |name: &str| format!("batches[{index}].request_id.{name}");
    let scope = saved.scope.as_ref().try_into().map(Scope::new);
    let scope = scope.map_err(|_| Error::field(field("scope"), "not 16 bytes"))?;
    RequestId::stored(&saved.id, scope).ok_or_else(|| Error::field(field("id"), "not 1 to 128 bytes"))
}

/// Lists a page of a topic's request ids.
pub(super) async fn request_ids(
    topics: &Topics,
    asked: &v1::ListRequestIdsRequest,
) -> Result<v1::ListRequestIdsResponse, Error> {
    let name = request::topic("name", &asked.name)?;
    let epoch = request::epoch("epoch", &asked.epoch)?;
    let from = match asked.page_token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| Error::field("page_token", "not one that a server gave"))?,
    };
    let topic = topics.get(&name).await?;
    if epoch.is_some_and(|epoch| epoch != topic.epoch()) {
        let (current, resume) = (topic.epoch(), Offset::ZERO);
        return Err(storage::Error::EpochChanged { current, resume }.into());
    }
    let ids = topic.request_ids(Offset::new(from), REQUEST_IDS_MAX).await?;
    let last = ids.last().filter(|_| ids.len() == REQUEST_IDS_MAX);
    let next_page_token = last.map_or_else(String::new, |last| last.first.plus(1).to_string());
    let request_ids = ids.into_iter().map(|StoredId { first, id, scope }| v1::StoredRequestId {
        first_offset: first.get(),
        id,
        scope: Bytes::copy_from_slice(&scope.bytes()),
    });
    Ok(v1::ListRequestIdsResponse { request_ids: request_ids.collect(), next_page_token })
}

/// Largest number of request ids of a page, which then has at most 2 MiB.
const REQUEST_IDS_MAX: usize = 10_000;

/// Reads the single block in these bytes.
fn only(bytes: &Bytes) -> Option<Block<'_>> {
    let mut blocks = Blocks::new(bytes);
    let block = blocks.next()?.ok()?;
    blocks.next().is_none().then_some(block)
}
