//! Memory of a server whose HTTP listener is left with answers that nobody reads and bodies that nobody finishes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::cgroup::Cgroup;
use crate::harness::identities::until;
use crate::harness::make::{published, record, records};
use crate::harness::vitals::metrics;
use crate::harness::web::ask;
use crate::harness::{Server, within};

const MIB: u64 = 1 << 20;
/// Limit of the server's memory: a quarter of what it held when each follower held one record as JSON.
const LIMIT: u64 = 448 * MIB;
/// Limits that together leave the server 200 MiB for everything else.
const ARGS: [&str; 4] = ["--delivery-bytes-max", "64MiB", "--inflight-bytes-max", "64MiB"];

async fn in_a_pod(group: &Cgroup, data: &std::path::Path) -> Server {
    Server::under(group.under(), data, &ARGS).await
}

/// Opens a connection with a small window, so that what is not read stays with the server.
async fn connect(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    within(30, "a connection", socket.connect(server.http())).await.unwrap()
}

/// Follows a topic from its beginning, and reads nothing but the first bytes of the answer.
async fn follow(server: &Server, topic: &str, accept: &str) -> TcpStream {
    let mut stream = connect(server).await;
    let head = format!(
        "GET /v1/topics/{topic}/records?from=earliest&follow HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within(60, "an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_never_read_hold_what_the_limit_allows() {
    let (group, data) = (Cgroup::new(LIMIT), tempfile::tempdir().unwrap());
    let server = in_a_pod(&group, data.path()).await;
    let mut client = server.client().await;
    for _ in 0..4 {
        // As JSON each byte is six.
        published(&mut client, "long", vec![record(vec![1; 1_000_000])]).await;
        // As JSON each record is a hundred times as long.
        published(&mut client, "short", vec![record(""); 1000]).await;
    }
    let mut held = Vec::new();
    for n in 0..600 {
        let topic = if n % 2 == 0 { "long" } else { "short" };
        let accept = if n % 3 == 0 { "text/event-stream" } else { "*/*" };
        held.push(follow(&server, topic, accept).await);
    }
    println!("{} MiB resident, {} MiB at most", server.resident_bytes() / MIB, group.peak() / MIB);
    // Who reads gets all, in spite of them.
    for (topic, count) in [("long", 4), ("short", 4000)] {
        let all = ask(server.http(), &format!("GET /v1/topics/{topic}/records"), &[], "").await;
        let lines: Vec<serde_json::Value> =
            all.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), count + 1, "{topic}");
        assert!(lines[count].get("end").is_some(), "{}", lines[count]);
        let value = lines[count - 1]["value"].as_str().unwrap();
        assert!(
            value.len() == if topic == "long" { 1_000_000 } else { 0 } && value.chars().all(|c| c == '\u{1}')
        );
    }
    let used = metrics(&server).await;
    assert_eq!(server.ready_and_alive().await, (true, true), "{used}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_not_finished_hold_what_the_limit_allows() {
    let (group, data) = (Cgroup::new(LIMIT), tempfile::tempdir().unwrap());
    let server = in_a_pod(&group, data.path()).await;
    published(&mut server.client().await, "t", records("x", 1)).await;
    let body = vec![b' '; 4_000_000];
    let mut held = Vec::new();
    for n in 0..300 {
        let kind = ["application/json", "application/x-ndjson", "application/octet-stream"][n % 3];
        let mut stream = connect(&server).await;
        let head = format!(
            "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len() + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A refused body is not read to its end.
        let _ = within(30, "the body", stream.write_all(&body)).await;
        held.push(stream);
    }
    println!("{} MiB resident, {} MiB at most", server.resident_bytes() / MIB, group.peak() / MIB);
    assert_eq!(server.ready_and_alive().await, (true, true));
    drop(held);
    // What they held is given back.
    let line = "POST /v1/topics/t/records";
    until("a body of this size is taken", async || {
        let large = format!("{{\"records\":[{{\"value\":\"{}\"}}]}}", "x".repeat(1_000_000));
        ask(server.http(), line, &[("content-type", "application/json")], large).await.code == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_bodies_of_lines_count_only_what_is_held_of_them() {
    let args = ["--inflight-bytes-max", "8MiB", "--connection-inflight-bytes-max", "8MiB"];
    let server = Server::with(&args).await;
    let line = format!("{{\"value\":\"{}\"}}\n", "x".repeat(1000));
    let (lines, bodies) = (6000, 6);
    let body = line.repeat(lines);
    let head = format!(
        "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
         content-length: {}\r\n\r\n",
        body.len() + 1
    );
    // Together they are four times as long as what may be held.
    let mut open = Vec::new();
    for _ in 0..bodies {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        within(60, "the body", stream.write_all(body.as_bytes())).await.unwrap();
        open.push(stream);
    }
    for mut stream in open {
        stream.write_all(b"\n").await.unwrap();
        let mut said = [0; 12];
        within(60, "an answer", stream.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200");
    }
    let tail = ask(server.http(), "GET /v1/topics/t", &[], "").await.json()["tail"].clone();
    assert_eq!(tail, (lines * bodies).to_string());
}
