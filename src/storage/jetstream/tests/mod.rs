//! Tests of the JetStream engine on real nats-servers: the conformance suite, and behaviour that shows only with
//! several replicas or with servers that stop and return.

mod access;
mod creation;
mod edges;
mod handing;
mod idle;
mod listing;
mod outages;
mod positions;
mod reading;
mod replicas;
mod room;

#[path = "../../../../tests/integration/harness/proxy.rs"]
#[allow(dead_code, reason = "the tests through the public door use all of it")]
mod proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::JetStreamLog;
use super::server::Nats;
use crate::config::Config;
use crate::record::{Offset, Receipt};
use crate::storage::conformance::{self, Engine, batch, conformance_tests, name, read_all};
use crate::storage::{Error, Hold, Log, Reason, Retention, Start, TopicLog};

/// Builds a configuration for these servers.
pub(super) fn config(nats: &Nats) -> Config {
    let mut config = Config { engine: crate::config::Engine::JetStream, ..Config::default() };
    config.nats.url = nats.url();
    config.nats.replicas = nats.servers.len();
    config
}

fn engine(nats: &Nats) -> Engine {
    let config = config(nats);
    Engine::new(move || {
        let config = config.clone();
        Box::pin(
            async move { JetStreamLog::open(&config, &Reason::default()).await.unwrap() as Arc<dyn Log> },
        )
    })
}

async fn single() -> (Engine, Nats) {
    let nats = Nats::single("");
    (engine(&nats), nats)
}

mod single_server {
    super::conformance_tests!(super::single());
}

/// Runs the conformance suite on three servers. Two of them must have a record before it is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_a_cluster() {
    let nats = Nats::cluster();
    conformance::all(&engine(&nats)).await;
}

pub(super) async fn open(config: &Config) -> Arc<JetStreamLog> {
    JetStreamLog::open(config, &Reason::default()).await.unwrap()
}

async fn created(log: &dyn Log, text: &str) -> Arc<dyn TopicLog> {
    log.create(name(text), Retention::default()).await.unwrap()
}

async fn eventually(what: &str, within: Duration, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Reads everything that NATS has, including records that another replica stored a moment ago.
async fn everything(topic: &dyn TopicLog) -> Vec<(u64, u64)> {
    eventually("it can be read", Duration::from_secs(30), async || {
        topic.resolve(Start::Latest).await.is_ok()
    })
    .await;
    read_all(topic, Offset::ZERO).await.unwrap()
}

/// Checks that exactly one of these receipts is of the stored batch, and that the others are duplicates of it.
fn assert_stored_once(receipts: &[Receipt]) {
    assert_eq!(receipts.iter().filter(|receipt| !receipt.duplicate).count(), 1, "{receipts:?}");
    let place = |receipt: &Receipt| (receipt.first, receipt.next, receipt.time);
    assert!(receipts.iter().all(|receipt| place(receipt) == place(&receipts[0])), "{receipts:?}");
}

async fn put(topic: &dyn TopicLog, payload: u64) -> Result<Receipt, Error> {
    let done = topic.appender().append(vec![batch(&[payload], 100)], Hold::default()).await;
    done.failure.map_or_else(|| Ok(done.receipts[0]), Err)
}
