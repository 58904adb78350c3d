//! Tests that retention reads a topic once some of its records are due, and not before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::EmbeddedLog;
use super::catalog::Catalog;
use super::crash_tests::{DIR, config, name};
use super::disk::sim::SimDisk;
use super::queue::{Change, Op, Queue, Taken};
use super::retention::{FAILED_INTERVAL, RECLAIM_INTERVAL, RetentionTask};
use super::tests::batch;
use crate::record::{Offset, UnixMicros};
use crate::storage::clock::Clock;
use crate::storage::topic_state::Settings;
use crate::storage::{Hold, Log, Retention};

const TOPICS: u8 = 9;
const HOURS: u64 = 3600;

fn open(disk: &SimDisk, clock: &Clock) -> Arc<EmbeddedLog> {
    EmbeddedLog::open_on(Arc::new(disk.clone()), clock.clone(), Path::new(DIR), &config(), 50, None).unwrap()
}

/// Makes a log with topics of each kind of limit, most of whose records are in segments. It is stopped, so that nothing
/// else reads. Each batch has two records, so a limit with an odd count stays exceeded.
async fn stopped(disk: &SimDisk, clock: &Clock) -> Arc<EmbeddedLog> {
    let log = open(disk, clock);
    for n in 0..TOPICS {
        let topic = log.create(name(n), Retention::default()).await.unwrap();
        for i in 0..30 {
            let done = topic.appender().append(vec![batch(&[i, i], 900)], Hold::default()).await;
            assert_eq!(done.failure, None);
            clock.pass(Duration::from_secs(1));
        }
    }
    log.close().await.unwrap();
    limit(&log);
    log
}

/// Sets the limits, and evicts from the caches what is in segments.
fn limit(log: &EmbeddedLog) {
    for n in 0..TOPICS {
        let retention = match n % 3 {
            0 => Retention { max_age: Some(Duration::from_secs(2 * HOURS)), ..Retention::default() },
            1 => Retention { max_records: Some(15), ..Retention::default() },
            _ => Retention { max_bytes: Some(20_000), ..Retention::default() },
        };
        let topic = log.registry.get(&name(n)).unwrap();
        topic.state.set_settings(Settings { retention, updated: UnixMicros(0) });
        topic.state.cache.evict(topic.segments.load().last().map_or(Offset::ZERO, |segment| segment.end));
    }
}

/// Returns the trims that were requested since the last call: the furthest one for each topic.
fn asked(queue: &Queue) -> BTreeMap<String, u64> {
    let mut asked = BTreeMap::new();
    if let Taken::Ops(ops) = queue.take(Some(Duration::ZERO)) {
        for op in ops {
            if let Op::Change(Change::Trim(topic, earliest), _) = op {
                asked.insert(topic.state.name.to_string(), earliest.get());
            }
        }
    }
    asked
}

#[tokio::test]
async fn an_idle_topic_is_read_once_and_again_when_something_is_due() {
    let (disk, clock) = (SimDisk::default(), Clock::default());
    let log = stopped(&disk, &clock).await;
    let queue = Queue::default();
    let mut retention_task = RetentionTask::new(log.registry.clone(), queue.clone(), clock.clone());
    let mut pass = || {
        let before = disk.reads();
        retention_task.pass(&log.files, &Catalog::default());
        disk.reads() - before
    };
    pass();
    let trims = asked(&queue);
    assert_eq!(trims.len(), usize::from(TOPICS) * 2 / 3, "by count and by bytes: {trims:?}");
    for round in 0..20 {
        clock.pass(Duration::from_secs(60));
        assert_eq!(pass(), 0, "pass {round} reads");
        assert_eq!(asked(&queue), trims, "what was refused is asked for again, without reading");
    }
    // The records of each topic with a limit on age become due one after the other.
    clock.pass(Duration::from_secs(2 * HOURS - 20 * 60 - u64::from(TOPICS) * 30));
    let mut reads = 0;
    for _ in 0..60 {
        clock.pass(Duration::from_secs(10));
        reads += pass();
    }
    assert!(reads > 0, "what is due is looked into");
    let trims = asked(&queue);
    for n in [0, 3, 6] {
        assert_eq!(trims[name(n).as_str()], 60, "all of {n} is too old");
    }
    assert_eq!(pass(), 0, "nothing is left to look into");
}

/// Damage is reported once, and the topic is not read again every second.
#[tokio::test]
async fn a_topic_that_cannot_be_read_is_not_read_again_at_once() {
    let (disk, clock) = (SimDisk::default(), Clock::default());
    drop(stopped(&disk, &clock).await);
    let mut files = disk.files();
    for (_, data) in files.iter_mut().filter(|(path, _)| path.starts_with("/log/segments")) {
        data[20] ^= 1;
    }
    let disk = SimDisk::with(&files);
    let log = open(&disk, &clock);
    let _ = log.close().await;
    limit(&log);
    let mut retention_task = RetentionTask::new(log.registry.clone(), Queue::default(), clock.clone());
    clock.pass(Duration::from_secs(3 * HOURS));
    retention_task.pass(&log.files, &Catalog::default());
    let reads = disk.reads();
    for _ in 0..20 {
        clock.pass(Duration::from_secs(1));
        retention_task.pass(&log.files, &Catalog::default());
    }
    assert_eq!(disk.reads(), reads, "it is read again");
    clock.pass(FAILED_INTERVAL);
    retention_task.pass(&log.files, &Catalog::default());
    assert!(disk.reads() > reads, "it is not tried again");
}

/// Trimmed segments are removed by a checkpoint of their own. Another one is requested after an interval if they are
/// still there.
#[tokio::test]
async fn space_is_reclaimed_again_after_an_interval() {
    let (disk, clock) = (SimDisk::default(), Clock::default());
    let log = stopped(&disk, &clock).await;
    let topic = log.registry.get(&name(0)).unwrap();
    topic.state.trim(topic.state.tail());
    let catalog = Catalog::read(&disk, Path::new(DIR)).unwrap().unwrap();
    assert!(catalog.topics.iter().any(|entry| entry.id == topic.id && !entry.segments.is_empty()));
    let queue = Queue::default();
    let mut retention_task = RetentionTask::new(log.registry.clone(), queue.clone(), clock.clone());
    let mut rotations = |catalog: &Catalog| {
        retention_task.pass(&log.files, catalog);
        let Taken::Ops(ops) = queue.take(Some(Duration::ZERO)) else { return 0 };
        ops.iter().filter(|op| matches!(op, Op::Rotate)).count()
    };
    assert_eq!(rotations(&catalog), 1);
    clock.pass(RECLAIM_INTERVAL / 2);
    assert_eq!(rotations(&catalog), 0, "the checkpoint has time");
    clock.pass(RECLAIM_INTERVAL / 2);
    assert_eq!(rotations(&catalog), 1);
    clock.pass(RECLAIM_INTERVAL);
    assert_eq!(rotations(&Catalog::default()), 0, "nothing is left to reclaim");
}
