//! The JetStream engine on real nats-servers: the contract, replicas that share a topic, and NATS
//! going away and coming back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::server::Nats;
use super::{JetStreamLog, OpenError};
use crate::config::Config;
use crate::record::{Offset, Position, Receipt};
use crate::storage::conformance::{self, Engine, batch, conformance_tests, flatten, name, read_all};
use crate::storage::{Error, Health, Hold, Log, Retention, Start, Stored, TopicLog};

/// A configuration for these servers.
fn config(nats: &Nats) -> Config {
    let mut config = Config { engine: crate::config::Engine::JetStream, ..Config::default() };
    config.nats.url = nats.url();
    config.nats.replicas = nats.servers.len();
    config
}

fn engine(nats: &Nats) -> Engine {
    let config = config(nats);
    Engine::new(move || {
        let config = config.clone();
        Box::pin(async move { JetStreamLog::open(&config).await.unwrap() as Arc<dyn Log> })
    })
}

async fn single() -> (Engine, Nats) {
    let nats = Nats::single("");
    (engine(&nats), nats)
}

mod single_server {
    super::conformance_tests!(super::single());
}

/// The contract on three servers, of which two must have a record before it is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_a_cluster() {
    let nats = Nats::cluster();
    conformance::all(&engine(&nats)).await;
}

async fn open(config: &Config) -> Arc<JetStreamLog> {
    JetStreamLog::open(config).await.unwrap()
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

/// Everything NATS has, also what another replica stored a moment ago.
async fn everything(topic: &dyn TopicLog) -> Vec<(u64, u64)> {
    eventually("it can be read", Duration::from_secs(30), async || {
        topic.resolve(Start::Latest).await.is_ok()
    })
    .await;
    read_all(topic, Offset::ZERO).await.unwrap()
}

async fn put(topic: &dyn TopicLog, payload: u64) -> Result<Receipt, Error> {
    let done = topic.appender().append(vec![batch(&[payload], 100)], Hold::default()).await;
    done.failure.map_or_else(|| Ok(done.receipts[0]), Err)
}

/// P3: what one replica acknowledged, another serves at once, from the very position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_one_replica_works_at_once_on_another() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    created(&*a, "t").await;
    let (on_a, on_b) = (a.get(&name("t")).await.unwrap(), b.get(&name("t")).await.unwrap());
    assert_eq!(on_a.epoch(), on_b.epoch());
    for n in 0..100 {
        let (one, other) = if n % 2 == 0 { (&on_a, &on_b) } else { (&on_b, &on_a) };
        let Position { offset, .. } = put(&**one, n).await.unwrap().next;
        assert_eq!(other.resolve(Start::At(offset)).await.unwrap(), offset);
        assert!(other.resolve(Start::Latest).await.unwrap() >= offset);
        // A condition on what the other has just acknowledged holds.
        let next = batch(&[1_000 + n], 0).expecting(Some(offset));
        let done = other.appender().append(vec![next], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    assert_eq!(everything(&*on_a).await.len(), 200);
    let beyond = on_b.tail().plus(1 << 20);
    let begun = Instant::now();
    assert!(matches!(on_b.resolve(Start::At(beyond)).await, Err(Error::BeyondTail { .. })));
    assert!(begun.elapsed() >= Duration::from_secs(5), "it may have come yet");
}

/// A condition that does not hold is told of an end that includes everything acknowledged before, also
/// by a replica that has not seen it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_condition_is_told_of_an_end_that_is_not_old() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    created(&*a, "t").await;
    let (on_a, on_b) = (a.get(&name("t")).await.unwrap(), b.get(&name("t")).await.unwrap());
    put(&*on_b, 0).await.unwrap();
    for n in 1..200 {
        let conditional = async |expected| {
            let batch = batch(&[1_000 + n], 0).expecting(Some(expected));
            on_b.appender().append(vec![batch], Hold::default()).await.failure
        };
        // One that holds once b has seen what a stored, then one that does not.
        let next = put(&*on_a, n).await.unwrap().next.offset;
        assert_eq!(conditional(next).await, None);
        let next = put(&*on_a, n).await.unwrap().next.offset;
        let refused = conditional(Offset::ZERO).await;
        let Some(Error::ExpectedOffset { tail, .. }) = refused else { panic!("{refused:?}") };
        assert!(tail >= next, "round {n}: told of {tail}, and {next} was acknowledged before");
    }
}

/// Reads `count` records, on one replica after the other, waiting as a subscriber does.
async fn read_moving(replicas: &[Arc<dyn TopicLog>], count: usize) -> Vec<(u64, u64)> {
    let (mut at, mut found, mut turn) = (Offset::ZERO, Vec::new(), 0);
    while found.len() < count {
        let topic = &replicas[turn % replicas.len()];
        turn += 1;
        at = topic.resolve(Start::At(at)).await.unwrap();
        for _ in 0..3 {
            topic.wait_beyond(at).await;
            let chunk = match topic.read_cached(at, 4_000) {
                Some(chunk) => chunk,
                None => topic.read(at, 4_000).await.unwrap(),
            };
            found.extend(flatten(&chunk.runs));
            at = chunk.next;
            if found.len() >= count {
                break;
            }
        }
    }
    found
}

/// P2, P3: a subscriber that is moved among replicas which all publish sees each record once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_moved_among_replicas_sees_every_record_once() {
    const EACH: u64 = 300;
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let replicas = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    let reading = tokio::spawn({
        let replicas = replicas.clone();
        async move { read_moving(&replicas, 3 * EACH as usize).await }
    });
    let write = async |replica: u64| {
        let (mut appender, mut done) = (replicas[replica as usize].appender(), Vec::new());
        for n in 0..EACH {
            done.push(appender.append(vec![batch(&[replica << 32 | n], 50)], Hold::default()));
            if n % 10 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        join_all(done).await
    };
    let written = join_all((0..3).map(write)).await;
    assert!(written.iter().flatten().all(|done| done.failure.is_none()));
    let read = timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(read.is_sorted_by(|a, b| a.0 < b.0));
    for replica in 0..3 {
        let of: Vec<_> =
            read.iter().filter(|(_, p)| p >> 32 == replica).map(|(_, p)| p & 0xffff_ffff).collect();
        assert_eq!(of, (0..EACH).collect::<Vec<_>>());
    }
    // The receipts name what was read.
    let places: HashSet<_> = read.iter().copied().collect();
    for (replica, done) in written.iter().enumerate() {
        for (n, done) in done.iter().enumerate() {
            assert!(places.contains(&(done.receipts[0].first.get(), (replica as u64) << 32 | n as u64)));
        }
    }
}

/// P5: a request id sent through several replicas at once is stored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_stored_once_whatever_the_replica() {
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    for round in 0..30_u64 {
        let answers = join_all(topics.iter().map(async |topic| {
            let batch = batch(&[round], 0).with_request_id(&format!("id-{round}")).unwrap();
            topic.appender().append(vec![batch], Hold::default()).await
        }));
        let receipts: Vec<_> = answers.await.into_iter().map(|done| done.receipts[0]).collect();
        assert_eq!(receipts.iter().filter(|receipt| !receipt.duplicate).count(), 1, "{receipts:?}");
        assert!(receipts.iter().all(|r| (r.first, r.next, r.time) == {
            (receipts[0].first, receipts[0].next, receipts[0].time)
        }));
    }
    assert_eq!(everything(&*topics[0]).await.len(), 30);
}

