//! Retention: what is too old or too much is forgotten, by trims like anyone's.
//! Never: removes a file itself; a checkpoint does, once the trim is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::clock::{Believed, Clock};
use super::queue::{Change, Op, Queue};
use super::reader::{self, Files};
use super::registry::Registry;
use super::topic::TopicState;
use crate::record::{Offset, UnixMicros};
use crate::storage::Error;
use crate::telemetry::METRICS;

/// Space is reclaimed by a checkpoint of its own at most this often.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(10);

/// Looks after the retention of every topic.
#[derive(Debug)]
pub struct Keeper {
    registry: Arc<Registry>,
    queue: Queue,
    reclaimed: Option<Instant>,
    time: Believed,
}

impl Keeper {
    /// Trims by way of `queue`.
    #[must_use]
    pub const fn new(registry: Arc<Registry>, queue: Queue, clock: Clock) -> Self {
        Self { registry, queue, reclaimed: None, time: Believed::new(clock) }
    }

    /// The topic of this id, unless it was deleted.
    #[must_use]
    pub fn topic(&self, id: u64) -> Option<Arc<TopicState>> {
        self.registry.by_id(id)
    }

    /// Asks for a new journal, so that a checkpoint is made of what the old one holds.
    pub fn rotate(&self) {
        let _ = self.queue.push(Op::Rotate);
    }

    /// Looks at every topic once.
    pub fn pass(&mut self, files: &Files, catalog: &Catalog) {
        let now = self.time.now();
        for topic in self.registry.all() {
            match floor(&topic, files, now) {
                Ok(floor) if floor > topic.floor() => {
                    METRICS.storage.retention_records.add(floor.since(topic.floor()));
                    let (reply, _) = oneshot::channel();
                    // The next pass tries again where this one is refused.
                    let _ = self.queue.push(Op::Change(Change::Trim(topic, floor), reply));
                }
                Ok(_) | Err(Error::TopicNotFound | Error::Trimmed { .. }) => {}
                Err(error) => tracing::warn!(topic = %topic.name, %error, "retention cannot read topic"),
            }
        }
        let due = self.reclaimed.is_none_or(|last| last.elapsed() >= RECLAIM_INTERVAL);
        if due && self.has_garbage(catalog) {
            self.reclaimed = Some(Instant::now());
            self.rotate();
        }
    }

    /// Whether the catalog names segments that nothing needs.
    fn has_garbage(&self, catalog: &Catalog) -> bool {
        catalog.topics.iter().filter(|entry| !entry.segments.is_empty()).any(|entry| {
            let topic = self.registry.by_id(entry.id);
            topic.is_none_or(|topic| entry.segments.iter().any(|segment| segment.end <= topic.floor().get()))
        })
    }
}

/// The floor a topic's retention asks for.
fn floor(topic: &TopicState, files: &Files, now: UnixMicros) -> Result<Offset, Error> {
    let retention = topic.settings.load().retention;
    let (mut floor, tail) = (topic.floor(), topic.tail());
    if let Some(records) = retention.max_records
        && tail.since(floor) > records
    {
        floor = floor.max(reader::batch_start(topic, files, Offset::new(tail.get() - records))?);
    }
    if let Some(age) = retention.max_age {
        let cutoff = UnixMicros(now.0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
        floor = floor.max(reader::offset_at(topic, files, cutoff)?);
    }
    if let Some(bytes) = retention.max_bytes
        && topic.info().stored_bytes > bytes
    {
        floor = floor.max(reader::offset_keeping(topic, files, bytes)?);
    }
    Ok(floor)
}
