//! Tests of the times after which something idle ends or is renewed. The times are shortened.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::{config, created, eventually, put};
use crate::record::{Offset, UnixMicros};
use crate::storage::conformance::{batch, flatten, name, read_all};
use crate::storage::jetstream::bus::{Address, Bus};
use crate::storage::jetstream::handover::{self, Why};
use crate::storage::jetstream::nats::IdleTimes;
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::{JetStreamLog, connect};
use crate::storage::{Error, Hold, Log, Reason, Retention, Start, Stored};

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

/// A clock difference is logged again if it lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_difference_is_logged_again_after_a_while() {
    let nats = Nats::single("");
    let log = open(&nats, IdleTimes { skew: IDLE, ..IdleTimes::default() }).await;
    let report = |seconds: u64| log.nats.report_skew(UnixMicros(seconds * 1_000_000), UnixMicros(0));
    let begun = Instant::now();
    assert!(!report(30) && report(31) && !report(31));
    eventually("it is logged again", Duration::from_secs(20), async || report(31)).await;
    assert!(begun.elapsed() >= IDLE && !report(31));
}

/// A stream that NATS refuses to create is requested again for a while, and the topic can be created afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_nats_cannot_place_is_given_up_after_a_while() {
    let nats = Nats::single("");
    let config = config(&nats);
    let mut connected = connect::connect(&config, &Reason::default()).await.unwrap();
    connected.idle_times.create = IDLE;
    // One server cannot store three copies.
    connected.stream_config.replicas = 3;
    let log = JetStreamLog::over(connected, config.topics_max);
    let begun = Instant::now();
    let made = log.create(name("t"), Retention::default()).await.err();
    assert!(matches!(made, Some(Error::Unavailable { stored: Stored::Nothing, .. })), "{made:?}");
    assert!(begun.elapsed() >= IDLE / 2, "it is requested more than once");
    let other = super::open(&config).await;
    put(&*created(&*other, "t").await, 1).await.unwrap();
}

/// A request id that is older than the window and its slack is not read any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_beyond_the_window_is_unknown_to_a_replica_that_starts() {
    let nats = Nats::single("");
    let config = config(&nats);
    let open = async || {
        let mut connected = connect::connect(&config, &Reason::default()).await.unwrap();
        (connected.idle_times.ids_slack, connected.storage.request_id_window) = (IDLE, 4 * IDLE);
        JetStreamLog::over(connected, config.topics_max)
    };
    let put = async || {
        let log = open().await;
        let topic = match log.get(&name("t")).await {
            Ok(topic) => topic,
            Err(_) => created(&*log, "t").await,
        };
        let batch = batch(&[1], 0).with_request_id("once").unwrap();
        let done = topic.appender().append(vec![batch], Hold::default()).await;
        done.receipts[0].duplicate
    };
    assert!(!put().await);
    let stored = Instant::now();
    let again = put().await;
    assert!(again || stored.elapsed() >= 4 * IDLE, "it is within the window");
    eventually("the window is over", Duration::from_secs(20), async || !put().await).await;
    assert!(stored.elapsed() >= 4 * IDLE);
}

/// An attempt to connect to a server that hangs is given up, and another one is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_connects_again_if_a_server_does_not_greet() {
    let nats = Nats::single("");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&nats);
    config.nats.url = format!("nats://{}", listener.local_addr().unwrap());
    let port = nats.servers[0].port;
    let serving = tokio::spawn(async move {
        // The first connection is accepted and gets no answer.
        let _silent = listener.accept().await.unwrap();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let reason = Reason::default();
    let opening = connect::connect(&config, &reason);
    timeout(Duration::from_secs(30), opening).await.expect("it connects").unwrap();
    serving.abort();
}

/// The last letters of a follower are given up while NATS takes nothing, and so is the flush of a log that closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_letters_that_nats_does_not_take() {
    let mut nats = Nats::single("");
    let log = open(&nats, IdleTimes::default()).await;
    nats.servers[0].kill();
    eventually("the connection is lost", Duration::from_secs(20), async || !log.nats.link.state().up).await;
    timeout(Duration::from_secs(20), log.close()).await.expect("it closes").unwrap();
    let away = ConnectOptions::new().retry_on_initial_connect().client_capacity(1);
    let client = away.connect(format!("127.0.0.1:{}", nats.servers[0].port)).await.unwrap();
    let filling = client.clone();
    let filling = tokio::spawn(async move { while filling.publish("other", "".into()).await.is_ok() {} });
    let mut bus = Bus::new(client);
    for _ in 0..4 {
        bus.send(handover::back(Address::random(), 1, Why::Stopping));
    }
    timeout(Duration::from_secs(20), bus.sent()).await.expect("it ends");
    filling.abort();
}

/// A process that was paused for longer than its heartbeats reads on with the same consumer.
#[tokio::test]
async fn a_process_that_was_paused_reads_on_with_its_consumer() {
    let nats = Nats::single("");
    let log = open(&nats, IdleTimes { heartbeat: IDLE / 4, ..IdleTimes::default() }).await;
    let topic = created(&*log, "t").await;
    put(&*topic, 0).await.unwrap();
    let config = config(&nats);
    let publishing = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = super::open(&config).await;
            let topic = other.get(&name("t")).await.unwrap();
            for n in 1..50 {
                put(&*topic, n).await.unwrap();
            }
            sleep(2 * IDLE).await;
            (topic.tail(), consumers(&other, "streamway-t").await)
        })
    };
    // This is the only thread of the log. It is blocked meanwhile.
    let (tail, readers) = std::thread::spawn(publishing).join().unwrap();
    eventually("it is read", Duration::from_secs(20), async || topic.tail() == tail).await;
    assert_eq!(consumers(&log, "streamway-t").await, readers);
}
