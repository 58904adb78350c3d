//! Taking up a stream where it was left: its state, a consumer, and the request ids stored lately.
//! Never: changes a follower; it is handed what was found.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::Stream;
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::group::Seen;
use super::message::{Digest, Head, end_of, start_of};
use super::names::Meta;
use super::nats::unavailable;
use super::search;
use super::topic::Topic;
use crate::storage::{Error, window};

/// Most messages asked for ahead.
const AHEAD_MESSAGES: usize = 256;
/// Most bytes asked for ahead.
const AHEAD_BYTES: usize = 8 << 20;
/// How long NATS keeps a request for messages that have not come yet.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
/// Silence after which NATS says that the consumer lives; it is taken for gone after twice that.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A stream that is read again.
pub struct Attached {
    /// The end of what was read before, or where reading begins.
    pub seen: Seen,
    /// What comes after it.
    pub feed: Stream,
    /// Whether something in between was trimmed before it was read.
    pub jumped: bool,
}

/// Why a stream is not read.
#[derive(Debug)]
pub enum Lost {
    /// The topic was deleted.
    Gone,
    /// NATS cannot answer.
    Error(Error),
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// An answer that is awaited.
pub type Looking = Pin<Box<dyn Future<Output = Result<Option<Info>, Error>> + Send>>;

/// Asks NATS what there is, after a pause.
pub fn look(topic: &Arc<Topic>, pause: Duration) -> Looking {
    let topic = topic.clone();
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        topic.nats.info(&topic.stream).await
    })
}

/// Reads a stream from `seen` on, or from its end; after a pause, and once NATS can be reached.
pub async fn attach(topic: Arc<Topic>, seen: Option<Seen>, pause: Duration) -> Result<Attached, Lost> {
    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
    topic.nats.link.up().await;
    let info = topic.nats.info(&topic.stream).await?.ok_or(Lost::Gone)?;
    let meta = Meta::of(&info.config).filter(|meta| meta.epoch == topic.epoch).ok_or(Lost::Gone)?;
    topic.refresh(meta, &info);
    let (first, last) = (info.state.first_sequence, info.state.last_sequence);
    if seen.is_some_and(|seen| last < seen.sequence) {
        let what = "the stream ends before what it acknowledged: a server that lost data, or is behind";
        tracing::error!(topic = %topic.name, last, "{what}");
        return Err(unavailable(what).into());
    }
    let trimmed = first.saturating_sub(1);
    let (seen, jumped) = match seen {
        Some(seen) if seen.sequence >= trimmed => (seen, false),
        Some(_) => (at(&topic, trimmed).await?, true),
        None => (at(&topic, last).await?, true),
    };
    let policy = DeliverPolicy::ByStartSequence { start_sequence: seen.sequence + 1 };
    let consumer = topic.nats.consumer(&topic.stream, policy, false).await?;
    let feed = consumer
        .stream()
        .max_messages_per_batch(AHEAD_MESSAGES)
        .max_bytes_per_batch(AHEAD_BYTES.max(2 * topic.nats.kept.message_bytes_max))
        .expires(REQUEST_EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(unavailable)?;
    Ok(Attached { seen, feed, jumped })
}

/// What is known of the end at `sequence`; where the message was trimmed, only its place.
async fn at(topic: &Topic, sequence: u64) -> Result<Seen, Error> {
    let found = if sequence == 0 { None } else { search::message(topic, sequence).await? };
    Ok(found.map_or(Seen { sequence, next: end_of(sequence), ..Seen::default() }, |message| Seen {
        sequence,
        next: message.next,
        records: message.head.before + u64::from(message.head.records),
        time: message.run.first_time,
    }))
}

/// A request id, and what was stored under it.
pub type Loaded = (Digest, window::Stored);

/// The request ids of the window, up to the message `last`.
pub async fn load_ids(topic: Arc<Topic>, last: u64, pause: Duration) -> Result<Vec<Loaded>, Error> {
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
