//! End of the newest trimmed message. An offset after its last record names the same place as the earliest offset, and
//! may be the `next` of a receipt. A smaller offset names records that the reader missed.
//!
//! The message that follows the trimmed one stores this end ([`Head::previous`](super::message::Head::previous)). If
//! there is no such message, as in an empty topic, a small note next to the topic's create lock stores it. The note is
//! written before a trim. If the topic's records expire, the replica that stored the newest message writes it too.

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use tracing::debug;

use super::create_lock;
use super::flight::{Outcome, send};
use super::lookup;
use super::message::{sequence_of, start_of};
use super::names::{self, RECORDS_MAX};
use super::nats::{Nats, unavailable};
use super::topic::Topic;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::Error;

/// Subject of the note on one topic. No topic's name begins with `_end-`, so no create lock has this subject.
fn subject(topic: &TopicName) -> String {
    format!("{}._end-{}", create_lock::STREAM, names::escaped(topic))
}

fn encode(epoch: Epoch, sequence: u64, next: Offset) -> String {
    format!("{epoch} {sequence} {}", next.get() - start_of(sequence).get())
}

/// Parses the note: the offset just after the last record of the message `sequence`. None if the text is about another
/// message.
fn decode(text: &[u8], epoch: Epoch, sequence: u64) -> Option<Offset> {
    let mut parts = std::str::from_utf8(text).ok()?.split(' ');
    let is_of = Epoch::parse(parts.next()?)? == epoch && parts.next()?.parse() == Ok(sequence);
    let records: u32 = parts.next()?.parse().ok().filter(|records| is_of && *records <= RECORDS_MAX)?;
    Some(start_of(sequence).plus(u64::from(records)))
}

/// Replaces `from` by the earliest offset if no record lies between the two.
///
/// # Errors
/// NATS cannot answer.
pub async fn place(topic: &Topic, from: Offset) -> Result<Offset, Error> {
    if let Some(sequence) = topic.last_trimmed(from)
        && topic.end_in(sequence).is_none()
        && let Some(end) = of_trimmed(topic, sequence).await?
    {
        topic.note_end(end);
    }
    Ok(topic.place(from))
}

/// Returns the offset just after the last record of `sequence`, the newest trimmed message. None if it is not known.
///
/// # Errors
/// NATS cannot answer.
pub async fn of_trimmed(topic: &Topic, sequence: u64) -> Result<Option<Offset>, Error> {
    if sequence <= topic.base {
        return Ok(None);
    }
    let after = match lookup::message(topic, sequence + 1).await {
        // Damage is reported to the readers of that message.
        Err(Error::Damaged(_)) => None,
        after => after?,
    };
    match after.and_then(|after| after.head.previous) {
        Some(records) => Ok(Some(start_of(sequence).plus(u64::from(records)))),
        None => written(topic, sequence).await,
    }
}

/// Reads the end of the message `sequence` from the note, if the note is about it.
async fn written(topic: &Topic, sequence: u64) -> Result<Option<Offset>, Error> {
    let stream = topic.nats.context.get_stream_no_info(create_lock::STREAM).await.map_err(unavailable)?;
    match stream.get_last_raw_message_by_subject(&subject(&topic.state.name)).await {
        Ok(message) => Ok(decode(&message.payload, topic.state.epoch, sequence)),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(unavailable(error)),
        },
    }
}

/// Finds the end of the messages before `first`, which are about to be trimmed. None if it cannot be found.
pub async fn before(topic: &Topic, first: u64) -> Option<Offset> {
    let sequence = first.checked_sub(1).filter(|sequence| *sequence > 0)?;
    let end = match topic.end_in(sequence) {
        Some(end) => end,
        // The trim continues without the end if NATS does not give the message.
        None => lookup::message(topic, sequence).await.ok()??.next,
    };
    topic.note_end(end);
    Some(end)
}

/// Writes the note on the end of a message. Returns true if it was stored.
pub async fn write(nats: &Nats, topic: &TopicName, epoch: Epoch, end: Offset) -> bool {
    let sequence = sequence_of(Offset::new(end.get() - 1));
    let request = async_nats::Request::new().payload(encode(epoch, sequence, end).into());
    let outcome = send(nats, &subject(topic), request).await;
    if !matches!(outcome, Outcome::Stored(_)) {
        debug!(topic = %topic, ?outcome, "where the newest message ends is not written down");
    }
    matches!(outcome, Outcome::Stored(_))
}

/// Writes the note on the end of a message if the topic's retention may remove it without a trim.
pub async fn write_of_expiring(topic: &Topic, end: Offset) {
    let retention = topic.state.settings().retention;
    if (retention.max_age, retention.max_bytes) != (None, None) {
        write(&topic.nats, &topic.state.name, topic.state.epoch, end).await;
    }
}

/// Removes the note on a topic that is deleted.
pub async fn forget(nats: &Nats, topic: &TopicName) {
    if let Ok(stream) = nats.context.get_stream_no_info(create_lock::STREAM).await
        && let Err(error) = stream.purge().filter(subject(topic)).await
    {
        // The note names an epoch that no longer exists, so it does no harm.
        debug!(topic = %topic, %error, "what was written of a deleted topic is left");
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::record::{Epoch, Offset};

    #[test]
    fn what_was_written_is_believed_of_its_message_only() {
        let (epoch, other) = (Epoch::new(7), Epoch::new(8));
        for records in [1, 3, 1024] {
            let end = Offset::new((4 << 10) + records);
            let text = encode(epoch, 5, end);
            assert_eq!(decode(text.as_bytes(), epoch, 5), Some(end));
            assert_eq!(decode(text.as_bytes(), epoch, 4), None);
            assert_eq!(decode(text.as_bytes(), other, 5), None);
        }
        for bad in ["", "7", "0000000000000007 5 1025", "0000000000000007 5 x"] {
            assert_eq!(decode(bad.as_bytes(), epoch, 5), None, "{bad}");
        }
    }
}
