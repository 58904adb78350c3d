//! A topic of the destination. Its records from an earlier run are compared with the source one by one, and the copy
//! continues after them. Nothing is published after records that differ from the source's.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Code;

use super::offsets::Offsets;
use super::progress::Progress;
use super::source::{Batches, whole};
use crate::cli::Failure;
use crate::client::{Client, Encoded, Publisher, PublisherOptions, RetryPolicy};
use crate::proto::v1;

/// A server to which topics are copied.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) retry: RetryPolicy,
    pub(super) offsets: Option<Arc<Offsets>>,
}

impl Target {
    /// Copies one topic, then sets its retention to the source's.
    pub(super) async fn copy(
        &self,
        topic: &v1::Topic,
        batches: &mut Batches,
        progress: &Arc<Progress>,
    ) -> Result<(), Failure> {
        let here = self.topic(&topic.name).await?;
        let mut existing = Existing {
            name: &topic.name,
            batches: self.present(&here),
            ready: Vec::new(),
            at: here.earliest_offset,
        };
        if let Some(offsets) = &self.offsets {
            offsets.topic(topic, &here.epoch);
        }
        let publisher = self.publisher(topic, progress)?;
        let mut is_comparing = true;
        while let Some(block) = batches.next().await? {
            let batch = whole(&block)?;
            progress.pass(block.len() as u64);
            if is_comparing {
                let found = existing.take(&block).await?;
                is_comparing = found.is_some();
                if let (Some(offset), Some(offsets)) = (found, &self.offsets) {
                    offsets.note(batch.first.get(), offset, batch.count())?;
                }
            }
            if is_comparing {
                progress.there(batch.count());
                continue;
            }
            if let Some(offsets) = &self.offsets {
                offsets.sent(batch.first.get());
            }
            let traceparent = std::str::from_utf8(batch.traceparent()).unwrap_or_default();
            // The id is the same for every copy of this batch to this place within the server's window: for a second
            // copy at the same time, and for a request of an earlier copy that is still on its way.
            let id = format!("copy-{}-{}-{}", topic.epoch, batch.first, here.earliest_offset);
            let encoded = Encoded {
                records: block.slice_ref(batch.encoded_records()),
                count: u32::try_from(batch.count()).unwrap_or(u32::MAX),
                request_id: Some(id.into()),
                traceparent: traceparent.into(),
            };
            // Closing the publisher reports whether all of them are durable.
            drop(publisher.publish_encoded(encoded).await?);
            progress.copied(0, block.len() as u64);
        }
        if is_comparing && existing.more().await? {
            return Err(existing.differs("more records than the source"));
        }
        publisher.close().await?;
        self.finish(topic, &here).await
    }

    fn publisher(&self, topic: &v1::Topic, progress: &Arc<Progress>) -> Result<Publisher, Failure> {
        let (progress, offsets) = (Arc::clone(progress), self.offsets.clone());
        let options = PublisherOptions {
            retry: self.retry,
            on_stored: Some(Arc::new(move |stored| {
                progress.copied(u64::from(stored.records), 0);
                if let Some(offsets) = &offsets {
                    offsets.stored(stored.receipt.first.get(), u64::from(stored.records));
                }
            })),
            ..PublisherOptions::default()
        };
        Ok(self.client.publisher(&topic.name, options)?)
    }

    /// Returns the destination's topic, and creates it if it does not exist. The source's retention is not set yet, so
    /// that no record expires before the copy is complete.
    async fn topic(&self, name: &str) -> Result<v1::Topic, Failure> {
        match self.client.topics().get(name).await {
            Ok(topic) => Ok(topic),
            Err(error) if error.code() == Code::NotFound => {
                Ok(self.client.topics().create(name, None).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn present(&self, here: &v1::Topic) -> Batches {
        Batches::served(&self.client, self.retry, &here.name, None)
    }

    /// Sets the retention to the source's.
    pub(super) async fn finish(&self, topic: &v1::Topic, here: &v1::Topic) -> Result<(), Failure> {
        let (wanted, found) = (topic.retention.unwrap_or_default(), here.retention.unwrap_or_default());
        if wanted != found {
            let changed =
                v1::Topic { name: topic.name.clone(), retention: Some(wanted), ..Default::default() };
            self.client.topics().update(changed, vec!["retention".into()]).await?;
        }
        Ok(())
    }
}

/// Records that a topic of the destination holds.
struct Existing<'a> {
    name: &'a str,
    batches: Batches,
    /// The next records in reverse order: offset and bytes of each.
    ready: Vec<(u64, Bytes)>,
    at: u64,
}

impl Existing<'_> {
    /// Reads ahead. Returns true if there are more records.
    async fn more(&mut self) -> Result<bool, Failure> {
        while self.ready.is_empty() {
            let Some(block) = self.batches.next().await? else { return Ok(false) };
            let batch = whole(&block)?;
            let records = batch.records().map(|record| block.slice_ref(record));
            self.ready = (0..).zip(records).map(|(i, record)| (batch.first.plus(i).get(), record)).collect();
            self.ready.reverse();
        }
        Ok(true)
    }

    /// Compares the next records with a batch of the source. Returns the offset of the first one, or `None` if there
    /// are no more records.
    async fn take(&mut self, block: &Bytes) -> Result<Option<u64>, Failure> {
        let mut first = None;
        for record in whole(block)?.records() {
            if !self.more().await? {
                return match first {
                    None => Ok(None),
                    Some(_) => Err(self.differs("part of a batch of the source")),
                };
            }
            let Some((at, found)) = self.ready.pop() else { return Ok(None) };
            self.at = at;
            if found != record {
                return Err(self.differs("other records than the source"));
            }
            first = first.or(Some(at));
        }
        Ok(first)
    }

    fn differs(&self, what: &str) -> Failure {
        Failure::failed(format!(
            "topic {} of the destination holds {what}, at offset {}: it was published to, or one of the \
             two has forgotten records since an earlier copy. Nothing more was copied; delete the topic \
             there, or copy to another server",
            self.name, self.at
        ))
    }
}