/// Of replicas that create a topic at once one does, and all use that one, as do the publishers that
/// made them do it.
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
        // Another incarnation is another one.
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

/// The stream of claims is made again where it is lost, as by servers that keep streams in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_and_deleted_though_the_claims_were_lost() {
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

/// A cluster that has a leader, and too few servers for a topic's replicas, is not ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_waits_until_topics_can_be_created() {
    let mut nats = Nats::cluster_of(2);
    let config = config(&nats);
    let mut opening = tokio::spawn(async move { JetStreamLog::open(&config).await.unwrap() });
    assert!(timeout(Duration::from_secs(5), &mut opening).await.is_err(), "nothing can be stored yet");
    nats.servers[2].start();
    nats.wait();
    let log = timeout(Duration::from_secs(60), opening).await.expect("it goes on by itself").unwrap();
    let topic = log.create(name("t"), Retention::default()).await.unwrap();
    put(&*topic, 1).await.unwrap();
}

/// Trimmed, deleted and created again by one replica: the others notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_does_to_a_topic_others_notice() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let on_b = b.get(&name("t")).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..20 {
        receipts.push(put(&*on_a, n).await.unwrap());
    }
    let tail = on_b.resolve(Start::Latest).await.unwrap();
    assert_eq!(tail, on_a.tail());
    a.trim(&name("t"), None, receipts[10].first).await.unwrap();
    eventually("b knows of the trim", Duration::from_secs(10), async || {
        on_b.earliest() == receipts[10].first
    })
    .await;
    let waiting = tokio::spawn({
        let on_b = on_b.clone();
        async move { on_b.wait_beyond(tail).await }
    });
    a.delete(&name("t"), None).await.unwrap();
    timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(on_b.is_deleted());
    let again = created(&*a, "t").await;
    assert_eq!(put(&*on_b, 1).await, Err(Error::TopicNotFound));
    let on_b = b.get(&name("t")).await.unwrap();
    assert_eq!(on_b.epoch(), again.epoch());
    put(&*on_b, 1).await.unwrap();
    assert_eq!(everything(&*again).await.len(), 1);
}

