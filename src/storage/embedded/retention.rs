//! Retention: removes records that are too old or too many, by trims like those of clients. A topic is
//! examined only once something in it is due, according to the result of its last examination. Files are not
//! removed here: a checkpoint removes them once the trim is durable.

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

/// Minimum time between two checkpoints that are made only to reclaim space.
pub const RECLAIM_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a topic that could not be read is tried again, unless it is trimmed earlier.
pub const FAILED_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of topics examined in one pass; those that waited longest come first.
const EXAMINED_MAX: usize = 256;
/// Part of the maximum age by which batches may exceed it: one part in this many, so that a busy topic is not
/// read for each batch.
const AGE_SLACK: u64 = 1000;
/// Maximum time by which batches may exceed the maximum age.
const AGE_SLACK_MAX: Duration = Duration::from_secs(60);

/// Applies the retention of every topic.
#[derive(Debug)]
pub struct RetentionTask {
    registry: Arc<Registry>,
    queue: Queue,
    /// Time on the steady clock at which space was last reclaimed.
    reclaimed: Option<UnixMicros>,
    time: RetentionClock,
    /// Results of the last examination of topics with limits, by topic id.
    known: HashMap<u64, Known>,
    passes: u64,
}

/// Result of the last examination of a topic.
#[derive(Debug)]
struct Known {
    /// Limits of the topic at that time.
    retention: Retention,
    /// Earliest offset that the limits allowed: nothing before it is to be kept.
    earliest: Offset,
    /// Tail of the topic at that time.
    tail: Offset,
    /// Time at which the first batch from `earliest` on was stored; none if there was none.
    oldest: Option<UnixMicros>,
    /// Number of the pass in which it was examined.
    pass: u64,
    /// Error if it could not be read, and the time on the steady clock at which it is tried again.
    failed: Option<(Error, UnixMicros)>,
}

impl RetentionTask {
    /// Creates the task, which requests trims through `queue`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, queue: Queue, clock: Clock) -> Self {
        let (time, known) = (RetentionClock::new(clock), HashMap::new());
        Self { registry, queue, reclaimed: None, time, known, passes: 0 }
    }

    /// Returns the topic with this id, unless it was deleted.
    #[must_use]
    pub fn topic(&self, id: u64) -> Option<Arc<Topic>> {
        self.registry.by_id(id)
    }

    /// Asks for a new journal, so that a checkpoint is made of what the old one holds.
    pub fn rotate(&self) {
        let _ = self.queue.push(Op::Rotate);
    }

    /// Applies the retention of every topic once, and requests a checkpoint if there is space to reclaim.
    pub fn pass(&mut self, files: &Files, catalog: &Catalog) {
        self.passes += 1;
        self.examine_due(files);
        let now = self.time.steady();
        let due = self.reclaimed.is_none_or(|last| after(last, RECLAIM_INTERVAL) <= now);
        if due && self.has_garbage(catalog) {
            self.reclaimed = Some(now);
            self.rotate();
        }
    }

    /// Examines the topics in which something is due.
    fn examine_due(&mut self, files: &Files) {
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
                // The last trim was refused, for example because the disk was full.
                self.trim(&topic, known.earliest);
            }
            if is_due(&topic, known, now, steady) {
                due.push((known.map_or(0, |known| known.pass), topic));
            }
        }
        due.sort_by_key(|(pass, _)| *pass);
        for (_, topic) in due.into_iter().take(EXAMINED_MAX) {
            self.examine(topic, files, now);
        }
    }

    fn examine(&mut self, topic: Arc<Topic>, files: &Files, now: UnixMicros) {
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
                let reported = self.known.get(&topic.id).and_then(|known| known.failed.as_ref());
                if reported.is_none_or(|(reported, _)| *reported != error) {
                    tracing::warn!(topic = %topic.state.name, %error, "retention cannot read topic");
                }
                found.failed = Some((error, after(self.time.steady(), FAILED_INTERVAL)));
            }
        }
        self.known.insert(topic.id, found);
    }

    fn trim(&self, topic: &Arc<Topic>, earliest: Offset) {
        let (reply, _) = oneshot::channel();
        // If the trim is refused, a later pass requests it again.
        let _ = self.queue.push(Op::Change(Change::Trim(topic.clone(), earliest), reply));
    }

    /// Returns true if the catalog names segments that nothing needs.
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

/// Returns true if a topic's limits may require another earliest offset than the last time. Does not read
/// from disk.
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
    // Whole batches are kept, so a topic may stay above a limit. It is not due again until it has grown.
    let grown = known.is_none_or(|known| known.failed.is_some() || topic.state.tail() > known.tail);
    let many = retention.max_records.is_some_and(|most| topic.state.tail().since(earliest) > most);
    let much = retention.max_bytes.is_some_and(|most| topic.info().stored_bytes > most);
    grown && (many || much) || retention.max_age.is_some_and(|age| is_old(topic, known, age, now))
}

/// Returns true if the oldest batch kept may be older than `age`.
fn is_old(topic: &Topic, known: Option<&Known>, age: Duration, now: UnixMicros) -> bool {
    let Some(oldest) = reader::oldest_time(topic) else { return false };
    let found = known.and_then(|known| match known.oldest {
        Some(oldest) => Some(oldest),
        // Everything stored by then is being trimmed, and what was stored since is newer.
        None if topic.state.earliest() < known.earliest => Some(UnixMicros(u64::MAX)),
        None => None,
    });
    let oldest = found.map_or(oldest, |found| found.max(oldest));
    let slack = (micros(age) / AGE_SLACK).min(micros(AGE_SLACK_MAX));
    let due = oldest.0.saturating_add(micros(age)).saturating_add(slack);
    // There is no slack for a topic that was not examined yet, because the age of its oldest batch is not
    // known exactly.
    if known.is_none() { oldest.0.saturating_add(micros(age)) < now.0 } else { due < now.0 }
}

/// Finds the earliest offset that a topic's retention allows, and the time at which the first batch from
/// there on was stored, if that is known and there is one.
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
