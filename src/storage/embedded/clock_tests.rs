//! Tests of order, deduplication and retention when the wall clock jumps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::EmbeddedLog;
use super::crash_tests::{DIR, config, name};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use crate::record::{Offset, Receipt};
use crate::storage::clock::Clock;
use crate::storage::{Hold, Log, Retention, TopicLog};

const DAY: i64 = 86_400;

fn open(disk: &SimDisk, clock: &Clock) -> Arc<EmbeddedLog> {
    EmbeddedLog::open_on(Arc::new(disk.clone()), clock.clone(), Path::new(DIR), &config(), 10, None).unwrap()
}

async fn put(topic: &dyn TopicLog, value: u64, id: &str) -> Receipt {
    let batch = batch(&[value], 300).with_request_id(id).unwrap();
    topic.appender().append(vec![batch], Hold::default()).await.receipts[0]
}

/// P2, P5: whichever way the clock jumps, times do not decrease, and ids are remembered for the window and no longer.
#[tokio::test]
async fn a_day_back_or_ahead_changes_neither_order_nor_deduplication() {
    for jump in [DAY, -DAY] {
        let (disk, clock) = (SimDisk::default(), Clock::default());
        let log = open(&disk, &clock);
        let topic = log.create(name(0), Retention::default()).await.unwrap();
        let mut times = vec![put(&*topic, 0, "before").await.time];
        for (i, jump) in (1..).zip([jump, 0, -jump, 0]) {
            clock.jump(jump);
            times.push(put(&*topic, i, &format!("after-{i}")).await.time);
            assert!(put(&*topic, 0, "before").await.duplicate, "after jump {i} by {jump} s");
        }
        assert!(times.is_sorted());
        clock.pass(Duration::from_secs(550));
        assert!(put(&*topic, 0, "before").await.duplicate, "within the window");
        clock.pass(Duration::from_secs(60));
        assert!(!put(&*topic, 5, "before").await.duplicate, "the window is over");
        let want: Vec<(u64, u64)> = (0..6).map(|i| (i, i)).collect();
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        log.close().await.unwrap();
        // The next run's clock is wrong by a day in the other direction.
        clock.jump(-jump);
        let log = open(&disk, &Clock::default());
        let topic = log.get(&name(0)).await.unwrap();
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        assert!(put(&*topic, 6, "").await.time >= *times.last().unwrap());
    }
}

/// Records are not deleted early if the clock jumps ahead, and are deleted once they are old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_does_not_follow_a_clock_that_jumps_ahead() {
    let (disk, clock) = (SimDisk::default(), Clock::default());
    let log = open(&disk, &clock);
    let age = Retention { max_age: Some(Duration::from_secs(7200)), ..Retention::default() };
    let topic = log.create(name(0), age).await.unwrap();
    for i in 0..5 {
        put(&*topic, i, "").await;
    }
    clock.jump(DAY);
    // Retention is checked once a second. A topic whose limit is exceeded shows when that has happened.
    let witness =
        log.create(name(1), Retention { max_records: Some(1), ..Retention::default() }).await.unwrap();
    put(&*witness, 0, "").await;
    put(&*witness, 1, "").await;
    let looked = || async {
        for _ in 0..200 {
            if witness.earliest().get() > 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    assert!(looked().await);
    assert_eq!(topic.earliest().get(), 0, "nothing is old yet");
    clock.jump(-DAY);
    clock.pass(Duration::from_secs(7300));
    for _ in 0..200 {
        if topic.earliest() == topic.tail() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("old records are still there");
}
