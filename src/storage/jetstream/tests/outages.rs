//! NATS servers that are killed, hang and come back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{config, created, eventually, everything, open, put};
use crate::record::{Offset, Receipt};
use crate::storage::conformance::{flatten, name, read_all};
use crate::storage::jetstream::server::{Nats, NatsServer};
use crate::storage::{Error, Health, Log, Start, Stored};

/// What was acknowledged, and what perhaps is stored: every one of the former is there once, in
/// order, and nothing that was said not to be.
#[derive(Default)]
struct Told {
    stored: Vec<(u64, u64)>,
    unknown: HashSet<u64>,
    refused: HashSet<u64>,
}

impl Told {
    fn note(&mut self, payload: u64, outcome: &Result<Receipt, Error>) {
        match outcome {
            Ok(receipt) => self.stored.push((receipt.first.get(), payload)),
            Err(Error::Unavailable { stored: Stored::Unknown, .. }) => {
                self.unknown.insert(payload);
            }
            Err(Error::Unavailable { stored: Stored::Nothing, .. }) => {
                self.refused.insert(payload);
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn check(&self, found: &[(u64, u64)]) {
        let payloads: HashSet<_> = found.iter().map(|(_, payload)| *payload).collect();
        assert_eq!(payloads.len(), found.len(), "a record is there twice");
        let places: HashSet<_> = found.iter().copied().collect();
        assert!(self.stored.iter().all(|place| places.contains(place)), "an acknowledged record is missing");
        assert!(payloads.is_disjoint(&self.refused), "what was refused is stored");
    }
}

/// NATS is killed and comes back: publishers are told the truth, readiness turns off and on,
/// subscribers wait, and all go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_going_away_and_coming_back_is_waited_out() {
    let mut nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let (mut told, mut health) = (Told::default(), log.health());
    for n in 0..50 {
        told.note(n, &put(&*topic, n).await);
    }
    let tail = topic.tail();
    let subscriber = tokio::spawn({
        let topic = topic.clone();
        async move {
            topic.wait_beyond(tail).await;
            topic.read(tail, 1000).await.map(|chunk| flatten(&chunk.runs))
        }
    });
    nats.servers[0].kill();
    let begun = Instant::now();
    let first = put(&*topic, 100).await;
    assert!(matches!(first, Err(Error::Unavailable { .. })), "{first:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    told.note(100, &first);
    // Later ones are told at once, and that nothing was stored.
    let begun = Instant::now();
    let second = put(&*topic, 101).await;
    assert!(matches!(second, Err(Error::Unavailable { stored: Stored::Nothing, .. })), "{second:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    told.note(101, &second);
    let unavailable = health.wait_for(|health| matches!(health, Health::Unavailable(_)));
    timeout(Duration::from_secs(15), unavailable).await.unwrap().unwrap();
    assert!(!subscriber.is_finished());
    // What it has seen it still knows; what it has not, it waits for.
    let reading = tokio::spawn({
        let topic = topic.clone();
        async move { topic.read(Offset::ZERO, 100).await }
    });
    nats.servers[0].start();
    nats.wait();
    let serving = health.wait_for(|health| *health == Health::Serving);
    timeout(Duration::from_secs(15), serving).await.unwrap().unwrap();
    for n in 200..250 {
        let outcome = put(&*topic, n).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        told.note(n, &outcome);
    }
    assert!(!timeout(Duration::from_secs(10), reading).await.unwrap().unwrap().unwrap().runs.is_empty());
    let seen = timeout(Duration::from_secs(10), subscriber).await.unwrap().unwrap().unwrap();
    assert!(seen[0].1 == 200 || seen[0].1 == 100, "{seen:?}");
    told.check(&everything(&*topic).await);
}

/// P1, P2: the leader of the topic's stream is killed while several publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_leader_loses_and_repeats_nothing() {
    const WRITERS: u64 = 4;
    // Shown where it fails.
    let filter = "streamway=debug,async_nats=info";
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let mut nats = Nats::cluster();
    let logs = [open(&config(&nats)).await, open(&config(&nats)).await];
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (topic, stop) = (topics[writer as usize % 2].clone(), stop.clone());
            tokio::spawn(async move {
                let (mut told, mut n) = (Told::default(), 0);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let payload = writer << 32 | n;
                    told.note(payload, &put(&*topic, payload).await);
                    n += 1;
                }
                told
            })
        })
        .collect();
    for _ in 0..2 {
        sleep(Duration::from_secs(1)).await;
        let server = nats.leader("streamway-t");
        let leader = server.name.clone();
        server.kill();
        // It goes on without that server.
        let topic = topics[0].clone();
        eventually("publishing goes on", Duration::from_secs(60), async || {
            put(&*topic, u64::MAX).await.is_ok()
        })
        .await;
        nats.servers.iter_mut().find(|server| server.name == leader).unwrap().start();
        nats.wait();
        sleep(Duration::from_secs(2)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut told = Told::default();
    for writer in writers {
        let of = writer.await.unwrap();
        assert!(!of.stored.is_empty());
        assert!(of.stored.is_sorted_by(|a, b| a.0 < b.0), "one call after the other");
        told.stored.extend(of.stored);
        told.unknown.extend(of.unknown);
        told.refused.extend(of.refused);
    }
    for topic in &topics {
        let found = everything(&**topic).await;
        let found: Vec<_> = found.into_iter().filter(|(_, payload)| *payload != u64::MAX).collect();
        told.check(&found);
    }
}

/// A replica that cannot ask NATS does not say that a position does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_not_beyond_the_tail_while_nats_does_not_answer() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let next = put(&*topic, 1).await.unwrap().next.offset;
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let found = topic.resolve(Start::At(next.plus(2 << 10))).await;
    nats.servers[0].signal(rustix::process::Signal::CONT);
    assert!(matches!(found, Err(Error::Unavailable { .. })), "{found:?}");
}

/// A server that stops answering without closing anything, as a machine that hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_waited_out() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let publishing = tokio::spawn({
        let topic = topic.clone();
        async move { put(&*topic, 2).await }
    });
    sleep(Duration::from_secs(5)).await;
    nats.servers[0].signal(rustix::process::Signal::CONT);
    // Sent twice or more by now; stored once.
    timeout(Duration::from_secs(10), publishing).await.unwrap().unwrap().unwrap();
    put(&*topic, 3).await.unwrap();
    let found = read_all(&*topic, Offset::ZERO).await.unwrap();
    assert_eq!(found.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Requests that NATS does not answer are given up early enough to be repeated while a publish waits: a
/// cluster loses those that come while it has no leader, and those for a consumer on a server that died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_does_not_answer_is_soon_asked_again() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    created(&*log, "t").await;
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let begun = Instant::now();
    let found = log.nats.info("streamway-t").await;
    let info = begun.elapsed();
    let made = log.nats.consumer("streamway-t", DeliverPolicy::All, false).await;
    let consumer = begun.elapsed() - info;
    nats.servers[0].signal(rustix::process::Signal::CONT);
    assert!(found.is_err() && made.is_err());
    assert!(info < Duration::from_secs(4) && consumer < Duration::from_secs(3), "{info:?}, {consumer:?}");
}

