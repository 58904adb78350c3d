//! Tests of the cache's bound: it covers all topics together, and counts the memory that is held.

use std::time::{Duration, Instant};

use super::EmbeddedLog;
use super::crash_tests::{config, name, open_with};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use crate::config::StorageConfig;
use crate::record::Offset;
use crate::storage::{Hold, Log, Retention};

const BYTES_MAX: usize = 1 << 20;
const JOURNAL_BYTES: u64 = 512 << 10;
const TOPICS: u8 = 100;

fn held(log: &EmbeddedLog) -> usize {
    log.registry.all().iter().map(|topic| topic.state.cache.held()).sum()
}

/// Waits until all batches are in segments except those of the newest journal.
async fn flushed(disk: &SimDisk) {
    let journals = || disk.files().keys().filter(|path| path.to_string_lossy().contains("journal-")).count();
    let begun = Instant::now();
    while journals() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "checkpoints are made");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Regression test: 100 topics once held 64 times the bound, because each kept whole chunks.
#[tokio::test]
async fn the_caches_of_many_topics_keep_to_one_bound() {
    let disk = SimDisk::default();
    let small = StorageConfig { journal_bytes: JOURNAL_BYTES, cache_bytes: BYTES_MAX, ..config() };
    let log = open_with(&disk, &small).unwrap();
    for n in 0..TOPICS {
        log.create(name(n), Retention::default()).await.unwrap();
    }
    let append = async |n: u8, value: u64, bytes: usize| {
        let topic = log.get(&name(n)).await.unwrap();
        let done = topic.appender().append(vec![batch(&[value], bytes)], Hold::default()).await;
        assert_eq!(done.failure, None);
    };
    for i in 0..40 {
        append(0, i, 25_000).await;
    }
    flushed(&disk).await;
    let busy = log.registry.get(&name(0)).unwrap();
    assert!(busy.state.cache.held() > BYTES_MAX / 2, "busy: {}", busy.state.cache.held());
    for round in 0..40 {
        for n in 1..TOPICS {
            append(n, round, 700).await;
        }
        flushed(&disk).await;
        // Batches that are in no segment are in one journal, and each topic's are in a chunk of its own.
        let most = BYTES_MAX + JOURNAL_BYTES as usize + usize::from(TOPICS) * 1024;
        assert!(held(&log) <= most, "round {round}: {}", held(&log));
    }
    assert_eq!(busy.state.cache.held(), 0, "the topic that was busy");
    assert!(held(&log) > BYTES_MAX / 2, "what there is room for is kept: {}", held(&log));
    for n in [0, 1, TOPICS - 1] {
        let topic = log.get(&name(n)).await.unwrap();
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 40, "topic {n}");
    }
    // Trimmed records make room for those of other topics.
    for n in 1..TOPICS - 1 {
        let tail = log.get(&name(n)).await.unwrap().tail();
        log.trim(&name(n), None, tail).await.unwrap();
    }
    for i in 0..60 {
        append(0, i, 12_000).await;
    }
    flushed(&disk).await;
    assert!(busy.state.cache.held() > BYTES_MAX / 3, "{}", busy.state.cache.held());
    assert!(held(&log) <= BYTES_MAX + JOURNAL_BYTES as usize + usize::from(TOPICS) * 1024);
}
