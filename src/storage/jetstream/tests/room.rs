//! Tests of a NATS whose store is full.

use std::time::Duration;

use tokio::time::sleep;

use super::proxy::Proxy;
use super::{config, created, eventually, open};
use crate::record::{Offset, Receipt};
use crate::storage::conformance::{batch, name, read_all};
use crate::storage::jetstream::JetStreamLog;
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Health, Hold, Log, Stored, TopicLog};

async fn put(topic: &dyn TopicLog, payload: u64) -> Result<Receipt, Error> {
    let done = topic.appender().append(vec![batch(&[payload], 100_000)], Hold::default()).await;
    done.failure.map_or_else(|| Ok(done.receipts[0]), Err)
}

async fn fill(topic: &dyn TopicLog) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    loop {
        match put(topic, receipts.len() as u64).await {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => {
                assert_eq!(error, Error::DiskFull);
                return receipts;
            }
        }
    }
}

async fn until(log: &JetStreamLog, what: &str, wanted: impl Fn(&Health) -> bool) {
    let mut health = log.health();
    let told = tokio::time::timeout(Duration::from_secs(60), health.wait_for(wanted));
    told.await.unwrap_or_else(|_| panic!("{what}")).unwrap();
}

/// Publishes are refused, and the health gives the reason. Reads, trims and deletions still work, and make room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_and_is_freed_by_trims_and_deletes() {
    let nats = Nats::single_with_store("2MB");
    let log = open(&config(&nats)).await;
    let (topic, other) = (created(&*log, "t").await, created(&*log, "u").await);
    put(&*other, 0).await.unwrap();
    let receipts = fill(&*topic).await;
    until(&log, "it says that it is full", |health| matches!(health, Health::Full(_))).await;
    let refused = log.create(name("v"), crate::storage::Retention::default()).await.err();
    assert_eq!(refused, Some(Error::DiskFull));
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), receipts.len());
    // A replica that starts now serves the stored records.
    let late = open(&config(&nats)).await;
    let on_late = late.get(&name("t")).await.unwrap();
    assert_eq!(read_all(&*on_late, Offset::ZERO).await.unwrap().len(), receipts.len());
    assert_eq!(put(&*on_late, 0).await, Err(Error::DiskFull));
    let middle = receipts[receipts.len() / 2].first;
    assert_eq!(late.trim(&name("t"), None, middle).await, Ok(middle));
    put(&*topic, 1000).await.unwrap();
    until(&log, "there is room again", |health| *health == Health::Serving).await;
    // A deletion makes room as well.
    fill(&*topic).await;
    log.delete(&name("t"), None).await.unwrap();
    eventually("there is room", Duration::from_secs(10), async || put(&*other, 1).await.is_ok()).await;
}

/// A trim to the tail removes everything from a full store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_can_be_emptied() {
    let nats = Nats::single_with_store("1MB");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    fill(&*topic).await;
    let tail = topic.tail();
    assert_eq!(log.trim(&name("t"), None, tail).await, Ok(tail));
    put(&*topic, 1).await.unwrap();
}

/// P7: if a full store refuses a repeated publish, that says nothing about an earlier attempt whose answer was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_does_not_say_that_an_unanswered_attempt_is_not_stored() {
    const WAY: Duration = Duration::from_millis(50);
    let nats = Nats::single_with_store("1MB");
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    let mut through = config(&nats);
    through.nats.url = format!("nats://{}", proxy.at);
    let far = open(&through).await;
    let topic = created(&*far, "t").await;
    fill(&*topic).await;
    proxy.delay(WAY);
    let mut refusals = Vec::new();
    for _ in 0..5 {
        let cut = async {
            // The message has reached the server, and its answer is on the way.
            sleep(WAY + WAY / 2).await;
            proxy.cut();
        };
        let (refused, ()) = tokio::join!(put(&*topic, 0), cut);
        refusals.push(refused.unwrap_err());
    }
    let is_unknown = |error: &Error| matches!(error, Error::Unavailable { stored: Stored::Unknown, .. });
    assert!(refusals.iter().all(|error| is_unknown(error) || *error == Error::DiskFull), "{refusals:?}");
    assert!(refusals.iter().any(is_unknown), "{refusals:?}");
}
