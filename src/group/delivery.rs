//! The records of a lease, which are read where the member is: the owner may be another replica.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::events::{Event, Leased};
use super::logic::{Act, Span};
use super::mailbox::{Mailbox, Message};
use super::recent::Recent;
use super::source;
use crate::record::Offset;
use crate::storage::{self, TopicLog};

/// Longest wait for a replica that has not read what the owner leased.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// Completes a lease with its records if they are in memory. Returns false if they must be read.
pub(super) fn fill_cached(topic: &dyn TopicLog, recent: &Recent, leased: &mut Leased) -> bool {
    match source::cached(topic, recent, &leased.spans) {
        Ok(Some(runs)) if !leased.is_too_late() => {
            leased.batches = runs;
            true
        }
        _ => false,
    }
}

/// Completes a lease with its records. None if there is nothing to hand out.
pub(super) async fn fill(
    topic: Arc<dyn TopicLog>,
    recent: Arc<Recent>,
    shard: Mailbox,
    mut leased: Box<Leased>,
) -> Option<Event> {
    // The owner may have read further than this replica.
    if let Some(last) = leased.spans.last() {
        let read = topic.wait_beyond(Offset::new(last.end - 1));
        if tokio::time::timeout(BEHIND_MAX, read).await.is_err() {
            return Some(hand_back(&shard, &mut leased));
        }
    }
    while !leased.spans.is_empty() {
        match source::read(&*topic, &recent, &leased.spans).await {
            Ok(runs) => {
                leased.batches = runs;
                break;
            }
            Err(storage::Error::Trimmed { earliest, .. }) => skip(&shard, &mut leased, earliest.get()),
            Err(storage::Error::TopicNotFound) => return Some(Event::ended(Error::NotFound)),
            Err(error) => return Some(Event::ended(Error::Topic(error.into()))),
        }
    }
    if leased.is_too_late() {
        return Some(hand_back(&shard, &mut leased));
    }
    (!leased.spans.is_empty()).then_some(Event::Lease(leased))
}

/// Gives a lease back that cannot be handed out, and ends its call: later leases could hold records that come after these in
/// their order.
fn hand_back(shard: &Mailbox, leased: &mut Leased) -> Event {
    let spans = std::mem::take(&mut leased.spans);
    give_up(shard, leased, spans, Act::Return);
    Event::ended(Error::Moved)
}

/// Takes the records out of a lease that the topic does not hold any more.
fn skip(shard: &Mailbox, leased: &mut Leased, earliest: u64) {
    let gone = leased.spans.iter().filter_map(|span| Span::new(span.start, span.end.min(earliest)));
    give_up(shard, leased, gone.collect(), Act::Skip);
    let kept = leased.spans.iter().filter_map(|span| Span::new(span.start.max(earliest), span.end));
    leased.spans = kept.collect();
    leased.redeliveries.retain(|(span, _)| span.end > earliest);
}

/// Tells the owner that records of a lease are not handed out.
pub(super) fn give_up(shard: &Mailbox, leased: &Leased, spans: Vec<Span>, act: Act) {
    let (group, fence) = (leased.group, leased.fence);
    // An owner that ended knows nothing of the lease.
    let _ = shard.send(Message::GiveUp { group, fence, spans, act });
}