/// The NATS server that has a replica's consumer stops, which nobody tells the replica: it reads on through another. Says how
/// long that took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_reads_on_when_the_server_of_its_consumer_stops() {
    let mut nats = Nats::cluster();
    let (log, other) = (open(&config(&nats)).await, open(&config(&nats)).await);
    created(&*other, "t").await;
    let (read, written) = (log.get(&name("t")).await.unwrap(), other.get(&name("t")).await.unwrap());
    for n in 0..3 {
        read.resolve(Start::Latest).await.unwrap();
        let tail = read.tail();
        let waiting = tokio::spawn({
            let read = read.clone();
            async move {
                read.wait_beyond(tail).await;
                Instant::now()
            }
        });
        let stream = log.nats.context.get_stream("streamway-t").await.unwrap();
        // The writer's own follower has one too: whichever is first.
        let consumers = stream.consumers().try_collect::<Vec<_>>().await.unwrap();
        let holds = |server: &NatsServer| {
            let leads =
                |c: &Info| c.cluster.as_ref().and_then(|c| c.leader.as_deref()) == Some(&*server.name);
            consumers.iter().filter(|consumer| leads(consumer)).count()
        };
        let at = (0..nats.servers.len()).max_by_key(|at| holds(&nats.servers[*at])).unwrap();
        nats.servers[at].kill();
        eventually("it is stored", Duration::from_secs(60), async || put(&*written, n).await.is_ok()).await;
        let stored = Instant::now();
        let seen = timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
        println!(
            "server {at} of {} consumers: read {:?} after it was stored",
            holds(&nats.servers[at]),
            seen.saturating_duration_since(stored)
        );
        nats.servers[at].start();
        nats.wait();
    }
    assert_eq!(everything(&*read).await.len(), 3);
}

