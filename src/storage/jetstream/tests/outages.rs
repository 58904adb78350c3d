//! Tests of NATS servers that are killed, hang and return.

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

/// Outcomes that were reported to publishers. Every acknowledged record must be stored exactly once, in order, and no
/// record that was reported as not stored may be there.
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

/// NATS is killed and returns. Publishers get correct outcomes, readiness turns off and on, subscribers wait, and
/// everything continues without help.
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
    // Later publishes fail at once, with the result that nothing was stored.
    let begun = Instant::now();
    let second = put(&*topic, 101).await;
    assert!(matches!(second, Err(Error::Unavailable { stored: Stored::Nothing, .. })), "{second:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    told.note(101, &second);
    let unavailable = health.wait_for(|health| matches!(health, Health::Unavailable(_)));
    timeout(Duration::from_secs(15), unavailable).await.unwrap().unwrap();
    assert!(!subscriber.is_finished());
    // The replica still serves records that it has read. Reads of others wait.
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

/// P1, P2: the leader of the topic's stream is killed while several publishers are active.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_leader_loses_and_repeats_nothing() {
    const WRITERS: u64 = 4;
    // The log is shown if the test fails.
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
        // Publishing continues without that server.
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

/// A replica that cannot ask NATS does not report that a position does not exist.
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

/// A server stops answering without closing the connection, like a machine that hangs.
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
    // By now the batch was sent twice or more, and it is stored once.
    timeout(Duration::from_secs(10), publishing).await.unwrap().unwrap().unwrap();
    put(&*topic, 3).await.unwrap();
    let found = read_all(&*topic, Offset::ZERO).await.unwrap();
    assert_eq!(found.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Requests without an answer are given up early enough to be repeated while a publish waits. A cluster loses requests
/// that arrive while it has no leader, and requests for a consumer on a server that died.
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

/// The NATS server that has a replica's consumer stops, and the replica is not notified. It continues reading through
/// another server. The test prints the duration.
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
        // The writer's follower has a consumer too. The server with the most consumers is stopped.
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

/// A publish succeeds although the server that it goes through hangs, because the two other servers are a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_for_another() {
    let mut nats = Nats::cluster();
    let log = open(&config(&nats)).await;
    created(&*log, "t").await;
    let leader = nats.leader("streamway-t").name.clone();
    // The client chooses its server at random.
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

/// P8: if a server hangs, the log still closes within the time that a drain reserves for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_closes_in_time_though_nats_hangs() {
    let nats = Nats::single("");
    let config = config(&nats);
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let publishing = tokio::spawn(async move { put(&*topic, 2).await });
    // Waits until the publish and the health request are in progress.
    sleep(Duration::from_millis(1200)).await;
    let closed = timeout(config.close_reserve(), log.close()).await;
    nats.servers[0].signal(rustix::process::Signal::CONT);
    closed.expect("in time").unwrap();
    let outcome = publishing.await.unwrap();
    assert!(matches!(outcome, Err(Error::Unavailable { stored: Stored::Unknown, .. })), "{outcome:?}");
}

/// Readiness turns off although the leader answers every request, because it cannot store anything alone. NATS itself
/// reports that only 10 to 20 s later.
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

/// The leader of a topic's stream is stopped in an orderly way. It announces that (lame duck mode), and loses messages
/// that it received just before. They are sent again at once, not only after the full timeout of an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_of_the_leader_does_not_hold_up_publishes() {
    let mut nats = Nats::cluster();
    let base = config(&nats);
    // Each server has one replica.
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
