//! Readers behind the tail cache: consumers of the stream, each kept for whoever goes on reading
//! where it stopped, so that a lagging subscriber asks on at its own pace.
//! Never: disturbs the follower, or holds more than one answer in memory.

use std::sync::Mutex;

use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer};
use futures_util::StreamExt;

use super::message::{Message, sequence_of};
use super::nats::unavailable;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::Error;

/// Most messages asked for at once.
const MESSAGES_MAX: usize = 128;
/// Most bytes asked for at once, but for a larger message.
const BYTES_MAX: usize = 8 << 20;
/// Most cursors kept between reads of one topic; the longest unused goes first.
const KEPT_MAX: usize = 64;

/// A consumer, and the message it delivers next.
#[derive(Debug)]
struct Cursor {
    consumer: PullConsumer,
    next: u64,
}

/// Cursors between two reads.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Vec<Cursor>>);

impl Cursors {
    fn take(&self, next: u64) -> Option<PullConsumer> {
        let mut kept = self.0.lock().expect("no panic while it is held");
        let at = kept.iter().position(|cursor| cursor.next == next)?;
        Some(kept.remove(at).consumer)
    }

    fn keep(&self, cursor: Cursor) {
        let mut kept = self.0.lock().expect("no panic while it is held");
        if kept.len() >= KEPT_MAX {
            // NATS forgets its consumer by itself.
            kept.remove(0);
        }
        kept.push(cursor);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.lock().expect("no panic while it is held").clear();
    }
}

/// Messages from the one that holds `from` on: those stored, at most about `bytes_max` bytes.
/// None where the stream has none to give.
///
/// # Errors
/// NATS cannot answer, what is stored is damaged, or `from` is no longer kept.
pub async fn read(topic: &Topic, from: Offset, bytes_max: usize) -> Result<Vec<Message>, Error> {
    let wanted = sequence_of(from);
    let known = topic.cursors.take(wanted);
    let again = known.is_some();
    let consumer = match known {
        Some(consumer) => consumer,
        None => {
            let policy = DeliverPolicy::ByStartSequence { start_sequence: wanted };
            topic.nats.consumer(&topic.stream, policy, false).await?
        }
    };
    match fetch(topic, &consumer, wanted, bytes_max).await {
        Ok(found) => {
            // One that gave nothing may be gone: the next read takes a new one.
            if let Some(last) = found.last() {
                topic.cursors.keep(Cursor { consumer, next: sequence_of(last.run.end) });
            }
            Ok(found)
        }
        // It may have been forgotten while nobody asked, or have lost what was on its way: a new one
        // tells what is there.
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
    // NATS refuses to send a message that is larger than what is asked for, and a number beyond 63 bits.
    let least = topic.nats.stream_config.message_bytes_max;
    let bytes_max = bytes_max.clamp(least, least.max(BYTES_MAX));
    let asked = consumer.fetch().max_messages(MESSAGES_MAX).max_bytes(bytes_max).messages();
    let (mut found, mut next) = (Vec::new(), wanted);
    let reading = async {
        let mut messages = asked.await.map_err(unavailable)?;
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                // The end of what fits: what came is whole.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(unavailable(error)),
            };
            let sequence = message.info().map_err(unavailable)?.stream_sequence;
            if sequence < next {
                // Its server has less than others for a while, or was restarted: it begins earlier.
                continue;
            }
            if sequence != next {
                // Trimmed or damaged: whoever reads asks NATS which.
                let what = format!("message {wanted} is missing, {sequence} is there");
                return if found.is_empty() { Err(Error::Damaged(what)) } else { Ok(()) };
            }
            let read = Message::read(sequence, message.headers.as_ref(), &message.payload);
            found.push(read.map_err(|what| damaged(topic, &what))?);
            next += 1;
        }
        Ok(())
    };
    let lost = topic.nats.link.lost(topic.nats.link.state());
    let read = tokio::select! {
        biased;
        read = tokio::time::timeout(topic.nats.idle_times.answer, reading) => read.ok(),
        // What was asked of a connection that is lost is never answered.
        () = lost => None,
    };
    match read {
        Some(read) => read.map(|()| found),
        None => Err(unavailable("reading took too long")),
    }
}

/// Reports stored data that is not what was stored.
pub fn damaged(topic: &Topic, what: &str) -> Error {
    tracing::error!(topic = %topic.name, reason = what, "stored data is damaged");
    Error::Damaged(format!("topic {}: {what}", topic.name))
}
