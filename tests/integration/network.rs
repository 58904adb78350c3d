//! A network that delays, cuts, throttles and half-closes, clients that vanish, and a crowd that comes
//! back at once (P2, P3, P5, P6).

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::harness::make::{at, earliest, published, record, records, subscribe};
use crate::harness::proxy::Proxy;
use crate::harness::{Reader, Server, StreamClient, read_all, seed, soak, within};
use crate::history::Recorder;
use crate::history::check::{Summary, check};
use crate::history::clients::{Publisher, follow};

const TOPIC: &str = "network";

async fn by_way_of(proxy: &Proxy) -> StreamClient {
    let endpoint = Endpoint::from_shared(format!("http://{}", proxy.at)).unwrap();
    StreamClient::new(endpoint.connect_lazy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_and_delays_lose_repeat_and_reorder_nothing() {
    let rounds = if soak() { 300 } else { 40 };
    let mut rng = Rng::with_seed(seed());
    let server = Server::start().await;
    let proxy = Proxy::to(server.listen()).await;
    let (recorder, (done, stop), (end, last)) =
        (Recorder::new(), watch::channel(false), watch::channel(None));
    let mut publishers = JoinSet::new();
    let publisher = async |name: String, rng: Rng| Publisher {
        client: by_way_of(&proxy).await,
        topic: TOPIC.into(),
        name,
        rng,
        recorder: recorder.clone(),
        stop: stop.clone(),
        pause: Duration::ZERO,
    };
    publishers.spawn(publisher("faithful".into(), rng.fork()).await.faithful());
    publishers.spawn(publisher("conditional".into(), rng.fork()).await.conditional());
    publishers.spawn(publisher("ingesting".into(), rng.fork()).await.ingesting());
    recorder.reach(1).await;
    let mut followers = JoinSet::new();
    for _ in 0..2 {
        followers.spawn(follow(by_way_of(&proxy).await, TOPIC.into(), recorder.clone(), last.clone()));
    }
    for round in 0..rounds {
        let mut exchange = JoinSet::new();
        exchange.spawn(publisher(format!("r{round}"), rng.fork()).await.exchanging());
        proxy.delay(Duration::from_millis(rng.u64(0..8)));
        recorder.reach(rng.u64(1..60)).await;
        let ended = async {
            // One that connects just now is cut off with the next.
            while !exchange.is_empty() {
                proxy.cut();
                let _ = tokio::time::timeout(Duration::from_millis(100), exchange.join_next()).await;
            }
        };
        within(30, "a call that was cut off", ended).await;
    }
    proxy.delay(Duration::ZERO);
    done.send_replace(true);
    within(60, "the publishers", publishers.join_all()).await;
    let summary = assert_sound(&server, &recorder, &end, followers).await;
    println!("{rounds} cuts: {summary:?}");
}

/// What the judge says once two followers have seen all that the topic holds.
async fn assert_sound(
    server: &Server,
    recorder: &Recorder,
    end: &watch::Sender<Option<u64>>,
    followers: JoinSet<()>,
) -> Summary {
    let topic = read_all(&mut server.client().await, TOPIC).await;
    end.send_replace(topic.last().map(|seen| seen.offset + 1));
    within(60, "the followers", followers.join_all()).await;
    let summary = check(&recorder.history(&topic)).unwrap_or_else(|reason| panic!("{reason}"));
    assert_eq!(summary.delivered, 2 * topic.len());
    summary
}

/// P6: a subscriber at 1 KB/s slows nobody, costs little, and gets everything in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_at_a_kilobyte_a_second_slows_nobody() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, TOPIC, records("first", 1)).await;
    let proxy = Proxy::to(server.listen()).await;
    let mut slow = Reader::open(&mut by_way_of(&proxy).await, subscribe(TOPIC, earliest())).await.unwrap();
    slow.take(1).await;
    proxy.throttle(1000);
    let mut fast = Reader::open(&mut server.client().await, subscribe(TOPIC, earliest())).await.unwrap();
    fast.take(1).await;
    let before = server.resident_bytes();
    // At a kilobyte a second these would take hours.
    for _ in 0..100 {
        published(&mut client, TOPIC, vec![record(vec![7; 200_000])]).await;
    }
    within(120, "the other subscriber", fast.take(100)).await;
    let grown = server.resident_bytes().saturating_sub(before);
    // 20 MB are published, which the tail cache may hold twice over, and the slow one must not.
    assert!(grown < 150 << 20, "{grown} bytes more");
    proxy.throttle(0);
    assert!(
        within(60, "the slow subscriber", slow.take(100))
            .await
            .iter()
            .all(|seen| seen.record.value.len() == 200_000)
    );
}

/// P6: a ping to a subscriber that reads slowly is behind megabytes that it has yet to read. It is there all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_reads_slowly_is_not_taken_for_one_that_is_gone() {
    // Long enough for a proxy on a busy machine, which gets no processor time for a while.
    let server = Server::with(&["--http2-keepalive-interval", "2s", "--http2-keepalive-timeout", "2s"]).await;
    let mut client = server.client().await;
    for _ in 0..20 {
        published(&mut client, TOPIC, vec![record(vec![7; 500_000])]).await;
    }
    let proxy = Proxy::to(server.listen()).await;
    let channel = Endpoint::from_shared(format!("http://{}", proxy.at))
        .unwrap()
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(16 << 20)
        .connect()
        .await
        .unwrap();
    let mut slow = StreamClient::new(channel);
    proxy.throttle(1_000_000);
    let mut slow = Reader::open(&mut slow, subscribe(TOPIC, earliest())).await.unwrap();
    assert_eq!(within(60, "all of it", slow.take(20)).await.len(), 20);
}

