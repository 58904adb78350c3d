//! The embedded log as a whole, on a real directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::EmbeddedLog;
use crate::config::StorageConfig;
use crate::record::block::{Blocks, records_fields};
use crate::record::{Batch, BatchLimits, Offset, TopicName, UnixMicros};
use crate::storage::{Error, Hold, Log, Retention, Start, TopicLog};

pub fn batch(payloads: &[u64], pad: usize) -> Batch {
    let records: Vec<Vec<u8>> = payloads
        .iter()
        .map(|payload| {
            let mut value = payload.to_le_bytes().to_vec();
            value.resize(8 + pad, 7);
            let mut record = Vec::new();
            prost::encoding::bytes::encode(2, &value, &mut record);
            record
        })
        .collect();
    Batch::check(records_fields(records.iter().map(Vec::as_slice)), BatchLimits::default()).unwrap()
}

/// Every record of these runs as (offset, payload).
pub fn flatten(runs: &[Bytes]) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    for run in runs {
        for block in Blocks::new(run) {
            let block = block.unwrap();
            for (i, record) in block.records().enumerate() {
                let start = if record[1] < 0x80 { 2 } else { 3 };
                let payload = u64::from_le_bytes(record[start..start + 8].try_into().unwrap());
                out.push((block.first.get() + i as u64, payload));
            }
        }
    }
    out
}

pub async fn read_all(topic: &dyn TopicLog, from: Offset) -> Result<Vec<(u64, u64)>, Error> {
    let (mut at, mut out) = (from, Vec::new());
    loop {
        let chunk = topic.read(at, 50_000).await?;
        if chunk.runs.is_empty() {
            assert_eq!(chunk.next, topic.tail());
            return Ok(out);
        }
        let records = flatten(&chunk.runs);
        assert_eq!(records.len() as u64, chunk.records);
        assert_eq!(records[0].0, at.get());
        out.extend(records);
        assert_eq!(chunk.next.get(), out.last().unwrap().0 + 1);
        at = chunk.next;
    }
}

fn small() -> StorageConfig {
    StorageConfig {
        journal_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        cache_bytes: 1 << 20,
        ..StorageConfig::default()
    }
}

fn open(dir: &Path, config: &StorageConfig) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(dir, config, 100).unwrap()
}

fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

/// P1, P2: what was acknowledged is there after a restart, through journal rotations and segments.
#[tokio::test]
async fn acknowledged_records_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut want = Vec::new();
    for round in 0..4_u64 {
        let log = open(dir.path(), &small());
        let topic = match log.get(&name("t")).await {
            Ok(topic) => topic,
            Err(_) => log.create(name("t"), Retention::default()).await.unwrap(),
        };
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        let mut appender = topic.appender();
        for i in 0..200_u64 {
            let payload = round * 1_000_000 + i * 3;
            let done = appender
                .append(vec![batch(&[payload, payload + 1], 9000), batch(&[payload + 2], 0)], Hold::default())
                .await;
            assert_eq!(done.failure, None);
            assert_eq!(done.receipts[1].next.offset.get(), want.len() as u64 + 3);
            want.extend((0..3).map(|n| (want.len() as u64 + n, payload + n)).collect::<Vec<_>>());
        }
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        for from in [1, 2, 301, 599] {
            assert_eq!(read_all(&*topic, Offset::new(from)).await.unwrap(), want[from as usize..]);
        }
        if round % 2 == 0 {
            log.close().await.unwrap();
        }
    }
}

/// P5: the same request id stores once, also after a restart.
#[tokio::test]
async fn request_ids_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let put = |log: Arc<EmbeddedLog>, id: u64| async move {
        let topic = log.get(&name("t")).await.unwrap();
        let batch = batch(&[id, id], 5000).with_request_id(&format!("id-{id}")).unwrap();
        topic.appender().append(vec![batch], Hold::default()).await.receipts[0]
    };
    let log = open(dir.path(), &small());
    log.create(name("t"), Retention::default()).await.unwrap();
    let mut first = Vec::new();
    for id in 0..300 {
        first.push(put(log.clone(), id).await);
    }
    assert_eq!(put(log.clone(), 7).await, crate::record::Receipt { duplicate: true, ..first[7] });
    drop(log);
    let log = open(dir.path(), &small());
    for id in [0, 150, 299] {
        let again = put(log.clone(), id).await;
        assert_eq!(again, crate::record::Receipt { duplicate: true, ..first[id as usize] });
    }
    assert_eq!(log.get(&name("t")).await.unwrap().tail().get(), 600);
}

