//! Reads behind the tail cache. Each reader uses its own consumer, which is stored for the read that continues where it
//! stopped. So a lagging subscriber reads at its own pace and does not disturb the follower.

use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer};
use futures_util::StreamExt;

use super::cursors::Cursor;
use super::message::{Message, sequence_of};
use super::nats::unavailable;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::Error;

/// Maximum number of messages in one request.
const MESSAGES_MAX: usize = 128;
/// Maximum number of bytes in one request, except for a larger single message.
const BYTES_MAX: usize = 8 << 20;

/// Reads messages, beginning with the one that contains `from`. The messages have about `bytes_max` bytes at most. The
/// result is empty if the stream has none.
///
/// # Errors
/// NATS cannot answer, stored data is damaged, or `from` was trimmed.
pub async fn read(topic: &Topic, from: Offset, bytes_max: usize) -> Result<Vec<Message>, Error> {
    let wanted = sequence_of(from);
    let known = topic.cursors.take(wanted);
    let again = known.is_some();
    let consumer = match known {
        Some(consumer) => consumer,
        None => {
            let policy = DeliverPolicy::ByStartSequence { start_sequence: wanted - topic.base };
            topic.nats.consumer(&topic.stream, policy, false).await?
        }
    };
    match fetch(topic, &consumer, wanted, bytes_max).await {
        Ok(found) => {
            // A consumer that delivered nothing may be gone, so the next read creates another.
            if let Some(last) = found.last() {
                topic.cursors.keep(Cursor { consumer, next: sequence_of(last.run.end) });
            }
            Ok(found)
        }
        // The consumer may have been removed while it was idle, or messages were lost on the way. A new consumer shows
        // what the stream has.
        Err(Error::Unavailable { .. } | Error::Damaged(_)) if again => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn fetch(
    topic: &Topic,
    consumer: &PullConsumer,
    wanted: u64,
    bytes_max: usize,
) -> Result<Vec<Message>, Error> {
    // NATS refuses to send a message that is larger than the request, and accepts no numbers above 63 bits.
    let least = topic.nats.stream_config.message_bytes_max;
    let bytes_max = bytes_max.clamp(least, least.max(BYTES_MAX));
    let asked = consumer.fetch().max_messages(MESSAGES_MAX).max_bytes(bytes_max).messages();
    let (mut found, mut next) = (Vec::new(), wanted);
    let reading = async {
        let mut messages = asked.await.map_err(unavailable)?;
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                // The request is used up. All messages that arrived are complete.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(unavailable(error)),
            };
            let sequence = topic.base + message.info().map_err(unavailable)?.stream_sequence;
            if sequence < next {
                // The consumer's server lags behind the others or was restarted, and begins earlier.
                continue;
            }
            if sequence != next {
                // The message was trimmed or is damaged. The caller asks NATS which.
                let what = format!("message {wanted} is missing, {sequence} is there");
                return if found.is_empty() { Err(Error::Damaged(what)) } else { Ok(()) };
            }
            let read = Message::read(sequence, message.headers.as_ref(), &message.payload);
            found.push(read.map_err(|what| topic.damaged(&what))?);
            next += 1;
        }
        Ok(())
    };
    let lost = topic.nats.link.lost(topic.nats.link.state());
    let read = tokio::select! {
        biased;
        read = tokio::time::timeout(topic.nats.idle_times.answer, reading) => read.ok(),
        // A request on a lost connection is never answered.
        () = lost => None,
    };
    match read {
        Some(read) => read.map(|()| found),
        None => Err(unavailable("reading took too long")),
    }
}
