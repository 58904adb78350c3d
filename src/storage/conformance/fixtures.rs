//! The log under test, batches to store in it, and what is read back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::record::block::{Blocks, records_fields};
use crate::record::{Batch, BatchLimits, Offset, Receipt, TopicName};
use crate::storage::{Appended, BoxFuture, Error, Hold, Log, Retention, TopicLog};

/// Opens the log under test: the first time a new one, later the same again. The one opened before
/// was closed or dropped.
pub struct Engine(Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Log>> + Send + Sync>);

impl Engine {
    pub fn new(open: impl Fn() -> BoxFuture<'static, Arc<dyn Log>> + Send + Sync + 'static) -> Self {
        Self(Box::new(open))
    }

    pub async fn open(&self) -> Arc<dyn Log> {
        (self.0)().await
    }
}

/// A batch of one record a payload, each padded by `pad` bytes.
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

/// Everything from `from` to the tail.
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
        assert!(records[0].0 >= at.get() && records.is_sorted_by(|a, b| a.0 < b.0), "{at}: {records:?}");
        assert!(chunk.next.get() > records.last().unwrap().0);
        out.extend(records);
        at = chunk.next;
    }
}

pub fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

pub async fn create(log: &dyn Log, text: &str) -> Arc<dyn TopicLog> {
    log.create(name(text), Retention::default()).await.unwrap()
}

pub async fn append(topic: &dyn TopicLog, batches: Vec<Batch>) -> Appended {
    topic.appender().append(batches, Hold::default()).await
}

/// Appends each batch alone; all are stored.
pub async fn append_each(topic: &dyn TopicLog, batches: Vec<Batch>) -> Vec<Receipt> {
    let (mut appender, mut receipts) = (topic.appender(), Vec::new());
    for batch in batches {
        let done = appender.append(vec![batch], Hold::default()).await;
        assert_eq!(done.failure, None);
        receipts.extend(done.receipts);
    }
    receipts
}

pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..150 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 15 s: {what}");
}
