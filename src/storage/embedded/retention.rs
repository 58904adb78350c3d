//! Retention: what is too old or too much is forgotten, by trims like anyone's. A topic is looked into
//! once something in it is due, and not before: what is known of it from the last time says when.
//! Never: removes a file itself; a checkpoint does, once the trim is durable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::queue::{Change, Op, Queue};
use super::reader::{self, Files};
use super::registry::Registry;
use super::topic::Topic;
use crate::record::{Offset, UnixMicros};
use crate::storage::clock::{Clock, RetentionClock};
use crate::storage::{Error, Retention};
use crate::telemetry::METRICS;

/// Space is reclaimed by a checkpoint of its own at most this often.
pub const RECLAIM_INTERVAL: Duration = Duration::from_secs(10);
/// A topic that cannot be read is tried again after this time, or once it is trimmed.
pub const FAILED_INTERVAL: Duration = Duration::from_secs(60);
/// Topics looked into in one pass; those that waited longest come first.
const LOOKS_MAX: usize = 256;
/// Batches may get older than they should by one part in so many, so that a busy topic is not read for each
/// of them.
const AGE_SLACK: u64 = 1000;
/// That slack is at most this long.
const AGE_SLACK_MAX: Duration = Duration::from_secs(60);

/// Looks after the retention of every topic.
#[derive(Debug)]
pub struct RetentionTask {
    registry: Arc<Registry>,
    queue: Queue,
    /// When space was last reclaimed, on the steady clock.
    reclaimed: Option<UnixMicros>,
    time: RetentionClock,
    /// Topics with limits, by id.
    known: HashMap<u64, Known>,
    passes: u64,
}

/// What was found when a topic was last looked into.
#[derive(Debug)]
struct Known {
    /// Its limits then.
    retention: Retention,
    /// What they asked for: nothing before it is to be kept.
    earliest: Offset,
    /// Its tail then.
    tail: Offset,
    /// When the first batch from `earliest` on was stored; none where there was none.
    oldest: Option<UnixMicros>,
    /// Which pass that was.
    pass: u64,
    /// Why it could not be read, and when it is tried again, on the steady clock.
    failed: Option<(Error, UnixMicros)>,
}

