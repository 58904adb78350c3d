//! Tests of readers and the follower when consumers disappear, and of readers that lag.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;

use super::{JetStreamLog, config, created, open, put};
use crate::record::Offset;
use crate::storage::conformance::{batch, flatten, read_all};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Hold, Log};

/// P2: a replica whose consumer is gone continues reading where it stopped, even if it stored more in the meantime.
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

/// P6: a lagging reader reads from the stream, and small caches stay small.
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
    assert!(log.nats.cache.held() <= 100_000, "{}", log.nats.cache.held());
    let (one, other) = tokio::join!(read_all(&*topic, Offset::ZERO), read_all(&*topic, Offset::ZERO));
    let payloads: Vec<_> = one.unwrap().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, (0..800).collect::<Vec<_>>());
    assert_eq!(other.unwrap().len(), 800);
}

/// One bound applies to the caches of all topics together, counted by the bytes held. A topic that is no longer busy
/// does not keep its part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caches_of_many_topics_keep_to_one_bound() {
    const BYTES_MAX: usize = 1 << 20;
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.cache_bytes = BYTES_MAX;
    let log = open(&config).await;
    let mut topics = Vec::new();
    for n in 0..40 {
        topics.push(created(&*log, &format!("t{n}")).await);
    }
    let mut appenders: Vec<_> = topics.iter().map(|topic| topic.appender()).collect();
    let held = |n: usize| log.topics().get(topics[n].name()).unwrap().state.cache.held();
    let all = || (0..topics.len()).map(held).sum::<usize>();
    for n in 0..30 {
        let done = appenders[0].append(vec![batch(&[n, n], 20_000)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    assert!(held(0) > BYTES_MAX / 2, "busy: {}", held(0));
    for round in 0..4 {
        for appender in &mut appenders[1..] {
            let done = appender.append(vec![batch(&[round; 4], 2_500)], Hold::default()).await;
            assert_eq!(done.failure, None);
        }
        assert!(all() <= BYTES_MAX, "round {round}: {}", all());
        assert_eq!(all(), log.nats.cache.held());
    }
    assert_eq!(held(0), 0, "the topic that was busy");
    assert!(all() > BYTES_MAX / 2, "what there is room for is kept: {}", all());
    let last = topics.last().unwrap();
    assert!(last.read_cached(Offset::new(last.tail().get() - 1024), 1).is_some(), "the newest is kept");
    log.delete(topics[5].name(), None).await.unwrap();
    assert_eq!(held_of_known(&log), log.nats.cache.held());
}

/// Returns the bytes that the caches of all known topics hold.
fn held_of_known(log: &JetStreamLog) -> usize {
    log.topics().values().map(|topic| topic.state.cache.held()).sum()
}

/// P3: restarted NATS servers reset a reader's consumer to its first position. The reader continues where it stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_reader_goes_on_when_the_servers_restart() {
    let mut nats = Nats::cluster();
    let mut config = config(&nats);
    config.storage.cache_bytes = 10_000;
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    // These are more records than one answer of a consumer holds.
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