/// Clients that vanish in the middle of a call, or close only their half, leave nothing open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_or_half_close_leave_nothing_behind() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, TOPIC, records("a", 3)).await;
    let files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let before = files();
    for half in [false, true] {
        let proxy = Proxy::to(server.listen()).await;
        let mut readers = Vec::new();
        for _ in 0..50 {
            let mut reader =
                Reader::open(&mut by_way_of(&proxy).await, subscribe(TOPIC, earliest())).await.unwrap();
            reader.take(3).await;
            readers.push(reader);
        }
        assert!(files() >= before + 50);
        if half {
            proxy.half_close()
        } else {
            proxy.cut()
        }
        let gone = async {
            while files() > before + 2 {
                // Nothing tells when another process closes a file.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(20, "connections that are gone to be closed", gone).await;
        published(&mut client, TOPIC, records("b", 1)).await;
        drop(readers);
    }
}

/// P3: after a restart everybody comes back at once, and goes on where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_comes_back_at_once_goes_on_where_it_was() {
    let crowd = if soak() { 5000 } else { 1000 };
    let wanted = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted);
    let mut server = Server::start().await;
    published(&mut server.client().await, TOPIC, records("before-", 5)).await;
    let (seen_first, mut waiting) = watch::channel(0_usize);
    let mut subscribers = JoinSet::new();
    for _ in 0..crowd {
        let endpoint = Endpoint::from_shared(server.url()).unwrap().connect_timeout(Duration::from_secs(20));
        let (mut client, seen_first) = (StreamClient::new(endpoint.connect_lazy()), seen_first.clone());
        subscribers.spawn(async move {
            let mut reader = open(&mut client, None).await;
            let mut seen = reader.take(5).await;
            seen_first.send_modify(|count| *count += 1);
            while seen.len() < 10 {
                match reader.records().await {
                    Ok(Some(more)) => seen.extend(more),
                    _ => reader = open(&mut client, reader.next).await,
                }
            }
            assert!(seen.iter().map(|seen| seen.offset).eq(0..10), "no gap, no repeat");
        });
    }
    within(120, "the crowd", waiting.wait_for(|count| *count == crowd)).await.unwrap();
    server.kill9().await;
    server.restart().await;
    let begun = Instant::now();
    published(&mut server.client().await, TOPIC, records("after-", 5)).await;
    while let Some(done) = within(120, "the crowd's return", subscribers.join_next()).await {
        done.unwrap();
    }
    println!("{crowd} subscribers were back after {:?}", begun.elapsed());
}

async fn open(client: &mut StreamClient, next: Option<streamway::proto::v1::Position>) -> Reader {
    loop {
        let start = next.as_ref().map_or_else(earliest, at);
        // Where thousands come at once, an attempt may be lost in the crowd.
        let attempt = Reader::open(client, subscribe(TOPIC, start));
        match tokio::time::timeout(Duration::from_secs(20), attempt).await {
            Ok(Ok(reader)) => return reader,
            // The client's back-off.
            _ => tokio::time::sleep(Duration::from_millis(fastrand::u64(10..100))).await,
        }
    }
}

/// P2, P5: every connection comes twice, and they overtake each other, while all are cut again and again.
/// What the server is told twice it stores once, for those who number what they publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_twice_and_out_of_order_store_everything_once() {
    let rounds = if soak() { 200 } else { 25 };
    let mut rng = Rng::with_seed(seed());
    let server = Server::start().await;
    let proxy = Proxy::to(server.listen()).await;
    proxy.shuffle_and_double(Duration::from_millis(30), true);
    let (recorder, (done, stop), (end, last)) =
        (Recorder::of_doubled(), watch::channel(false), watch::channel(None));
    let mut publishers = JoinSet::new();
    for i in 0..4 {
        let publisher = Publisher {
            client: by_way_of(&proxy).await,
            topic: TOPIC.into(),
            name: format!("faithful{i}"),
            rng: rng.fork(),
            recorder: recorder.clone(),
            stop: stop.clone(),
            pause: Duration::ZERO,
        };
        publishers.spawn(publisher.faithful());
    }
    recorder.reach(1).await;
    let mut followers = JoinSet::new();
    for _ in 0..2 {
        followers.spawn(follow(by_way_of(&proxy).await, TOPIC.into(), recorder.clone(), last.clone()));
    }
    for _ in 0..rounds {
        recorder.reach(rng.u64(1..60)).await;
        proxy.cut();
    }
    done.send_replace(true);
    within(60, "the publishers", publishers.join_all()).await;
    let summary = assert_sound(&server, &recorder, &end, followers).await;
    println!("{rounds} rounds of doubled connections: {summary:?}");
}

/// P4, P6: a publisher at 1 KB/s slows nobody, and its batch is stored whole in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_at_a_kilobyte_a_second_slows_nobody() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let proxy = Proxy::to(server.listen()).await;
    proxy.throttle_up(1000);
    let mut slow = by_way_of(&proxy).await;
    published(&mut slow, TOPIC, records("first", 1)).await;
    let slow =
        tokio::spawn(async move { published(&mut slow, TOPIC, vec![record(vec![b'1'; 3000]); 2]).await });
    let mut beside = 0;
    while !slow.is_finished() {
        within(5, "a publish beside", published(&mut client, TOPIC, records("beside", 1))).await;
        beside += 1;
    }
    slow.await.unwrap();
    assert!(beside > 100, "{beside} beside it");
    let seen = read_all(&mut client, TOPIC).await;
    let slow: Vec<_> = seen.iter().filter(|seen| seen.record.value.len() == 3000).collect();
    assert!(slow.len() == 2 && slow[0].batch == slow[1].batch, "whole");
}