impl RetentionTask {
    /// Trims by way of `queue`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, queue: Queue, clock: Clock) -> Self {
        let (time, known) = (RetentionClock::new(clock), HashMap::new());
        Self { registry, queue, reclaimed: None, time, known, passes: 0 }
    }

    /// The topic of this id, unless it was deleted.
    #[must_use]
    pub fn topic(&self, id: u64) -> Option<Arc<Topic>> {
        self.registry.by_id(id)
    }

    /// Asks for a new journal, so that a checkpoint is made of what the old one holds.
    pub fn rotate(&self) {
        let _ = self.queue.push(Op::Rotate);
    }

    /// Looks after every topic once.
    pub fn pass(&mut self, files: &Files, catalog: &Catalog) {
        self.passes += 1;
        self.look(files);
        let now = self.time.steady();
        let due = self.reclaimed.is_none_or(|last| after(last, RECLAIM_INTERVAL) <= now);
        if due && self.has_garbage(catalog) {
            self.reclaimed = Some(now);
            self.rotate();
        }
    }

    /// Looks into the topics of which something is due.
    fn look(&mut self, files: &Files) {
        let (now, steady) = (self.time.now(), self.time.steady());
        let limited = |topic: &Arc<Topic>| topic.state.settings().retention != Retention::default();
        let topics: Vec<_> = self.registry.all().into_iter().filter(limited).collect();
        if topics.len() < self.known.len() {
            let registry = &self.registry;
            self.known.retain(|id, _| registry.by_id(*id).is_some_and(|topic| limited(&topic)));
        }
        let mut due = Vec::new();
        for topic in topics {
            let known = self.known.get(&topic.id);
            if let Some(known) = known.filter(|known| known.earliest > topic.state.earliest()) {
                // Refused the last time, as by a full disk.
                self.trim(&topic, known.earliest);
            }
            if is_due(&topic, known, now, steady) {
                due.push((known.map_or(0, |known| known.pass), topic));
            }
        }
        due.sort_by_key(|(pass, _)| *pass);
        for (_, topic) in due.into_iter().take(LOOKS_MAX) {
            self.look_into(topic, files, now);
        }
    }

    fn look_into(&mut self, topic: Arc<Topic>, files: &Files, now: UnixMicros) {
        let (retention, tail) = (topic.state.settings().retention, topic.state.tail());
        let mut found = Known {
            retention,
            earliest: topic.state.earliest(),
            tail,
            oldest: None,
            pass: self.passes,
            failed: None,
        };
        match wanted_earliest(&topic, &retention, files, now) {
            Ok((earliest, oldest)) => {
                (found.earliest, found.oldest) = (earliest, oldest);
                if earliest > topic.state.earliest() {
                    METRICS.storage.retention_records.add(earliest.since(topic.state.earliest()));
                    self.trim(&topic, earliest);
                }
            }
            Err(Error::TopicNotFound | Error::Trimmed { .. }) => return,
            Err(error) => {
                let told = self.known.get(&topic.id).and_then(|known| known.failed.as_ref());
                if told.is_none_or(|(told, _)| *told != error) {
                    tracing::warn!(topic = %topic.state.name, %error, "retention cannot read topic");
                }
                found.failed = Some((error, after(self.time.steady(), FAILED_INTERVAL)));
            }
        }
        self.known.insert(topic.id, found);
    }

    fn trim(&self, topic: &Arc<Topic>, earliest: Offset) {
        let (reply, _) = oneshot::channel();
        // Where it is refused, a later pass asks again.
        let _ = self.queue.push(Op::Change(Change::Trim(topic.clone(), earliest), reply));
    }

    /// Whether the catalog names segments that nothing needs.
    fn has_garbage(&self, catalog: &Catalog) -> bool {
        catalog.topics.iter().filter(|entry| !entry.segments.is_empty()).any(|entry| {
            let topic = self.registry.by_id(entry.id);
            topic.is_none_or(|topic| {
                entry.segments.iter().any(|segment| segment.end <= topic.state.earliest().get())
            })
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn after(start: UnixMicros, interval: Duration) -> UnixMicros {
    UnixMicros(start.0.saturating_add(micros(interval)))
}

/// Whether a topic's limits may ask for another earliest offset than the last time. Reads nothing.
fn is_due(topic: &Topic, known: Option<&Known>, now: UnixMicros, steady: UnixMicros) -> bool {
    let retention = topic.state.settings().retention;
    let known = known.filter(|known| known.retention == retention);
    if let Some(Known { earliest, failed: Some((_, again)), .. }) = known
        && topic.state.earliest() <= *earliest
        && steady < *again
    {
        return false;
    }
    let earliest =
        known.map_or_else(|| topic.state.earliest(), |known| known.earliest.max(topic.state.earliest()));
    // Whole batches are kept, so that what is above a limit may stay so: until there is more.
    let grown = known.is_none_or(|known| known.failed.is_some() || topic.state.tail() > known.tail);
    let many = retention.max_records.is_some_and(|most| topic.state.tail().since(earliest) > most);
    let much = retention.max_bytes.is_some_and(|most| topic.info().stored_bytes > most);
    grown && (many || much) || retention.max_age.is_some_and(|age| is_old(topic, known, age, now))
}

/// Whether the oldest batch kept may be older than `age`.
fn is_old(topic: &Topic, known: Option<&Known>, age: Duration, now: UnixMicros) -> bool {
    let Some(oldest) = reader::oldest_time(topic) else { return false };
    let found = known.and_then(|known| match known.oldest {
        Some(oldest) => Some(oldest),
        // What came since is newer than everything then, by the segment or the cache it is in.
        None if topic.state.earliest() < known.earliest => Some(UnixMicros(u64::MAX)),
        None => None,
    });
    let oldest = found.map_or(oldest, |found| found.max(oldest));
    let slack = (micros(age) / AGE_SLACK).min(micros(AGE_SLACK_MAX));
    let due = oldest.0.saturating_add(micros(age)).saturating_add(slack);
    // What was not looked into since the start is not known to a batch.
    if known.is_none() { oldest.0.saturating_add(micros(age)) < now.0 } else { due < now.0 }
}

/// The earliest offset that a topic's retention asks for, and when the first batch from there on was stored, where that is
/// known and there is one.
fn wanted_earliest(
    topic: &Topic,
    retention: &Retention,
    files: &Files,
    now: UnixMicros,
) -> Result<(Offset, Option<UnixMicros>), Error> {
    let (mut earliest, tail, mut oldest) = (topic.state.earliest(), topic.state.tail(), None);
    if let Some(records) = retention.max_records
        && tail.since(earliest) > records
    {
        earliest = earliest.max(reader::batch_start(topic, files, Offset::new(tail.get() - records))?);
    }
    if let Some(age) = retention.max_age {
        let cutoff = UnixMicros(now.0.saturating_sub(micros(age)));
        let (first, time) = reader::first_since(topic, files, cutoff)?;
        (earliest, oldest) = (earliest.max(first), time);
    }
    if let Some(bytes) = retention.max_bytes
        && topic.info().stored_bytes > bytes
    {
        earliest = earliest.max(reader::offset_keeping(topic, files, bytes)?);
    }
    Ok((earliest, oldest))
}
