//! A stuck subscriber loses nothing, costs bounded memory, and slows nobody (P6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamway::proto::v1::subscribe_request::Start;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::make::{earliest, latest, numbered, open, publish, published, record, subscribe};
use crate::harness::raw::NeverReads;
use crate::harness::{Reader, Server, StreamClient, soak, within};

const TOPIC: &str = "isolation";
const RECORD_BYTES: usize = 10_000;
const RECORDS_PER_BATCH: usize = 10;
const MIB: u64 = 1 << 20;
/// What may be in flight, unflushed and cached, 16 MiB each; windows, buffers and the binary itself; less
/// than what is published.
const RESIDENT_MAX: u64 = 160 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_subscriber_slows_nobody_and_costs_bounded_memory() {
    let seconds = if soak() { 60 } else { 4 };
    let server = Server::with(&[
        "--inflight-bytes-max",
        "16777216",
        "--storage-cache-bytes",
        "16777216",
        "--storage-unflushed-bytes-max",
        "16777216",
        "--storage-journal-bytes",
        "8388608",
        "--storage-segment-bytes",
        "8388608",
    ])
    .await;
    let mut client = server.client().await;
    published(&mut client, TOPIC, vec![record("first")]).await;

    let alone = load(&server, seconds).await;
    // One that never reads its TCP connection, one that never reads its stream, one that shares
    // that connection and reads on.
    let never_reads = NeverReads::subscribe(server.listen(), &subscribe(TOPIC, earliest()));
    let shared = server.channel().await;
    let mut sharing = StreamClient::new(shared.clone());
    let stuck = sharing.subscribe(subscribe(TOPIC, Start::Offset(0))).await.unwrap();
    let beside = load(&server, seconds).await;
    println!("alone {alone:?}\nbeside stuck subscribers {beside:?}");
    assert!(beside.bytes > RESIDENT_MAX, "the load is more than what memory may hold: {beside:?}");
    assert!(beside.resident_max < RESIDENT_MAX, "memory is bounded: {beside:?}");
    assert!(beside.rate * 3 > alone.rate, "publishers go on at their speed: {beside:?} {alone:?}");

    // The stuck one reads at last, and has lost nothing.
    let tail = beside.tail;
    let (mut stream, mut at) = (stuck.into_inner(), 0);
    while at < tail {
        let message = within(30, "a message", stream.message()).await.unwrap().expect("goes on");
        for batch in message.batches {
            assert_eq!(batch.first_offset, at, "nothing lost, nothing repeated");
            at += batch.records.len() as u64;
        }
    }
    drop(never_reads);
}

#[derive(Debug)]
struct Load {
    /// Batches a second.
    rate: u64,
    bytes: u64,
    resident_max: u64,
    tail: u64,
}

/// Ten publishers at full speed, and a subscriber that keeps up and must see all of it.
async fn load(server: &Server, seconds: u64) -> Load {
    let (done, stop) = watch::channel(false);
    let sent = Arc::new(AtomicU64::new(0));
    let mut reader = Reader::open(&mut server.client().await, subscribe(TOPIC, latest())).await.unwrap();
    reader.until(streamway::proto::v1::Notice::CaughtUp).await;
    let begin = reader.next.as_ref().unwrap().offset;
    let mut publishers = Vec::new();
    for _ in 0..10 {
        let (client, sent, stop) = (server.client().await, Arc::clone(&sent), stop.clone());
        publishers.push(tokio::spawn(publisher(client, sent, stop)));
    }
    let (end, mut last) = watch::channel(u64::MAX);
    let follower = tokio::spawn(async move {
        while reader.next.as_ref().unwrap().offset < *last.borrow_and_update() {
            tokio::select! {
                records = reader.records() => { records.unwrap().expect("goes on"); }
                _ = last.changed() => {}
            }
        }
        reader.next.unwrap().offset
    });
    let begun = Instant::now();
    let (mut resident_max, deadline) = (0, begun + Duration::from_secs(seconds));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let enough = || sent.load(Ordering::Relaxed) * (RECORDS_PER_BATCH * RECORD_BYTES) as u64 > RESIDENT_MAX;
    // On a busy machine it takes longer to publish more than what memory may hold.
    while Instant::now() < deadline || !enough() && Instant::now() < deadline + Duration::from_secs(60) {
        tick.tick().await;
        resident_max = resident_max.max(server.resident_bytes());
    }
    let took = begun.elapsed();
    done.send_replace(true);
    for publisher in publishers {
        within(30, "the last receipts", publisher).await.unwrap();
    }
    let batches = sent.load(Ordering::Relaxed);
    let tail = begin + batches * RECORDS_PER_BATCH as u64;
    end.send_replace(tail);
    let seen = within(60, "the subscriber that keeps up", follower).await.unwrap();
    assert_eq!(seen, tail, "who reads sees everything that was acknowledged");
    let bytes = batches * (RECORDS_PER_BATCH * RECORD_BYTES) as u64;
    let rate = (batches as f64 / took.as_secs_f64()) as u64;
    Load { rate, bytes, resident_max, tail }
}

/// Publishes until told to stop; counts what was acknowledged, which then is everything sent.
async fn publisher(mut client: StreamClient, sent: Arc<AtomicU64>, stop: watch::Receiver<bool>) {
    let (requests, stream) = mpsc::channel(8);
    requests.send(open(TOPIC)).await.unwrap();
    let mut answers = client.exchange(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let sender = tokio::spawn(async move {
        let records = vec![record(vec![b'p'; RECORD_BYTES]); RECORDS_PER_BATCH];
        let mut number = 0;
        while !*stop.borrow() {
            number += 1;
            requests.send(numbered(number, publish("", records.clone()))).await.unwrap();
        }
        number
    });
    let mut acknowledged = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        acknowledged += answer.receipts.len() as u64;
        sent.fetch_add(answer.receipts.len() as u64, Ordering::Relaxed);
    }
    assert_eq!(sender.await.unwrap(), acknowledged, "everything sent was acknowledged");
}
