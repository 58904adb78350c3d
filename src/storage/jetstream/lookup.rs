//! Reading a single message of a topic's stream.

use super::cursor;
use super::message::Message;
use super::topic::Topic;
use crate::storage::Error;

/// Reads one message; none if it was trimmed.
///
/// # Errors
/// NATS cannot answer, or it is damaged.
pub async fn message(topic: &Topic, sequence: u64) -> Result<Option<Message>, Error> {
    let Some(raw) = topic.nats.message(&topic.stream, sequence).await? else { return Ok(None) };
    let read = Message::read(sequence, Some(&raw.headers), &raw.payload);
    read.map(Some).map_err(|what| cursor::damaged(topic, &what))
}
