//! Tests of the times after which something idle ends or is renewed. The times are shortened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{config, created, eventually, put};
use crate::record::Offset;
use crate::storage::conformance::{batch, flatten, name, read_all};
use crate::storage::jetstream::nats::IdleTimes;
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::{JetStreamLog, connect};
use crate::storage::{Hold, Log, Reason, Start};

const IDLE: Duration = Duration::from_millis(400);

/// Opens a log with these idle times.
async fn open(nats: &Nats, times: IdleTimes) -> Arc<JetStreamLog> {
    let config = config(nats);
    let mut connected = connect::connect(&config, &Reason::default()).await.unwrap();
    connected.idle_times = times;
    JetStreamLog::over(connected, config.topics_max)
}

async fn consumers(log: &JetStreamLog, stream: &str) -> usize {
    log.nats.info(stream).await.unwrap().unwrap().state.consumer_count
}

fn is_followed(log: &JetStreamLog, topic: &str) -> bool {
    log.topics()[&name(topic)].queue().followed
}

/// Runs `work` repeatedly until three times the idle time has passed.
async fn beyond(idle: Duration, mut work: impl AsyncFnMut(u64)) {
    let begun = Instant::now();
    for n in 0.. {
        if begun.elapsed() > 3 * idle {
            return;
        }
        work(n).await;
    }
}

