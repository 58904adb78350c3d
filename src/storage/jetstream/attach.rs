//! Attachment to a stream: its state, and a consumer that continues where reading stopped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{MessagesErrorKind, Stream};
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt;
use tokio::time::{Sleep, sleep};

use super::ages::Ages;
use super::commit::Seen;
use super::lookup;
use super::message::end_of;
use super::names::Meta;
use super::nats::unavailable;
use super::topic::Topic;
use crate::backoff::spread;
use crate::storage::Error;

/// Maximum number of messages requested ahead.
const AHEAD_MESSAGES: usize = 256;
/// Maximum number of bytes requested ahead.
const AHEAD_BYTES: usize = 8 << 20;

/// Time after two heartbeats without a message in which what has arrived is read. A process that was paused finds the
/// heartbeats late, although the messages are there: it need not request them again behind all of these.
const UNREAD: Duration = Duration::from_millis(500);

/// Result of attaching to a stream.
pub struct Attached {
    /// End of the messages that were read before, or the position where reading starts.
    pub seen: Seen,
    /// Sequence of the newest message.
    pub last: u64,
    /// Messages after `seen`.
    pub feed: Feed,
    /// Set if messages were trimmed before they were read.
    pub jumped: bool,
    /// Clock readings for the ages of the messages that follow.
    pub ages: Ages,
}

/// Messages that a stream delivers over one connection.
pub struct Feed {
    messages: Stream,
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// End of [`UNREAD`], once the consumer was silent for two heartbeats.
    silent: Option<Pin<Box<Sleep>>>,
}

impl Feed {
    /// Waits for the next message. Cancel-safe.
    ///
    /// # Errors
    /// The feed ended, for the given reason. It ends when the connection is lost, because the consumer may have been on
    /// the same server and its silence would be noticed much later.
    pub async fn next(&mut self) -> Result<Message, String> {
        loop {
            let silent = async {
                match &mut self.silent {
                    Some(end) => end.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    Some(Ok(message)) => {
                        self.silent = None;
                        return Ok(message);
                    }
                    Some(Err(error)) if error.kind() == MessagesErrorKind::MissingHeartbeat => {
                        self.silent.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("the consumer ended".into()),
                },
                () = silent => return Err("the consumer is silent".into()),
                () = &mut self.lost => return Err("the connection to NATS is lost".into()),
            }
        }
    }
}

/// Reason why a stream is not read.
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

/// Pending request for the state of a stream.
pub type Fetching = Pin<Box<dyn Future<Output = Result<Option<Info>, Error>> + Send>>;

/// Asks NATS for the state of the stream, after a pause.
pub fn fetch_info(topic: &Arc<Topic>, pause: Duration) -> Fetching {
    let topic = topic.clone();
    Box::pin(async move {
        sleep(pause).await;
        topic.nats.info(&topic.stream).await
    })
}

/// Starts to read a stream from `seen` on, or from its end if there is none. Waits for the pause and for a connection
/// to NATS first.
pub async fn attach(topic: Arc<Topic>, seen: Option<Seen>, pause: Duration) -> Result<Attached, Lost> {
    sleep(spread(pause, 0.5..1.5)).await;
    let connection = topic.nats.link.up().await;
    let info = topic.nats.info(&topic.stream).await?.ok_or(Lost::Gone)?;
    let meta = Meta::of(&info.config).filter(|meta| meta.epoch == topic.state.epoch).ok_or(Lost::Gone)?;
    topic.refresh(meta, &info);
    let trimmed = topic.base + info.state.first_sequence.saturating_sub(1);
    let last = topic.base + info.state.last_sequence;
    if seen.is_some_and(|seen| last < seen.sequence) {
        let what = "the stream ends before what it acknowledged: a server that lost data, or is behind";
        tracing::error!(topic = %topic.state.name, last, "{what}");
        return Err(unavailable(what).into());
    }
    let (seen, jumped) = match seen {
        Some(seen) if seen.sequence >= trimmed => (seen, false),
        Some(_) => (at(&topic, trimmed).await?, true),
        None => (at(&topic, last).await?, true),
    };
    let ages = topic.nats.ages(&topic.stream, end_of(last)).await?;
    let policy = DeliverPolicy::ByStartSequence { start_sequence: seen.sequence + 1 - topic.base };
    let consumer = topic.nats.consumer(&topic.stream, policy, false).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(AHEAD_MESSAGES)
        .max_bytes_per_batch(AHEAD_BYTES.max(2 * topic.nats.stream_config.message_bytes_max))
        .expires(topic.nats.idle_times.request)
        .heartbeat(topic.nats.idle_times.heartbeat.min(topic.nats.idle_times.request / 4))
        .messages()
        .await
        .map_err(unavailable)?;
    let feed = Feed { messages, lost: Box::pin(topic.nats.link.lost(connection)), silent: None };
    Ok(Attached { seen, last, feed, jumped, ages })
}

/// Returns the end of the topic after the message `sequence`, which may be trimmed.
async fn at(topic: &Topic, sequence: u64) -> Result<Seen, Error> {
    let found = if sequence == topic.base { None } else { lookup::message(topic, sequence).await? };
    let Some(message) = found else {
        return Ok(Seen { sequence, next: end_of(sequence), ..Seen::default() });
    };
    Ok(Seen {
        sequence,
        next: message.next,
        records: message.head.before + u64::from(message.head.records),
        time: message.run.first_time,
    })
}
