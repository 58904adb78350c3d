//! Reads of a topic, from its tail cache if possible, else from the stream. Reads wait while NATS is unavailable.

use std::time::Duration;

use super::cursor;
use super::lookup::{self, fetch_end};
use super::message::{Message, sequence_of};
use super::topic::{NUMBERING, Topic};
use crate::backoff::Backoff;
use crate::record::Offset;
use crate::storage::{Chunk, Error};

/// Shortest pause between two attempts to read while NATS does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Reads at least one batch from `from` on. At the tail, the chunk is empty. Waits as long as NATS is unavailable.
///
/// # Errors
/// The same as for [`crate::storage::TopicLog::read`].
pub async fn read(topic: &Topic, mut from: Offset, bytes_max: usize) -> Result<Chunk, Error> {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        topic.state.check_readable(from)?;
        if let Some(chunk) = topic.state.read_cached(from, bytes_max) {
            return Ok(chunk);
        }
        let tail = topic.state.tail();
        if from == tail {
            return Ok(Chunk::empty(from));
        }
        match messages(topic, from, bytes_max).await {
            Ok(found) if !found.is_empty() => {
                // Messages that the follower has not read yet are beyond the tail.
                let shown = found.into_iter().filter(|message| message.run.end <= tail);
                let runs = shown.map(|message| (message.run.first, message.run.end, message.run.blocks));
                let chunk =
                    Chunk::of(from, runs, NUMBERING).map_err(|bad| topic.damaged(&bad.to_string()))?;
                if !chunk.runs.is_empty() {
                    return Ok(chunk);
                }
                // The message had no record from `from` on.
                if chunk.next > from {
                    from = chunk.next;
                    continue;
                }
            }
            Ok(_) | Err(Error::Unavailable { .. }) => {}
            Err(Error::Damaged(what)) => {
                // The message may have been trimmed, or the topic deleted.
                if fetch_end(topic).await.is_ok() && sequence_of(from) >= sequence_of(topic.state.earliest())
                {
                    return Err(topic.damaged(&what));
                }
            }
            Err(error) => return Err(error),
        }
        wait(topic, &mut backoff).await;
    }
}

/// Reads messages, beginning with the one that contains `from`: only that one if so few bytes are asked for. A consumer
/// for it would take NATS many times as long.
async fn messages(topic: &Topic, from: Offset, bytes_max: usize) -> Result<Vec<Message>, Error> {
    if bytes_max <= 1
        && let Some(message) = lookup::message(topic, sequence_of(from)).await?
    {
        return Ok(vec![message]);
    }
    cursor::read(topic, from, bytes_max).await
}

/// Waits until NATS may answer again, and asks it for the state of the stream.
async fn wait(topic: &Topic, backoff: &mut Backoff) {
    tokio::time::sleep(backoff.next_delay()).await;
    let _ = fetch_end(topic).await;
    topic.nats.link.up().await;
}
