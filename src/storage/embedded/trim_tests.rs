//! Tests that trimmed records are never read, whatever happened to their files, and that no thread of the log spins on
//! them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EmbeddedLog;
use super::crash_tests::{name, open};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use crate::record::Offset;
use crate::storage::{Error, Health, Hold, Log, Retention, Start, TopicLog};

/// Number of records that fill a topic: several segments of 24 KiB, and a few batches in the journal.
const RECORDS: u64 = 160;

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_keys().filter(|path| path.starts_with("/log/segments")).collect()
}

fn journals(disk: &SimDisk) -> usize {
    disk.files().keys().filter(|path| path.to_string_lossy().contains("journal-")).count()
}

/// Waits for something that the log does by itself.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn put(topic: &dyn TopicLog, value: u64) {
    let done = topic.appender().append(vec![batch(&[value, value], 700)], Hold::default()).await;
    assert_eq!(done.failure, None);
}

/// Publishes records to the topic, and waits until a checkpoint has stored some of them.
async fn put_past_a_checkpoint(disk: &SimDisk, topic: &dyn TopicLog) {
    for i in 0..RECORDS / 2 {
        put(topic, i).await;
    }
    until("a checkpoint", || journals(disk) == 1).await;
}

/// Makes a log with several segments of one topic, and a flipped bit in the header of segment `n`.
async fn with_a_damaged_header(n: usize) -> (SimDisk, Arc<EmbeddedLog>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    put_past_a_checkpoint(&disk, &*topic).await;
    log.close().await.unwrap();
    let mut files = disk.files();
    let damaged = segments(&disk).into_iter().nth(n).expect("a segment");
    files.get_mut(&damaged).unwrap()[20] ^= 1;
    let disk = SimDisk::with(&files);
    let log = open(&disk).unwrap();
    (disk, log)
}

/// P10: damage can be trimmed away. Retention then reads only what is left, and the damaged file is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_was_trimmed_away_is_not_looked_at_by_retention() {
    let (disk, log) = with_a_damaged_header(0).await;
    let (damaged, others) = (segments(&disk)[0].clone(), segments(&disk).len());
    assert!(others > 2, "{others} segments");
    let age = Retention { max_age: Some(Duration::from_secs(3600)), ..Retention::default() };
    log.update(&name(0), age).await.unwrap();
    let topic = log.get(&name(0)).await.unwrap();
    let from = topic.tail().get() - 10;
    let earliest = log.trim(&name(0), None, Offset::new(from)).await.unwrap();
    assert_eq!(topic.resolve(Start::Time(crate::record::UnixMicros(1))).await.unwrap(), earliest);
    until("the end of the trimmed file", || !segments(&disk).contains(&damaged)).await;
    let left = read_all(&*topic, earliest).await.unwrap();
    assert_eq!(left.len() as u64, topic.tail().since(earliest));
    put_past_a_checkpoint(&disk, &*topic).await;
    log.close().await.ok();
}

/// P10: records that are stored after all of a topic was trimmed do not go into a file that may be damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_stored_behind_what_was_trimmed() {
    let last = {
        let disk = SimDisk::default();
        let log = open(&disk).unwrap();
        put_past_a_checkpoint(&disk, &*log.create(name(0), Retention::default()).await.unwrap()).await;
        log.close().await.unwrap();
        segments(&disk).len() - 1
    };
    for trims in [true, false] {
        let (disk, log) = with_a_damaged_header(last).await;
        let topic = log.get(&name(0)).await.unwrap();
        let tail = topic.tail();
        if trims {
            log.trim(&name(0), None, tail).await.unwrap();
        }
        put_past_a_checkpoint(&disk, &*topic).await;
        put_past_a_checkpoint(&disk, &*topic).await;
        let held = log.registry.get(&name(0)).unwrap();
        let flushed = held.segments.load().last().expect("a segment").end;
        assert!(flushed > tail, "some of it is in a segment");
        held.state.cache.evict(flushed);
        assert!(topic.read_cached(tail, 1).is_none(), "it is read from there");
        let found = read_all(&*topic, tail).await.unwrap();
        assert_eq!(found.len() as u64, topic.tail().since(tail));
        if !trims {
            assert!(matches!(&*log.health().borrow(), Health::Failed(_)), "damage is reported");
            assert!(matches!(read_all(&*topic, topic.earliest()).await, Err(Error::Damaged(_))));
        }
        log.close().await.ok();
    }
}
