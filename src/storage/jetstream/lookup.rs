//! State of one topic in NATS: where its stream ends, and single messages.

use std::time::Instant;

use super::message::{Message, end_of};
use super::names::Meta;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::Error;

/// Reads one message; none if it was trimmed.
///
/// # Errors
/// NATS cannot answer, or it is damaged.
pub async fn message(topic: &Topic, sequence: u64) -> Result<Option<Message>, Error> {
    let Some(raw) = topic.nats.message(&topic.stream, sequence).await? else { return Ok(None) };
    let read = Message::read(sequence, Some(&raw.headers), &raw.payload);
    read.map(Some).map_err(|what| topic.damaged(&what))
}

/// Asks NATS for the stream's state: the stream may have been trimmed or deleted. Returns the end of the stream, which
/// this replica may not have seen yet.
///
/// # Errors
/// NATS cannot answer, or the topic is gone.
pub async fn fetch_end(topic: &Topic) -> Result<Offset, Error> {
    let found = topic.nats.info(&topic.stream).await?;
    match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
        Some((meta, info)) if meta.epoch == topic.state.epoch => {
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
