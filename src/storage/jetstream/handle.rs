//! Implementation of [`TopicLog`] for a topic. A caller that waits for the topic starts its follower if none runs.

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::topic::Topic;
use super::{follower, ids, read, search};
use crate::record::Offset;
use crate::storage::append::{Append, OrderedAppender, Sink};
use crate::storage::topic_state::TopicState;
use crate::storage::{Appender, BoxFuture, Chunk, Error, Start, StoredId, TopicInfo, TopicLog};

/// Handle of a topic that implements [`TopicLog`]. Clones refer to the same topic.
#[derive(Clone, Debug)]
pub struct Handle(pub Arc<Topic>);

impl Handle {
    /// Runs `work`, which waits for the topic, and makes sure that the topic is followed until it ends.
    fn following<'a, T: Send + 'a>(&'a self, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let _waiting = self.0.wait();
            self.start(self.0.claim());
            work.await
        })
    }

    /// Starts the topic's follower if its place was claimed.
    fn start(&self, claimed: Option<TaskTrackerToken>) {
        if claimed.is_some() {
            self.0.nats.tasks.spawn(follower::follow(self.0.clone()));
        }
    }
}

impl Sink for Handle {
    fn push(&self, append: Append) {
        self.start(self.0.push(append));
    }
}

impl TopicLog for Handle {
    fn state(&self) -> &TopicState {
        &self.0.state
    }

    fn info(&self) -> TopicInfo {
        self.0.info()
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()> {
        self.following(self.0.state.wait_beyond(offset))
    }

    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>> {
        self.following(search::resolve(&self.0, start))
    }

    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        self.0.touch();
        self.0.state.read_cached(from, bytes_max)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>> {
        Box::pin(async move {
            self.0.touch();
            read::read(&self.0, from, bytes_max).await
        })
    }

    fn records_between(&self, from: Offset, to: Offset) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(search::records_between(&self.0, from, to))
    }

    fn appender(&self) -> Box<dyn Appender> {
        Box::new(OrderedAppender::new(self.clone()))
    }

    fn request_ids(&self, from: Offset, limit: usize) -> BoxFuture<'_, Result<Vec<StoredId>, Error>> {
        Box::pin(ids::first(&self.0, from, limit))
    }
}
