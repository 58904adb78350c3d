//! A start after kill -9 does not read more if there is more stored data.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::make::{ingest, publish, record};
use crate::harness::{Server, soak};

const BATCH_BYTES: u64 = 1_000_000;
/// Small, so that the replay of the journals, which hold what is not in segments yet, does not hide any growth.
const ARGS: [&str; 4] = ["--storage-journal-bytes", "8388608", "--storage-unflushed-bytes-max", "33554432"];

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

/// Kills and restarts the server. Returns the bytes that it had read when it was ready: `rchar` in proc(5).
async fn read_by_start_after_kill(server: &mut Server) -> u64 {
    server.kill9().await;
    server.restart().await;
    let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("it runs");
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("bytes read");
    read.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_kill_9_reads_as_much_with_much_data_as_with_little() {
    /// Bytes of the journals, with room to spare.
    const ALLOWANCE: u64 = 96 << 20;
    let (little, much) = (20, if soak() { 2000 } else { 300 });
    let mut server = Server::with(&ARGS).await;
    add(&server, little).await;
    let with_little = read_by_start_after_kill(&mut server).await;
    add(&server, much).await;
    let with_much = read_by_start_after_kill(&mut server).await;
    println!("read with {little} MB: {with_little}, with {} MB: {with_much}", little + much);
    assert!(with_much < with_little + ALLOWANCE, "{with_little}, {with_much}");
    let tail = little + much;
    let seen = crate::harness::read_all(&mut server.client().await, "kept").await.len() as u64;
    assert_eq!(seen, tail * BATCH_BYTES / 10_000);
}
