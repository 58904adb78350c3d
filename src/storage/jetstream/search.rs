//! Resolution of a start to an offset. A position from another replica may lie beyond the messages that this replica
//! has read; this replica then waits until it has read them. Times and counts increase from message to message, so they
//! are found by binary search.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::lookup::{fetch_end, fetch_end_shared, message};
use super::message::{Message, end_of, sequence_of, start_of};
use super::nats::unavailable;
use super::topic::Topic;
use crate::record::Offset;
use crate::storage::{Error, Start};

/// Maximum wait for a position that this replica has not read yet, and for a NATS that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two checks if the stream should have more messages.
const PAUSE: Duration = Duration::from_millis(50);

/// Implements [`crate::storage::TopicLog::resolve`].
pub async fn resolve(topic: &Topic, start: Start) -> Result<Offset, Error> {
    let deadline = Instant::now() + PATIENCE;
    match start {
        Start::At(offset) => at(topic, offset, deadline).await,
        Start::Latest | Start::Last(0) => head(topic, deadline).await.map(end_of),
        Start::Earliest => {
            head(topic, deadline).await?;
            Ok(topic.state.earliest())
        }
        Start::Last(records) => {
            let last = head(topic, deadline).await?;
            last_records(topic, last, records).await
        }
        Start::Time(time) => {
            let last = head(topic, deadline).await?;
            let sequence = first_where(topic, last, |message| message.run.first_time >= time).await?;
            Ok(if sequence > last { end_of(last) } else { start_of(sequence) })
        }
    }
}

async fn at(topic: &Topic, offset: Offset, deadline: Instant) -> Result<Offset, Error> {
    // Another replica may have trimmed the topic without this one knowing. If NATS cannot be asked, the state known
    // here is used.
    let asked = timeout_at(deadline, fetch_end_shared(topic)).await;
    if let Ok(Err(Error::TopicNotFound)) = asked {
        return Err(Error::TopicNotFound);
    }
    let mut is_behind = true;
    loop {
        match topic.state.check_readable(offset) {
            Err(Error::BeyondTail { .. }) if Instant::now() < deadline => {
                // Only NATS knows if the position is beyond the tail, because this replica may be cut off from NATS.
                is_behind = fetch_end(topic).await.map_or(true, |end| end >= offset);
                let moved = topic.state.wait_beyond(Offset::new(offset.get() - 1));
                let _ = timeout_at(deadline.min(Instant::now() + PAUSE), moved).await;
            }
            Err(Error::BeyondTail { .. }) if is_behind => return Err(behind()),
            found => return found.map(|()| offset),
        }
    }
}

fn behind() -> Error {
    unavailable("this replica is behind")
}

/// Returns the sequence of the newest message in NATS, once this replica has read it.
async fn head(topic: &Topic, deadline: Instant) -> Result<u64, Error> {
    loop {
        let error = match fetch_end_shared(topic).await {
            Ok(end) => {
                topic.state.check_readable(topic.state.tail())?;
                let last = sequence_of(end) - 1;
                if last > 0 {
                    let seen = topic.state.wait_beyond(Offset::new(end.get() - 1));
                    if timeout_at(deadline, seen).await.is_err() {
                        return Err(behind());
                    }
                }
                return Ok(last);
            }
            Err(Error::TopicNotFound) => return Err(Error::TopicNotFound),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Returns the sequence of the first message up to `last` for which `is` holds, or `last + 1` if there is none. If `is`
/// holds for a message, it must hold for all later ones.
///
/// # Errors
/// NATS cannot answer, or stored data is damaged.
pub async fn first_where(topic: &Topic, last: u64, is: impl Fn(&Message) -> bool) -> Result<u64, Error> {
    let (mut low, mut high) = (sequence_of(topic.state.earliest()), last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match message(topic, middle).await? {
            Some(found) if is(&found) => high = middle,
            // A message that was trimmed in the meantime is older than all that are left.
            _ => low = middle + 1,
        }
    }
    Ok(low)
}

/// Returns the offset that lies `records` records before the end of the message `last`.
async fn last_records(topic: &Topic, last: u64, records: u64) -> Result<Offset, Error> {
    if last == 0 {
        return Ok(end_of(last));
    }
    let Some(newest) = message(topic, last).await? else { return Ok(end_of(last)) };
    let total = newest.head.before + u64::from(newest.head.records);
    let Some(before) = total.checked_sub(records) else { return Ok(topic.state.earliest()) };
    // Finds the first message that ends after the records to skip.
    let is = |message: &Message| message.head.before + u64::from(message.head.records) > before;
    let sequence = first_where(topic, last, is).await?;
    let Some(holding) = message(topic, sequence).await? else { return Ok(topic.state.earliest()) };
    Ok(start_of(sequence).plus(before.saturating_sub(holding.head.before)).max(topic.state.earliest()))
}

/// Counts the records from `from` up to `to`.
///
/// # Errors
/// NATS cannot answer, or stored data is damaged.
pub async fn records_between(topic: &Topic, from: Offset, to: Offset) -> Result<u64, Error> {
    let (from, to) = (from.max(topic.state.earliest()), to.min(topic.state.tail()));
    if from >= to {
        return Ok(0);
    }
    let (first, last) = (sequence_of(from), sequence_of(Offset::new(to.get() - 1)));
    let Some(holding_first) = message(topic, first).await? else { return Ok(0) };
    let before = records_before(&holding_first, from);
    let before_end = match last == first {
        true => records_before(&holding_first, to),
        false => match message(topic, last).await? {
            Some(holding_last) => records_before(&holding_last, to),
            None => return Ok(0),
        },
    };
    Ok(before_end.saturating_sub(before))
}

/// Number of records before an offset that lies in a message, or at its end.
fn records_before(message: &Message, offset: Offset) -> u64 {
    let index = offset.since(message.run.first).min(u64::from(message.head.records));
    message.head.before + index
}

/// Returns the sequence of the first message to keep so that at least `records` of `total` records remain.
///
/// # Errors
/// The same as for [`first_where`].
pub async fn first_keeping(topic: &Topic, last: u64, total: u64, records: u64) -> Result<u64, Error> {
    let before = total.saturating_sub(records);
    first_where(topic, last, |message| message.head.before + u64::from(message.head.records) > before).await
}
