//! Reading a topic, from its tail cache or else from the stream. Reads wait while NATS is unavailable.

use std::time::{Duration, Instant};

use super::cursor;
use super::last_end;
use super::message::{end_of, sequence_of};
use super::names::Meta;
use super::topic::{Topic, chunk_of};
use crate::backoff::Backoff;
use crate::record::Offset;
use crate::storage::{Chunk, Error};

/// Shortest pause between two attempts to read while NATS does not answer.
const PAUSE_LEAST: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// Reads at least one batch from `from` on, or an empty chunk at the tail. Waits for as long as NATS is unavailable.
///
/// # Errors
/// As [`crate::storage::TopicLog::read`].
pub async fn read(topic: &Topic, mut from: Offset, bytes_max: usize) -> Result<Chunk, Error> {
    let mut backoff = Backoff::new(PAUSE_LEAST, PAUSE_MOST);
    loop {
        match last_end::place(topic, from).await {
            Ok(place) => from = place,
            Err(_) if !topic.is_deleted() => {
                wait(topic, &mut backoff).await;
                continue;
            }
            Err(_) => {}
        }
        topic.check_readable(from)?;
        if let Some(chunk) = topic.read_cached(from, bytes_max) {
            return Ok(chunk);
        }
        let tail = topic.tail();
        if from == tail {
            return Ok(Chunk::empty(from));
        }
        match cursor::read(topic, from, bytes_max).await {
            Ok(found) if !found.is_empty() => {
                // Messages that the follower has not seen yet are beyond the tail.
                let shown = found.into_iter().filter(|message| message.run.end <= tail);
                let runs = shown.map(|message| (message.run.first, message.run.end, message.run.blocks));
                let chunk = chunk_of(from, runs).map_err(|bad| cursor::damaged(topic, &bad.to_string()))?;
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
                if fetch_end(topic).await.is_ok() && sequence_of(from) >= sequence_of(topic.floor()) {
                    return Err(cursor::damaged(topic, &what));
                }
            }
            Err(error) => return Err(error),
        }
        wait(topic, &mut backoff).await;
    }
}

/// Waits until NATS may answer again, and asks it for the stream's state.
async fn wait(topic: &Topic, backoff: &mut Backoff) {
    tokio::time::sleep(backoff.next_delay()).await;
    let _ = fetch_end(topic).await;
    topic.nats.link.up().await;
}

/// Asks NATS for the stream's state: the stream may have been trimmed or deleted. Returns the end of the stream, which
/// this replica may not have seen yet.
///
/// # Errors
/// NATS cannot answer, or the topic is gone.
pub async fn fetch_end(topic: &Topic) -> Result<Offset, Error> {
    let found = topic.nats.info(&topic.stream).await?;
    match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
        Some((meta, info)) if meta.epoch == topic.epoch => {
            topic.refresh(meta, info);
            Ok(end_of(info.state.last_sequence))
        }
        _ => {
            topic.delete();
            Err(Error::TopicNotFound)
        }
    }
}

/// Does the same as [`fetch_end`], with one request for all callers that arrive while one is under way: many subscribers
/// may begin at once.
///
/// # Errors
/// As [`fetch_end`].
pub async fn fetch_end_shared(topic: &Topic) -> Result<Offset, Error> {
    let asked = Instant::now();
    let mut last = topic.fetched_end.lock().await;
    if let Some((begun, found)) = &*last
        && *begun >= asked
    {
        return found.clone();
    }
    let begun = Instant::now();
    let found = fetch_end(topic).await;
    *last = Some((begun, found.clone()));
    found
}
