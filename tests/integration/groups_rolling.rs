//! A rolling restart of a fleet under handlers that take longer than the restart of a replica.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamway::client::{Client, ConsumerOptions, Options, PublisherOptions, Received, Record};
use streamway::proto::v1::{Group, GroupSettings};
use tokio_util::sync::CancellationToken;

use crate::groups_fleet::replica;
use crate::harness::haproxy::HaProxy;
use crate::harness::owner::ownerships;
use crate::harness::{Nats, soak, within};

/// Members, each with its own connection.
const MEMBERS: usize = 3;
/// Records that each handles at a time.
const AT_ONCE: usize = 4;

/// Time that a handler takes.
fn handling() -> Duration {
    Duration::from_secs(if soak() { 20 } else { 8 })
}

/// P11, P13: nothing is handled twice, and the group changes its owner twice at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_runs_no_handler_twice() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await, replica(&nats).await];
    let front = HaProxy::before(&replicas);
    let client = || Client::new(Options::new(format!("http://{}", front.at))).unwrap();
    let admin = client();
    let publisher = admin.publisher("jobs", PublisherOptions::default()).unwrap();
    let records = 3 * MEMBERS * AT_ONCE;
    for n in 0..records {
        publisher.publish_nowait(&Record::new(n.to_string())).await.unwrap();
    }
    publisher.close().await.unwrap();
    let group = Group {
        topic: "jobs".into(),
        name: "g".into(),
        settings: Some(GroupSettings::default()),
        ..Group::default()
    };
    admin.groups().create(group, None).await.unwrap();
    let (runs, stop) = (Arc::<Mutex<BTreeMap<u64, usize>>>::default(), CancellationToken::new());
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let options =
            ConsumerOptions { concurrency: AT_ONCE, prefetch: 0, ..ConsumerOptions::new("jobs", "g") };
        let consumer = client().consumer(options).unwrap();
        let (runs, stop) = (runs.clone(), stop.clone());
        let handler = move |received: Received| {
            *runs.lock().unwrap().entry(received.offset().get()).or_default() += 1;
            async move {
                // The work itself.
                tokio::time::sleep(handling()).await;
                Ok(())
            }
        };
        members.push(tokio::spawn(async move { consumer.run(handler, stop.cancelled_owned()).await }));
    }
    let begun = async {
        while runs.lock().unwrap().len() < MEMBERS * AT_ONCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(60, "handlers at work", begun).await;
    // Of the processes that are gone; each begins its own log.
    let mut owners = 0;
    for replica in &mut replicas {
        replica.sigterm().await;
        owners += ownerships(replica);
        replica.restart().await;
    }
    let settled = async {
        loop {
            let status = admin.groups().get("jobs", "g").await.ok().and_then(|group| group.status);
            if status.is_some_and(|status| status.lag_records == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(180, "everything to be settled", settled).await;
    stop.cancel();
    let mut lost = 0;
    for member in members {
        lost += within(60, "a consumer to leave", member).await.unwrap().unwrap().lost;
    }
    owners += replicas.iter().map(ownerships).sum::<usize>();
    println!("{records} records of {:?} each, {owners} owners", handling());
    let runs = runs.lock().unwrap();
    let twice: Vec<_> = runs.iter().filter(|(_, runs)| **runs != 1).collect();
    assert!(twice.is_empty() && lost == 0, "handled more than once: {twice:?}; {lost} lost");
    assert_eq!(runs.len(), records);
    assert!(owners <= 3, "the group moved more than twice: {owners} owners");
}
