//! Forgetting: trims, retention, and topics that are deleted.

use std::time::Duration;

use super::fixtures::{Engine, append, append_each, batch, create, eventually, name, read_all};
use crate::record::Offset;
use crate::storage::{Error, Retention, Start};

pub async fn trim_keeps_whole_batches(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "trimmed").await;
    let receipts =
        append_each(&*topic, (0..60).map(|i| batch(&[i * 3, i * 3 + 1, i * 3 + 2], 5_000)).collect()).await;
    let (inside, boundary) = (receipts[30].first.plus(1), receipts[30].first);
    assert_eq!(log.trim(&name("trimmed"), None, inside).await.unwrap(), boundary);
    let gone = topic.read(receipts[29].first.plus(2), 1000).await;
    assert!(matches!(gone, Err(Error::Trimmed { earliest, .. }) if earliest == boundary), "{gone:?}");
    let start = topic.resolve(Start::At(receipts[3].first)).await;
    assert!(matches!(start, Err(Error::Trimmed { .. })), "{start:?}");
    assert_eq!(topic.resolve(Start::Earliest).await.unwrap(), boundary);
    assert_eq!(read_all(&*topic, boundary).await.unwrap().len(), 90);
    // Trimming to what is trimmed already changes nothing.
    assert_eq!(log.trim(&name("trimmed"), None, Offset::ZERO).await.unwrap(), boundary);
    let beyond = log.trim(&name("trimmed"), None, topic.tail().plus(1)).await;
    assert!(matches!(beyond, Err(Error::BeyondTail { .. })), "{beyond:?}");
    let missing = log.trim(&name("trimmed-not"), None, Offset::ZERO).await;
    assert_eq!(missing, Err(Error::TopicNotFound));
    let tail = topic.tail();
    drop(topic);
    log.close().await.unwrap();
    drop(log);
    let log = engine.open().await;
    let topic = log.get(&name("trimmed")).await.unwrap();
    assert_eq!((topic.earliest(), topic.tail()), (boundary, tail));
    // All of it: the topic goes on where it was.
    assert_eq!(log.trim(&name("trimmed"), Some(topic.epoch()), tail).await.unwrap(), tail);
    assert_eq!(read_all(&*topic, tail).await.unwrap(), []);
    assert!(append(&*topic, vec![batch(&[7], 0)]).await.receipts[0].first >= tail);
    assert_eq!(read_all(&*topic, tail).await.unwrap().len(), 1);
}

/// The first batch of a topic that was never trimmed: to keep it is to forget nothing.
pub async fn a_trim_inside_the_first_batch_forgets_nothing(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "untrimmed").await;
    let trim = async |before: Offset| log.trim(&name("untrimmed"), None, before).await;
    assert_eq!(trim(Offset::ZERO).await, Ok(Offset::ZERO), "an empty topic");
    let receipts = append_each(&*topic, vec![batch(&[0, 1, 2], 0), batch(&[3], 0)]).await;
    let first = receipts[0].first;
    for before in 0..3 {
        assert_eq!(trim(first.plus(before)).await, Ok(first), "before {before}");
        assert_eq!(read_all(&*topic, first).await.unwrap().len(), 4);
        assert_eq!(topic.resolve(Start::Earliest).await, Ok(first));
    }
    // Between two batches lies the later one.
    assert_eq!(trim(receipts[0].next.offset).await, Ok(receipts[1].first));
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
    // Inside the newest one, which is now the oldest.
    assert_eq!(trim(receipts[1].first).await, Ok(receipts[1].first));
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
    drop(topic);
    log.close().await.unwrap();
    drop(log);
    let log = engine.open().await;
    let topic = log.get(&name("untrimmed")).await.unwrap();
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
}

