//! Tests of the creation of topics: by several replicas at once, and on a cluster that is not complete.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{config, created, eventually, everything, open, put};
use crate::record::TopicName;
use crate::storage::conformance::name;
use crate::storage::jetstream::JetStreamLog;
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Log, Reason, Retention, Start};

/// If several replicas create a topic at once, exactly one succeeds. All of them, and the publishers behind them, use
/// the same topic.
async fn creation_at_once(nats: &Nats) {
    let logs = join_all((0..4).map(|_| async { open(&config(nats)).await })).await;
    for round in 0..5 {
        let text = format!("t{round}");
        let creating = join_all(logs.iter().map(|log| log.create(name(&text), Retention::default())));
        let created = timeout(Duration::from_secs(8), creating).await.expect("all are answered");
        assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 1);
        let lost = created.iter().filter_map(|created| created.as_ref().err());
        assert!(lost.into_iter().all(|error| *error == Error::TopicExists));
        let topics = join_all(logs.iter().map(async |log| log.get(&name(&text)).await.unwrap())).await;
        let epochs: HashSet<_> = topics.iter().map(|topic| topic.epoch().get()).collect();
        assert_eq!(epochs.len(), 1);
        let done = join_all(topics.iter().zip(0..).map(|(topic, n)| put(&**topic, n))).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        assert_eq!(everything(&*topics[0]).await.len(), topics.len());
        // A new incarnation has a new epoch.
        logs[0].delete(&name(&text), None).await.unwrap();
        let again = logs[1].create(name(&text), Retention::default()).await.unwrap();
        assert!(!epochs.contains(&again.epoch().get()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_create_at_once_agree() {
    creation_at_once(&Nats::single("")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_create_at_once_agree_on_a_cluster() {
    creation_at_once(&Nats::cluster()).await;
}

/// Does what a call does that may be the first to use a topic.
async fn use_first(log: &JetStreamLog, name: &TopicName, n: u64) -> Result<(), Error> {
    let topic = loop {
        match log.get(name).await {
            Err(Error::TopicNotFound) => {}
            found => break found?,
        }
        match log.create(name.clone(), Retention::default()).await {
            Err(Error::TopicExists) => {}
            made => break made?,
        }
    };
    if n < 6 { put(&*topic, n).await.map(drop) } else { topic.resolve(Start::Earliest).await.map(drop) }
}

/// Publishers use a new topic through every replica, and each of them may be the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_uses_at_once_all_find_the_topic() {
    let nats = Nats::cluster();
    let replicas = join_all((0..3).map(async |_| open(&config(&nats)).await)).await;
    for round in 0..10 {
        let name = name(&format!("t{round}"));
        let uses = join_all((0..15).map(async |n| {
            // Some calls arrive while others create the topic.
            tokio::time::sleep(Duration::from_millis(n * 2)).await;
            use_first(&replicas[n as usize % 3], &name, n).await
        }));
        let done = timeout(Duration::from_secs(20), uses).await.expect("all are answered");
        assert!(done.iter().all(Result::is_ok), "round {round}: {done:?}");
    }
}

/// The stream of create locks is created again if it is lost, for example by servers that keep streams in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_and_deleted_after_the_create_locks_were_lost() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    for text in ["t1", "t2"] {
        log.nats.context.delete_stream("streamway_claims").await.unwrap();
        created(&*log, text).await;
    }
    log.nats.context.delete_stream("streamway_claims").await.unwrap();
    log.delete(&name("t1"), None).await.unwrap();
    created(&*log, "t1").await;
}

/// A new cluster without one of its servers has no leader yet, or has one that counts too few servers (before 2.12).
/// The start names the missing server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_says_which_server_a_cluster_without_a_leader_misses() {
    let nats = Nats::without_leader();
    let (config, reason) = (config(&nats), Reason::default());
    let told = reason.clone();
    let opening = tokio::spawn(async move { JetStreamLog::open(&config, &told).await.map(drop) });
    let away = format!("127.0.0.1:{} (", nats.servers[2].port);
    let texts = [format!("has no leader; missing: {away}"), format!("not counted: {away}")];
    eventually(&away, Duration::from_secs(60), async || {
        reason.get().is_some_and(|reason| texts.iter().any(|text| reason.contains(text)))
    })
    .await;
    opening.abort();
}

/// A cluster with a leader and too few servers for a topic's replicas is not ready. The start names the server that is
/// not counted, both if it is down and if it runs apart from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_waits_until_topics_can_be_created_and_says_for_which_server() {
    let mut nats = Nats::cluster_of(2);
    let (config, reason) = (config(&nats), Reason::default());
    let told = reason.clone();
    let opening = tokio::spawn(async move { JetStreamLog::open(&config, &told).await.unwrap() });
    let says = async |texts: &[&str]| {
        eventually(&format!("it says {texts:?}"), Duration::from_secs(60), async || {
            reason.get().is_some_and(|reason| texts.iter().all(|text| reason.contains(text)))
        })
        .await;
    };
    let port = nats.servers[2].port;
    let counted = "nats.replicas 3";
    says(&[counted, "counts 2 of its servers (n1, n2)", &format!("not counted: 127.0.0.1:{port} (")]).await;
    nats.servers[2].start_apart();
    says(&[counted, &format!("not counted: n3 at 127.0.0.1:{port} (it runs, and has not joined")]).await;
    nats.servers[2].kill();
    nats.servers[2].start();
    nats.wait();
    let log = timeout(Duration::from_secs(60), opening).await.expect("it goes on by itself").unwrap();
    assert_eq!(reason.get(), None);
    assert!(log.nats.info("streamway_probe").await.unwrap().is_none(), "what it asked with is gone");
    let topic = log.create(name("t"), Retention::default()).await.unwrap();
    put(&*topic, 1).await.unwrap();
}