/// A topic that is only published to, with request ids, keeps its follower and that follower's state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_without_a_reader_is_followed_for_as_long_as_it_is_published_to() {
    let nats = Nats::single("");
    let log = open(&nats, IdleTimes { topic: IDLE, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    beyond(IDLE, async |n| {
        let batch = batch(&[n], 10).with_request_id(&format!("id-{n}")).unwrap();
        let done = topic.appender().append(vec![batch], Hold::default()).await;
        assert_eq!(done.failure, None);
    })
    .await;
    assert!(is_followed(&log, "t"));
    // One consumer reads the stream, and one has read the request ids.
    assert!(consumers(&log, "streamway-t").await <= 2, "a follower stopped and another began");
}

/// A subscriber that reads only from memory keeps the follower running too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_read_from_memory_is_followed_on() {
    let nats = Nats::single("");
    let log = open(&nats, IdleTimes { topic: IDLE, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    beyond(IDLE, async |_| {
        assert!(topic.read_cached(Offset::ZERO, 100).is_some());
        sleep(IDLE / 20).await;
    })
    .await;
    assert!(is_followed(&log, "t"));
}

/// The follower of an unused topic stops. When the topic is used again, all its records are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_nobody_uses_is_left_and_taken_up_again() {
    let nats = Nats::single("");
    let log = open(&nats, IdleTimes { topic: IDLE, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    for n in 0..3 {
        put(&*topic, n).await.unwrap();
        eventually("it is let go of", Duration::from_secs(20), async || !is_followed(&log, "t")).await;
    }
    let waiting = tokio::spawn({
        let (topic, tail) = (topic.clone(), topic.tail());
        async move { topic.wait_beyond(tail).await }
    });
    // A waiting caller uses the topic for as long as it waits.
    sleep(3 * IDLE).await;
    assert!(is_followed(&log, "t"));
    put(&*topic, 3).await.unwrap();
    timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    let found = read_all(&*topic, Offset::ZERO).await.unwrap();
    assert_eq!(found.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// A reader that pauses for longer than NATS keeps its consumer continues with another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_after_nats_forgot_its_consumer() {
    const BATCHES: u64 = 6;
    const EACH: u64 = 60;
    let nats = Nats::single("");
    let writing = super::open(&config(&nats)).await;
    let topic = created(&*writing, "t").await;
    for n in 0..BATCHES {
        // Each message fills one answer to a reader.
        let payloads = Vec::from_iter(n * EACH..(n + 1) * EACH);
        let done = topic.appender().append(vec![batch(&payloads, 15_000)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    let others = consumers(&writing, "streamway-t").await;
    let log = open(&nats, IdleTimes { consumer: IDLE, ..IdleTimes::default() }).await;
    let topic = log.get(&name("t")).await.unwrap();
    let (mut at, mut found, mut reads) = (Offset::ZERO, Vec::new(), 0);
    while found.len() < (BATCHES * EACH) as usize {
        let chunk = timeout(Duration::from_secs(20), topic.read(at, 1)).await.unwrap().unwrap();
        found.extend(flatten(&chunk.runs));
        (at, reads) = (chunk.next, reads + 1);
        let gone = async || consumers(&log, "streamway-t").await <= others;
        eventually("NATS forgets the consumer", Duration::from_secs(20), gone).await;
    }
    assert!(reads > 2, "{reads}");
    let payloads: Vec<_> = found.into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, Vec::from_iter(0..BATCHES * EACH));
}

/// The NATS server that has the consumer of a replica may stop. The connection ends at once, and the topic is then read
/// again without waiting for a long silence of the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_read_on_once_the_connection_is_back() {
    let mut nats = Nats::single("");
    let (request, heartbeat) = (Duration::from_secs(3_000), Duration::from_secs(600));
    let log = open(&nats, IdleTimes { request, heartbeat, ..IdleTimes::default() }).await;
    let other = super::open(&config(&nats)).await;
    let written = created(&*other, "t").await;
    let read = log.get(&name("t")).await.unwrap();
    for n in 0..3 {
        put(&*written, 2 * n).await.unwrap();
        eventually("it is read", Duration::from_secs(60), async || read.resolve(Start::Latest).await.is_ok())
            .await;
        let tail = read.tail();
        let waiting = tokio::spawn({
            let read = read.clone();
            async move { read.wait_beyond(tail).await }
        });
        nats.servers[0].kill();
        nats.servers[0].start();
        nats.wait();
        eventually("it is stored", Duration::from_secs(60), async || put(&*written, 2 * n + 1).await.is_ok())
            .await;
        timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    }
}

/// A consumer that is silent for longer than its heartbeats allow counts as lost, and reading continues with another
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_read_on_after_its_consumer_was_silent() {
    let nats = Nats::single("");
    let (request, heartbeat) = (Duration::from_secs(3), Duration::from_millis(200));
    let log = open(&nats, IdleTimes { request, heartbeat, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    for n in 0..3 {
        put(&*topic, n).await.unwrap();
        nats.servers[0].signal(rustix::process::Signal::STOP);
        sleep(5 * heartbeat).await;
        nats.servers[0].signal(rustix::process::Signal::CONT);
    }
    let other = super::open(&config(&nats)).await;
    put(&*other.get(&name("t")).await.unwrap(), 3).await.unwrap();
    let read = async || topic.resolve(Start::Latest).await == Ok(Offset::new(4 << 10));
    eventually("it is read on", Duration::from_secs(20), read).await;
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 4);
}

/// A reader sends its request again if no answer comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_reader_asks_again_when_no_answer_comes() {
    let nats = Nats::single("");
    let writing = super::open(&config(&nats)).await;
    let written = created(&*writing, "t").await;
    for n in 0..4 {
        let done = written.appender().append(vec![batch(&[n; 60], 15_000)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    let answer = Duration::from_millis(300);
    let log = open(&nats, IdleTimes { answer, ..IdleTimes::default() }).await;
    let topic = log.get(&name("t")).await.unwrap();
    let first = topic.read(Offset::ZERO, 1).await.unwrap();
    assert!(first.next < topic.tail());
    nats.servers[0].signal(rustix::process::Signal::STOP);
    let reading = tokio::spawn({
        let topic = topic.clone();
        async move { topic.read(first.next, 1).await }
    });
    sleep(3 * answer).await;
    assert!(!reading.is_finished());
    nats.servers[0].signal(rustix::process::Signal::CONT);
    let chunk = timeout(Duration::from_secs(30), reading).await.unwrap().unwrap().unwrap();
    assert!(chunk.records > 0);
}

/// A change by a client that announces nothing is known after the next regular request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_asks_regularly_what_others_changed() {
    let nats = Nats::single("");
    let refresh = Duration::from_millis(300);
    let log = open(&nats, IdleTimes { refresh, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    for n in 0..4 {
        put(&*topic, n).await.unwrap();
    }
    for first in 2..=4 {
        log.nats.purge("streamway-t", first).await.unwrap();
        let is_known = async || topic.earliest() == Offset::new((first - 1) << 10);
        eventually("it is known", Duration::from_secs(10), is_known).await;
    }
}

/// Reading of a quiet topic continues after NATS ended the request for the next message, several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_topic_is_read_on_after_requests_expired() {
    let nats = Nats::single("");
    let request = Duration::from_secs(1);
    let log = open(&nats, IdleTimes { request, ..IdleTimes::default() }).await;
    let other = super::open(&config(&nats)).await;
    let written = created(&*other, "t").await;
    let read = log.get(&name("t")).await.unwrap();
    for n in 0..2 {
        let tail = read.tail();
        let waiting = tokio::spawn({
            let read = read.clone();
            async move { read.wait_beyond(tail).await }
        });
        sleep(request + request / 2).await;
        put(&*written, n).await.unwrap();
        timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    }
    assert_eq!(consumers(&log, "streamway-t").await, 3, "two that read, one that read request ids");
}
