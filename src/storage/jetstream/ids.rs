//! The request ids that are stored in a topic (P5): those the follower sees stored, and, read before it
//! appends anything, those stored in the window before.
//! Never: decides what is a duplicate; a group is built on what is known here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::group::key;
use super::message::{Digest, Head, IdEntry, start_of};
use super::nats::unavailable;
use super::search;
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::{Error, window};

type Loading = Pin<Box<dyn Future<Output = Result<Vec<Loaded>, Error>> + Send>>;

/// What a topic's follower knows.
pub struct Ids {
    topic: Arc<Topic>,
    window: window::Window,
    state: State,
    loading: Option<Loading>,
}

/// Whether the window holds every id that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Loading,
    Known,
}

fn empty(topic: &Topic) -> window::Window {
    let storage = &topic.nats.storage;
    window::Window::new(storage.request_id_window, storage.request_ids_max, UnixMicros::now())
}

impl Ids {
    /// Nothing yet.
    #[must_use]
    pub fn new(topic: Arc<Topic>) -> Self {
        Self { window: empty(&topic), topic, state: State::Unknown, loading: None }
    }

    /// Every id stored up to the message `last`. None where they must be read first: that is begun, after
    /// a pause.
    pub fn known(&mut self, last: u64, pause: Duration) -> Option<&window::Window> {
        if self.state == State::Unknown {
            self.state = State::Loading;
            self.loading = Some(Box::pin(load(self.topic.clone(), last, pause)));
        }
        (self.state == State::Known).then_some(&self.window)
    }

    /// Reads what is being read; for ever pending where nothing is. Cancel-safe.
    ///
    /// # Errors
    /// NATS did not give all of them.
    pub async fn loaded(&mut self) -> Result<(), Error> {
        let Some(loading) = &mut self.loading else { return std::future::pending().await };
        let loaded = loading.as_mut().await;
        self.loading = None;
        self.state = State::Unknown;
        for (digest, stored) in loaded? {
            self.insert(&digest, stored);
        }
        self.state = State::Known;
        Ok(())
    }

    /// Takes in those stored with a message.
    pub fn note(&mut self, first: Offset, time: UnixMicros, ids: &[IdEntry]) {
        for IdEntry { index, count, digest } in ids {
            let first = first.plus(u64::from(*index));
            self.insert(digest, window::Stored { first, count: *count, time, at: time });
        }
    }

    fn insert(&mut self, digest: &Digest, stored: window::Stored) {
        self.window.insert(key(&self.window, digest), stored);
    }

    /// A message was not read: they are read again.
    pub fn reload(&mut self) {
        (self.state, self.loading) = (State::Unknown, None);
    }

    /// Messages were trimmed before they were read, and their ids with them.
    pub fn forget(&mut self) {
        self.reload();
        self.window = empty(&self.topic);
    }
}

/// A request id, and what was stored under it.
type Loaded = (Digest, window::Stored);

/// The request ids of the window, up to the message `last`.
async fn load(topic: Arc<Topic>, last: u64, pause: Duration) -> Result<Vec<Loaded>, Error> {
    /// Headers asked for at once: no more than a few MiB.
    const AT_ONCE: usize = 200;
    /// How long the next one may take: what was asked of a connection that was lost, or of a server
    /// that is gone, is never answered.
    const SILENCE_MAX: Duration = Duration::from_secs(4);
    /// A little more than the window: clocks differ.
    const SLACK: Duration = Duration::from_secs(60);
    tokio::time::sleep(pause).await;
    topic.nats.link.up().await;
    let since = search::oldest_id(topic.nats.storage.request_id_window + SLACK);
    let nanos = i128::from(since.0) * 1000;
    let start_time = async_nats::datetime::from_nanos(nanos).map_err(unavailable)?;
    let consumer =
        topic.nats.consumer(&topic.stream, DeliverPolicy::ByStartTime { start_time }, true).await?;
    // Where there is nothing so new, it begins behind what its server has.
    let (mut loaded, mut at) = (Vec::new(), consumer.cached_info().delivered.stream_sequence);
    while at < last {
        let mut messages = consumer.fetch().max_messages(AT_ONCE).messages().await.map_err(unavailable)?;
        let before = at;
        while let Some(message) = timeout(SILENCE_MAX, messages.next()).await.map_err(unavailable)? {
            let message = message.map_err(unavailable)?;
            let info = message.info().map_err(unavailable)?;
            at = at.max(info.stream_sequence);
            if info.stream_sequence > last {
                return Ok(loaded);
            }
            let Some(head) = message.headers.as_ref().and_then(Head::parse) else { continue };
            let base = start_of(info.stream_sequence);
            loaded.extend(head.ids.iter().map(|id| {
                let first = base.plus(u64::from(id.index));
                (id.digest, window::Stored { first, count: id.count, time: head.time, at: head.time })
            }));
        }
        // A server that was restarted has less than the others for a while.
        if at == before {
            return Err(unavailable("the server asked for request ids has not all of them"));
        }
    }
    Ok(loaded)
}