/// P2: a replica whose consumer is gone reads on where it stopped, though it stored more meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_while_the_consumer_was_gone_is_shown_once() {
    const ROUNDS: u64 = 10;
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let stream = log.nats.context.get_stream("streamway-t").await.unwrap();
    let consumers = async || stream.consumer_names().try_collect::<Vec<_>>().await.unwrap();
    let mut stored = 0;
    for _ in 0..ROUNDS {
        put(&*topic, stored).await.unwrap();
        stored += 1;
        for gone in consumers().await {
            stream.delete_consumer(&gone).await.unwrap();
        }
        let begun = Instant::now();
        // Publishing does not wait for the consumer.
        while consumers().await.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not read again");
            put(&*topic, stored).await.unwrap();
            stored += 1;
        }
    }
    let mut found: Vec<u64> = Vec::new();
    let mut at = Offset::ZERO;
    while let Some(chunk) = topic.read_cached(at, usize::MAX) {
        found.extend(flatten(&chunk.runs).into_iter().map(|(_, payload)| payload));
        at = chunk.next;
    }
    assert_eq!(found, (0..stored).collect::<Vec<_>>());
}

/// P6: whoever lags reads the stream, and small caches stay small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_reader_reads_on_at_its_own_pace() {
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.cache_bytes = 100_000;
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    let mut appender = topic.appender();
    for n in 0..400 {
        let done = appender.append(vec![batch(&[2 * n, 2 * n + 1], 2_000)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    assert!(topic.read_cached(Offset::ZERO, 1000).is_none(), "it left the cache");
    let cached = log.nats.cached_bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(cached < 200_000, "{cached}");
    let (one, other) = tokio::join!(read_all(&*topic, Offset::ZERO), read_all(&*topic, Offset::ZERO));
    let payloads: Vec<_> = one.unwrap().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, (0..800).collect::<Vec<_>>());
    assert_eq!(other.unwrap().len(), 800);
}

/// P3: NATS servers that restart put a reader's consumer back to where it began; the reader goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_reader_goes_on_when_the_servers_restart() {
    let mut nats = Nats::cluster();
    let mut config = config(&nats);
    config.storage.cache_bytes = 10_000;
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    // More than one answer of a consumer holds.
    for n in 0..300 {
        put(&*topic, n).await.unwrap();
    }
    let first = topic.read(Offset::ZERO, 1).await.unwrap();
    assert!(first.next < topic.tail());
    for n in 0..nats.servers.len() {
        nats.servers[n].kill();
        nats.servers[n].start();
        nats.wait();
    }
    let mut found = flatten(&first.runs);
    found.extend(read_all(&*topic, first.next).await.unwrap());
    assert_eq!(
        found.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>(),
        (0..300).collect::<Vec<_>>()
    );
}

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

#[tokio::test]
async fn a_nats_that_takes_too_little_is_refused() {
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.batch_bytes_max = (2 << 20) - (64 << 10) + 1;
    let error = JetStreamLog::open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::MaxPayload { found: 0x20_0000, .. }), "{error}");
    assert!(error.to_string().contains("lower batch_bytes_max to 2031616 or less"), "{error}");
    config.batch_bytes_max -= 1;
    open(&config).await;
}

#[tokio::test]
async fn credentials_are_shown_and_wrong_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pair = nkeys_pair();
    for more in [
        "authorization { user: me, password: \"right\" }".to_owned(),
        "authorization { token: \"right\" }".to_owned(),
        format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.1),
    ] {
        let nats = Nats::single(&more);
        let mut accepted = 0;
        for way in 0..4 {
            let mut config = config(&nats);
            match way {
                0 => {
                    config.nats.user = "me".into();
                    config.nats.password = toml_secret("right");
                }
                1 => config.nats.token_file = file("token", "right\n"),
                2 => config.nats.nkey_file = file("seed", &pair.0),
                _ => {}
            }
            match JetStreamLog::open(&config).await {
                Ok(log) => {
                    accepted += 1;
                    created(&*log, "t").await;
                }
                Err(error) => assert!(matches!(error, OpenError::Refused { .. }), "{error}"),
            }
        }
        assert_eq!(accepted, 1, "{more}");
    }
    let mut config = config(&Nats::single(""));
    config.nats.creds_file = "/nonexistent/nats.creds".into();
    let error = JetStreamLog::open(&config).await.unwrap_err().to_string();
    assert!(error.starts_with("nats.creds_file /nonexistent/nats.creds:"), "{error}");
}

fn toml_secret(text: &str) -> crate::config::Secret {
    serde_json::from_value(serde_json::Value::String(text.into())).unwrap()
}

/// Seed and public key of a user, made for this test alone.
fn nkeys_pair() -> (String, String) {
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    (SEED.into(), PUBLIC.into())
}
