//! The handle of a topic, which implements the storage contract for the embedded log.

use std::sync::Arc;
use std::time::Duration;

use super::ids;
use super::queue::{Queue, TopicQueue};
use super::reader::{self, Files};
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::append::OrderedAppender;
use crate::storage::contract::FirstIds;
use crate::storage::topic_state::TopicState;
use crate::storage::{Appender, BoxFuture, Chunk, Error, Start, Stored, StoredId, TopicInfo, TopicLog};

/// A topic, with everything needed to read it and to append to it.
#[derive(Debug)]
pub struct Handle {
    /// The topic.
    pub topic: Arc<Topic>,
    /// Open segment files.
    pub files: Arc<Files>,
    /// Queue of the committer.
    pub queue: Queue,
    /// Time for which request ids are remembered.
    pub request_id_window: Duration,
}

impl TopicLog for Handle {
    fn state(&self) -> &TopicState {
        &self.topic.state
    }

    fn info(&self) -> TopicInfo {
        self.topic.info()
    }

    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>> {
        Box::pin(async move {
            let state = &self.topic.state;
            let (earliest, tail) = (state.earliest(), state.tail());
            match start {
                Start::Earliest => Ok(earliest),
                Start::Latest => Ok(tail),
                Start::At(offset) => state.check_readable(offset).map(|()| offset),
                Start::Last(records) => Ok(earliest.max(Offset::new(tail.get().saturating_sub(records)))),
                Start::Time(time) => {
                    let (topic, files) = (self.topic.clone(), self.files.clone());
                    blocking(move || reader::offset_at(&topic, &files, time)).await
                }
            }
        })
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>> {
        Box::pin(async move {
            self.topic.state.check_readable(from)?;
            if let Some(chunk) = self.topic.state.read_cached(from, bytes_max) {
                return Ok(chunk);
            }
            let (topic, files) = (self.topic.clone(), self.files.clone());
            blocking(move || reader::read(&topic, &files, from, bytes_max)).await
        })
    }

    fn appender(&self) -> Box<dyn Appender> {
        let sink = TopicQueue { topic: self.topic.clone(), queue: self.queue.clone() };
        Box::new(OrderedAppender::new(sink))
    }

    fn request_ids(&self, from: Offset, limit: usize) -> BoxFuture<'_, Result<Vec<StoredId>, Error>> {
        Box::pin(async move {
            let found = self.filed_ids(FirstIds::new(from, limit)).await?;
            if !found.wants(Offset::MAX) {
                return Ok(found.finish());
            }
            // These first: what is written to a file meanwhile is then found twice, and not missed.
            let sections = self.queue.ids(self.topic.id).await?;
            let mut found = self.filed_ids(found).await?;
            ids::take_sections(&sections, &mut found);
            Ok(found.finish())
        })
    }
}

impl Handle {
    /// Looks for request ids in the files.
    async fn filed_ids(&self, mut found: FirstIds) -> Result<FirstIds, Error> {
        let mut index = self.files.ids.clone().lock_owned().await;
        let age = u64::try_from(self.request_id_window.as_micros()).unwrap_or(u64::MAX);
        let (topic, since) = (self.topic.id, UnixMicros(UnixMicros::now().0.saturating_sub(age)));
        let files = self.files.clone();
        // The turn is over with the reading, even if nobody waits for it.
        blocking(move || files.request_ids(&mut index, (topic, since), &mut found).map(|()| found)).await
    }
}

/// Runs a file read on a blocking thread, away from the async workers.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unavailable {
            reason: format!("reading was interrupted: {error}"),
            stored: Stored::Nothing,
        }),
    }
}