#[tokio::test]
async fn conditions_and_order_of_one_appender() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &small());
    let topic = log.create(name("t"), Retention::default()).await.unwrap();
    let mut appender = topic.appender();
    let wrong = batch(&[2], 0).expecting(Some(Offset::new(7)));
    let done = appender.append(vec![batch(&[1], 0), wrong, batch(&[3], 0)], Hold::default()).await;
    assert_eq!(done.receipts.len(), 1);
    assert!(matches!(done.failure, Some(Error::ExpectedOffset { tail, .. }) if tail.get() == 1));
    let later = appender.append(vec![batch(&[4], 0)], Hold::default()).await;
    assert_eq!(later.failure, Some(Error::EarlierFailed));
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), [(0, 1)]);
    let right = batch(&[5], 0).expecting(Some(Offset::new(1)));
    assert_eq!(topic.appender().append(vec![right], Hold::default()).await.failure, None);
}

#[tokio::test]
async fn trim_delete_and_recreate() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &small());
    let topic = log.create(name("t"), Retention::default()).await.unwrap();
    let mut appender = topic.appender();
    for i in 0..100 {
        appender.append(vec![batch(&[i * 3, i * 3 + 1, i * 3 + 2], 10_000)], Hold::default()).await;
    }
    assert_eq!(log.trim(&name("t"), None, Offset::new(151)).await.unwrap().get(), 150);
    assert!(
        matches!(topic.read(Offset::new(149), 1000).await, Err(Error::Trimmed { earliest, .. }) if earliest.get() == 150)
    );
    assert_eq!(read_all(&*topic, Offset::new(150)).await.unwrap().len(), 150);
    assert!(matches!(log.trim(&name("t"), None, Offset::new(301)).await, Err(Error::BeyondTail { .. })));
    drop((topic, appender));
    drop(log);
    let log = open(dir.path(), &small());
    let topic = log.get(&name("t")).await.unwrap();
    assert_eq!((topic.earliest().get(), topic.tail().get()), (150, 300));
    log.delete(&name("t"), None).await.unwrap();
    assert!(topic.is_deleted());
    assert!(matches!(topic.read(Offset::new(200), 1000).await, Err(Error::TopicNotFound)));
    let again = log.create(name("t"), Retention::default()).await.unwrap();
    assert_ne!(again.epoch(), topic.epoch());
    assert_eq!(again.tail(), Offset::ZERO);
    assert!(matches!(
        log.delete(&name("t"), Some(topic.epoch())).await,
        Err(Error::EpochChanged { current }) if current == again.epoch()
    ));
}

#[tokio::test]
async fn retention_by_records_bytes_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &small());
    let records = Retention { max_records: Some(100), ..Retention::default() };
    let bytes = Retention { max_bytes: Some(500_000), ..Retention::default() };
    let age = Retention { max_age: Some(Duration::from_millis(500)), ..Retention::default() };
    let mut topics = Vec::new();
    for (text, retention) in [("records", records), ("bytes", bytes), ("age", age)] {
        let topic = log.create(name(text), retention).await.unwrap();
        let mut appender = topic.appender();
        for i in 0..100 {
            appender.append(vec![batch(&[i * 3, i * 3 + 1, i * 3 + 2], 7_000)], Hold::default()).await;
        }
        topics.push(topic);
    }
    let settled = || {
        topics[0].earliest().get() == 198
            && topics[1].earliest().get() > 200
            && topics[2].earliest() == topics[2].tail()
    };
    for _ in 0..100 {
        if settled() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(settled(), "{:?}", topics.iter().map(|t| t.info()).collect::<Vec<_>>());
    assert!(topics[1].info().earliest.get() < 290);
    assert_eq!(read_all(&*topics[0], Offset::new(198)).await.unwrap().len(), 102);
}

#[tokio::test]
async fn a_time_start_finds_the_first_batch_at_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &small());
    let topic = log.create(name("t"), Retention::default()).await.unwrap();
    let mut appender = topic.appender();
    let mut times = Vec::new();
    for i in 0..300 {
        times.push(appender.append(vec![batch(&[i], 9_000)], Hold::default()).await.receipts[0].time);
    }
    assert!(times.is_sorted());
    for at in [0, 1, 17, 150, 298, 299] {
        let want = times.iter().position(|time| *time >= times[at]).unwrap() as u64;
        assert_eq!(topic.resolve(Start::Time(times[at])).await.unwrap().get(), want);
    }
    assert_eq!(topic.resolve(Start::Time(UnixMicros(0))).await.unwrap().get(), 0);
    assert_eq!(topic.resolve(Start::Time(UnixMicros(u64::MAX))).await.unwrap().get(), 300);
    assert_eq!(topic.resolve(Start::Last(5)).await.unwrap().get(), 295);
    assert!(matches!(topic.resolve(Start::At(Offset::new(301))).await, Err(Error::BeyondTail { .. })));
}
