//! The duration of a start after kill -9 does not grow with the amount of stored data.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::make::{ingest, publish, record};
use crate::harness::{Server, soak};

const BATCH_BYTES: u64 = 1_000_000;
/// Small, so that the replay of the journal does not hide any growth.
const ARGS: [&str; 2] = ["--storage-journal-bytes", "8388608"];

async fn add(server: &Server, megabytes: u64) {
    let (requests, stream) = mpsc::channel(8);
    let records = vec![record(vec![b'r'; 10_000]); (BATCH_BYTES / 10_000) as usize];
    let sender = tokio::spawn(async move {
        for _ in 0..megabytes {
            requests.send(ingest(publish("kept", records.clone()))).await.unwrap();
        }
    });
    let mut client = server.client().await;
    let sum = client.ingest(ReceiverStream::new(stream)).await.unwrap().into_inner();
    assert_eq!(sum.batches, megabytes);
    sender.await.unwrap();
}

/// The fastest of three starts, because the machine is shared.
async fn start_after_kill(server: &mut Server) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        server.kill9().await;
        let begun = Instant::now();
        server.restart().await;
        best = best.min(begun.elapsed());
    }
    best
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_kill_9_takes_as_long_with_much_data_as_with_little() {
    // Reading everything would take several times the allowed time, also in a debug build.
    let (little, much, allowance) =
        if soak() { (20, 2000, Duration::from_secs(2)) } else { (20, 300, Duration::from_millis(300)) };
    let mut server = Server::with(&ARGS).await;
    add(&server, little).await;
    let with_little = start_after_kill(&mut server).await;
    add(&server, much).await;
    let with_much = start_after_kill(&mut server).await;
    println!("{little} MB kept: {with_little:?}, {} MB kept: {with_much:?}", little + much);
    assert!(with_much < with_little * 2 + allowance, "{with_little:?}, {with_much:?}");
    let tail = little + much;
    let seen = crate::harness::read_all(&mut server.client().await, "kept").await.len() as u64;
    assert_eq!(seen, tail * BATCH_BYTES / 10_000);
}