/// A publish outlasts that the one server it goes through hangs, while the two others are a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_for_another() {
    let mut nats = Nats::cluster();
    let log = open(&config(&nats)).await;
    created(&*log, "t").await;
    let leader = nats.leader("streamway-t").name.clone();
    // Which server a client takes is chance.
    let mut log = log;
    while log.nats.client.server_info().server_name == leader {
        log = open(&config(&nats)).await;
    }
    let topic = log.get(&name("t")).await.unwrap();
    put(&*topic, 1).await.unwrap();
    let used = log.nats.client.server_info().server_name;
    let hung = nats.servers.iter().find(|server| server.name == used).unwrap();
    hung.signal(rustix::process::Signal::STOP);
    let outcome = put(&*topic, 2).await;
    hung.signal(rustix::process::Signal::CONT);
    outcome.unwrap();
    assert_eq!(everything(&*topic).await.len(), 2);
}

/// P8: a server that hangs does not keep the log from closing in the time that a drain has for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_closes_in_time_though_nats_hangs() {
    let nats = Nats::single("");
    let config = config(&nats);
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let publishing = tokio::spawn(async move { put(&*topic, 2).await });
    // Until the publish is on its way, and so is the question whether JetStream answers.
    sleep(Duration::from_millis(1200)).await;
    let closed = timeout(config.close_reserve(), log.close()).await;
    nats.servers[0].signal(rustix::process::Signal::CONT);
    closed.expect("in time").unwrap();
    let outcome = publishing.await.unwrap();
    assert!(matches!(outcome, Err(Error::Unavailable { stored: Stored::Unknown, .. })), "{outcome:?}");
}

/// Readiness turns off though the leader answers every question, as it alone cannot store anything: NATS
/// itself says so only 10 to 20 s later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_is_not_ready() {
    let mut nats = Nats::cluster();
    // This creates the stream of create locks.
    open(&config(&nats)).await;
    let leader = nats.leader("streamway_claims").name.clone();
    let port = nats.servers.iter().find(|server| server.name == leader).unwrap().port;
    let mut config = config(&nats);
    config.nats.url = format!("nats://127.0.0.1:{port}");
    let log = open(&config).await;
    let mut health = log.health();
    for server in nats.servers.iter().filter(|server| server.name != leader) {
        server.signal(rustix::process::Signal::STOP);
    }
    let off = timeout(Duration::from_secs(60), health.wait_for(|health| *health != Health::Serving));
    let off = off.await.unwrap().unwrap().clone();
    let asked = log.nats.ask("streamway_claims").await;
    for server in nats.servers.iter().filter(|server| server.name != leader) {
        server.signal(rustix::process::Signal::CONT);
    }
    let Health::Unavailable(reason) = &off else { panic!("{off:?}") };
    assert!(reason.contains("majority"), "{reason}");
    let leads = asked.unwrap().unwrap().cluster.unwrap().leader;
    assert_eq!(leads.as_deref(), Some(&*leader), "NATS has not noticed yet");
    let on = timeout(Duration::from_secs(60), health.wait_for(|health| *health == Health::Serving));
    on.await.unwrap().unwrap();
}

/// The leader of a topic's stream is stopped as planned: it says so (lame duck), and what it was sent just
/// before is lost. It is sent again at once, not after all the time that an answer may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_of_the_leader_does_not_hold_up_publishes() {
    let mut nats = Nats::cluster();
    let base = config(&nats);
    // One replica at each server.
    let logs = join_all(nats.servers.iter().map(async |server| {
        let mut config = base.clone();
        config.nats.url = format!("nats://127.0.0.1:{}", server.port);
        open(&config).await
    }))
    .await;
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = topics
        .iter()
        .map(|topic| {
            let (topic, stop) = (topic.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut n, mut longest) = (0, Duration::ZERO);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let begun = Instant::now();
                    put(&*topic, n).await.unwrap();
                    longest = longest.max(begun.elapsed());
                    n += 1;
                }
                longest
            })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    nats.leader("streamway-t").signal(rustix::process::Signal::USR2);
    sleep(Duration::from_secs(7)).await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let longest = join_all(writers).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    println!("{longest:?}");
    assert!(longest.iter().all(|longest| *longest < Duration::from_secs(4)), "{longest:?}");
}
