//! Requests to NATS about one topic: the end of its stream, and single messages.

use std::time::Instant;

use super::message::{Message, end_of};
use super::names::Meta;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::Error;

/// Reads one message. None if it was trimmed or never stored.
///
/// # Errors
/// NATS cannot answer, or the message is damaged.
pub async fn message(topic: &Topic, sequence: u64) -> Result<Option<Message>, Error> {
    let Some(stored) = sequence.checked_sub(topic.base).filter(|stored| *stored > 0) else { return Ok(None) };
    let Some(raw) = topic.nats.message(&topic.stream, stored).await? else { return Ok(None) };
    let read = Message::read(sequence, Some(&raw.headers), &raw.payload);
    read.map(Some).map_err(|what| topic.damaged(&what))
}

/// Asks NATS for the state of the stream, which may have been trimmed or deleted. Returns the end of the stream, which
/// this replica may not have read yet.
///
/// # Errors
/// NATS cannot answer, or the topic was deleted.
pub async fn fetch_end(topic: &Topic) -> Result<Offset, Error> {
    let found = topic.nats.info(&topic.stream).await?;
    match found.as_ref().and_then(|info| Some((Meta::of(&info.config)?, info))) {
        Some((meta, info)) if meta.epoch == topic.state.epoch => {
            topic.refresh(meta, info);
            Ok(end_of(topic.base + info.state.last_sequence))
        }
        _ => {
            topic.delete();
            Err(Error::TopicNotFound)
        }
    }
}

/// Does the same as [`fetch_end`], with one request for all callers that arrive before it is sent. Many subscribers may
/// start at once.
///
/// # Errors
/// The same as for [`fetch_end`].
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
