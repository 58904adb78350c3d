//! A topic as the contract wants it: whoever waits for it has it followed.
//! Never: decides anything.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Topic;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::jetstream::queue::OrderedAppender;
use crate::storage::jetstream::{read, search};
use crate::storage::{Appender, BoxFuture, Chunk, Error, Start, TopicInfo, TopicLog};

/// Counts who waits, so that the follower goes on.
struct Waiting<'a>(&'a Topic);

impl<'a> Waiting<'a> {
    fn new(topic: &'a Topic) -> Self {
        topic.waiting.fetch_add(1, Ordering::AcqRel);
        Self(topic)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A topic as the contract wants it.
#[derive(Debug)]
pub struct Handle(pub Arc<Topic>);

impl Handle {
    fn following<'a, T: Send + 'a>(&'a self, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let _waiting = Waiting::new(&self.0);
            self.0.follow();
            work.await
        })
    }
}

impl TopicLog for Handle {
    fn name(&self) -> &TopicName {
        &self.0.name
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    fn info(&self) -> TopicInfo {
        self.0.info()
    }

    fn tail(&self) -> Offset {
        self.0.tail()
    }

    fn earliest(&self) -> Offset {
        self.0.floor()
    }

    fn is_deleted(&self) -> bool {
        self.0.is_deleted()
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()> {
        self.following(self.0.wait_beyond(offset))
    }

    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>> {
        self.following(search::resolve(&self.0, start))
    }

    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        self.0.touch();
        self.0.read_cached(from, bytes_max)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>> {
        Box::pin(async move {
            self.0.touch();
            read::read(&self.0, from, bytes_max).await
        })
    }

    fn appender(&self) -> Box<dyn Appender> {
        Box::new(OrderedAppender::new(self.0.clone()))
    }
}