/// Limits of every size are kept and told alike, and only those that are over forget anything.
pub async fn limits_of_every_size_are_kept(engine: &Engine) {
    const YEAR: u64 = 365 * 24 * 3600;
    let log = engine.open().await;
    let ages = [
        // What 63 and 64 bits of nanoseconds hold, and what a protobuf duration does.
        Duration::from_secs(100),
        Duration::from_secs(99 * YEAR),
        Duration::from_secs(101 * YEAR),
        Duration::from_nanos(i64::MAX as u64),
        Duration::from_nanos(i64::MAX as u64 + 1),
        Duration::from_nanos(u64::MAX),
        Duration::from_secs(18_446_744_074),
        Duration::from_secs(585 * YEAR),
        Duration::from_secs(1000 * YEAR),
        Retention::AGE_MAX,
        Duration::MAX,
    ];
    let counts = [0, 1 << 60, i64::MAX as u64 - 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    let ages = ages.map(|age| Retention { max_age: Some(age), ..Retention::default() });
    let bytes = counts.map(|count| Retention { max_bytes: Some(count), ..Retention::default() });
    let records = counts.map(|count| Retention { max_records: Some(count), ..Retention::default() });
    let topic = create(&*log, "limits").await;
    append_each(&*topic, (0..3).map(|n| batch(&[n], 0)).collect()).await;
    for (n, wanted) in ages.into_iter().chain(bytes).chain(records).enumerate() {
        let kept = wanted.normalized();
        let info = log.update(&name("limits"), wanted).await.unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
        assert_eq!(info.retention, kept, "{wanted:?}");
        let text = format!("limits-{n}");
        let made = log.create(name(&text), wanted).await.unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
        append_each(&*made, (0..3).map(|n| batch(&[n], 0)).collect()).await;
        assert_eq!(log.list(&text, None, 1).await.unwrap()[0].retention, kept, "{wanted:?}");
    }
    // An age of no time is never over; one of a nanosecond is over at once, as after reopening.
    let shortest = Retention { max_age: Some(Duration::from_nanos(1)), ..Retention::default() };
    log.create(name("limit-shortest"), shortest).await.unwrap();
    log.close().await.unwrap();
    drop((log, topic));
    let log = engine.open().await;
    for info in log.list("limits", None, 1000).await.unwrap() {
        let topic = log.get(&info.name).await.unwrap();
        assert_eq!(
            read_all(&*topic, topic.earliest()).await.unwrap().len(),
            3,
            "{}: {:?}",
            info.name,
            info.retention
        );
    }
    let kept = log.get(&name("limit-shortest")).await.unwrap().info().retention;
    assert_eq!(kept, Retention { max_age: Some(Duration::from_micros(1)), ..Retention::default() });
}

/// Offsets of what is kept are read, as they are not dense.
pub async fn retention_by_records_bytes_and_age(engine: &Engine) {
    let log = engine.open().await;
    let records = Retention { max_records: Some(100), ..Retention::default() };
    let bytes = Retention { max_bytes: Some(500_000), ..Retention::default() };
    let age = Retention { max_age: Some(Duration::from_millis(500)), ..Retention::default() };
    for (text, retention) in [("by-records", records), ("by-bytes", bytes), ("by-age", age)] {
        let topic = log.create(name(text), retention).await.unwrap();
        assert_eq!(topic.info().retention, retention);
        append_each(&*topic, (0..100).map(|i| batch(&[i * 3, i * 3 + 1, i * 3 + 2], 7_000)).collect()).await;
    }
    let kept = async |text: &str| {
        let topic = log.get(&name(text)).await.unwrap();
        match read_all(&*topic, topic.earliest()).await {
            Ok(kept) => kept.len(),
            // Trimmed while it was read.
            Err(_) => usize::MAX,
        }
    };
    eventually("100 records", async || kept("by-records").await == 102).await;
    eventually("500 kB", async || (30..=90).contains(&kept("by-bytes").await)).await;
    eventually("nothing", async || kept("by-age").await == 0).await;
    let topic = log.get(&name("by-age")).await.unwrap();
    assert_eq!(topic.earliest(), topic.tail());
}

pub async fn a_recreated_topic_is_another_one(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "recreated").await;
    append_each(&*topic, vec![batch(&[1], 0), batch(&[2], 0)]).await;
    let exists = log.create(name("recreated"), Retention::default()).await;
    assert_eq!(exists.err(), Some(Error::TopicExists));
    log.delete(&name("recreated"), Some(topic.epoch())).await.unwrap();
    assert!(topic.is_deleted());
    assert_eq!(topic.read(Offset::ZERO, 1000).await.err(), Some(Error::TopicNotFound));
    assert_eq!(append(&*topic, vec![batch(&[3], 0)]).await.failure, Some(Error::TopicNotFound));
    assert_eq!(log.get(&name("recreated")).await.err(), Some(Error::TopicNotFound));
    assert_eq!(log.delete(&name("recreated"), None).await, Err(Error::TopicNotFound));
    let again = create(&*log, "recreated").await;
    assert_ne!(again.epoch(), topic.epoch());
    assert_eq!((again.earliest(), again.tail()), (Offset::ZERO, Offset::ZERO));
    assert_eq!(append(&*topic, vec![batch(&[3], 0)]).await.failure, Some(Error::TopicNotFound));
    let changed = Error::EpochChanged { current: again.epoch(), resume: Offset::ZERO };
    assert_eq!(log.delete(&name("recreated"), Some(topic.epoch())).await, Err(changed.clone()));
    assert_eq!(log.trim(&name("recreated"), Some(topic.epoch()), Offset::ZERO).await, Err(changed));
    let current = again.epoch();
    drop((log, topic, again));
    let log = engine.open().await;
    assert_eq!(log.get(&name("recreated")).await.unwrap().epoch(), current);
}
