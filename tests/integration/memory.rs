//! Memory of a server in a cgroup with the limit of the shipped manifests: whatever clients send or leave unread, the server
//! is not killed, and it still serves an honest client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use streamway::proto::v1::{SubscribeRequest, exchange_request::Kind, subscribe_request::Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::certs::{Ca, handshake};
use crate::harness::cgroup::Cgroup;
use crate::harness::frames::{Honest, Peer};
use crate::harness::make::{earliest, numbered, open, publish, published, record, subscribe};
use crate::harness::raw::NeverReads;
use crate::harness::{Nats, Server, refused, within};

const EXCHANGE: &str = "/streamway.v1.StreamService/Exchange";
const PUBLISH: &str = "/streamway.v1.StreamService/Publish";
const TUTORIAL: &str = "/example.MyService/BidirectionalStreamingRPCMethod";
const SUBSCRIBE: &str = "/streamway.v1.StreamService/Subscribe";
const MIB: u64 = 1 << 20;
/// Slightly less than the limit of a message.
const LARGE: usize = (4 << 20) - 4096;

/// Settings and memory limit of the shipped manifests.
fn shipped() -> (Vec<String>, u64) {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/base/");
    let read = |name: &str| std::fs::read_to_string(format!("{base}{name}")).unwrap();
    let settings =
        read("config.env").lines().filter(|line| line.starts_with("STREAMWAY_")).map(str::to_owned).collect();
    let manifest = read("statefulset.yaml");
    let (_, limit) = manifest.split_once("limits: { memory: ").expect("a memory limit");
    let gib: u64 = limit.split_once("Gi").and_then(|(number, _)| number.parse().ok()).expect("in GiB");
    (settings, gib << 30)
}

/// Starts a server with the settings and the memory limit of the manifests.
async fn in_a_pod(group: &Cgroup, data: &std::path::Path, settings: &[String], args: &[&str]) -> Server {
    let mut under = vec!["env".to_owned()];
    under.extend(settings.iter().cloned());
    under.extend(group.under());
    Server::under(under, data, args).await
}

/// Opens a connection with this window for answers.
async fn connection(server: &Server, window: u32) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let tcp = TcpStream::connect(server.listen()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    // The window of the connection is large, because this side counts small unread frames against it as well.
    builder
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30)
        .initial_max_send_streams(10_000);
    let (requests, connection) = builder.handshake(tcp).await.unwrap();
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (requests.ready().await.unwrap(), task)
}

/// An open call whose answer is not read.
struct Held {
    answer: Option<h2::client::ResponseFuture>,
    read: Option<h2::RecvStream>,
    _sending: h2::SendStream<Bytes>,
}

impl Held {
    /// Waits until the server has started to answer.
    async fn answered(mut self) -> Self {
        if let Some(answer) = self.answer.take() {
            let answer = within(60, "the answer's beginning", answer).await.expect("answered");
            self.read = Some(answer.into_body());
        }
        self
    }

    /// Waits for bytes of the answer.
    async fn said(mut self) -> Self {
        let read = self.read.as_mut().expect("answered");
        let data = within(60, "something of the answer", read.data()).await.expect("it goes on");
        assert!(!data.expect("not reset").is_empty());
        self
    }
}

fn call(
    requests: &mut SendRequest<Bytes>,
    method: &str,
    headers: &BTreeMap<&str, String>,
    body: Bytes,
) -> Held {
    let mut request = Request::post(format!("http://test{method}")).header("te", "trailers");
    request = request.header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let (answer, mut sending) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    if !body.is_empty() {
        // A unary call starts when its request has ended.
        sending.send_data(body, method == PUBLISH || method == SUBSCRIBE).unwrap();
    }
    Held { answer: Some(answer), read: None, _sending: sending }
}

fn framed(message: &[u8], compressed: bool) -> Vec<u8> {
    let mut out = vec![u8::from(compressed)];
    out.put_u32(u32::try_from(message.len()).unwrap());
    out.extend_from_slice(message);
    out
}

/// The compressed message as it is sent.
fn zipped(message: &[u8]) -> Vec<u8> {
    framed(&zstd::encode_all(message, 1).unwrap(), true)
}

fn field(tag: u32, bytes: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(tag, &bytes, &mut out);
    out
}

/// A publish of a record of two bytes and an unknown field of 4 MiB: 170 bytes when compressed.
fn swollen(number: u64) -> Vec<u8> {
    let mut inner = publish("t", vec![record("xx")]).encode_to_vec();
    inner.extend(field(99, vec![0; LARGE - 200]));
    let mut numbered = vec![0x08];
    prost::encoding::encode_varint(number, &mut numbered);
    numbered.extend(field(2, inner));
    zipped(&field(2, numbered))
}

/// The first message of an Exchange with such an unknown field.
fn swollen_open() -> Vec<u8> {
    let mut exchange = open("t");
    if let Some(Kind::Open(open)) = &mut exchange.kind {
        open.subscribe = Some(SubscribeRequest::default());
    }
    let mut open = exchange.encode_to_vec();
    open.extend(field(99, vec![0; LARGE]));
    zipped(&open)
}

fn zstd_headers() -> BTreeMap<&'static str, String> {
    BTreeMap::from([("grpc-encoding", "zstd".to_owned())])
}

/// Exchanges whose publishes would retain 4 MiB each if whole messages were retained, and idle ones whose Open would.
async fn publishers(server: &Server) -> Vec<Held> {
    let (mut requests, _task) = connection(server, 1 << 20).await;
    let mut held = Vec::new();
    let publishes: Vec<u8> = (1..=100).flat_map(swollen).collect();
    for _ in 0..3 {
        let body = [framed(&open("t").encode_to_vec(), false), publishes.clone()].concat();
        held.push(call(&mut requests, EXCHANGE, &zstd_headers(), body.into()).answered().await.said().await);
    }
    let idle = Bytes::from(swollen_open());
    let idle: Vec<_> =
        (0..400).map(|_| call(&mut requests, EXCHANGE, &zstd_headers(), idle.clone())).collect();
    for idle in idle {
        held.push(idle.answered().await.said().await);
    }
    // Calls of the tutorial's services are not limited in number either.
    let echo: Bytes = zipped(&field(1, vec![b'x'; LARGE])).into();
    held.extend((0..400).map(|_| call(&mut requests, TUTORIAL, &zstd_headers(), echo.clone())));
    held
}

/// Subscribers with a window of one byte to records of 1 MB, from different offsets.
async fn subscribers(server: &Server) -> Vec<Held> {
    let mut client = server.client().await;
    for n in 0..8_u8 {
        published(&mut client, "large", vec![record(vec![n; 1_000_000])]).await;
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut requests, _task) = connection(server, 1).await;
        let begin = |n: u64| {
            let request = subscribe("large", Start::Offset(n % 8));
            let body = framed(&request.encode_to_vec(), false);
            call(&mut requests, SUBSCRIBE, &BTreeMap::new(), body.into())
        };
        let begun: Vec<_> = (0..700).map(begin).collect();
        for begun in begun {
            held.push(begun.answered().await.said().await);
        }
    }
    held
}

/// Calls that send only long headers, and messages that never end.
async fn unfinished(server: &Server) -> Vec<Held> {
    let (mut requests, _task) = connection(server, 1 << 20).await;
    let long = BTreeMap::from([("x-long", "x".repeat(30_000))]);
    let mut held: Vec<_> = (0..500).map(|_| call(&mut requests, PUBLISH, &long, Bytes::new())).collect();
    let part: Bytes = [&[0, 0, 0x3f, 0xf0, 0][..], &[0; 60_000]].concat().into();
    held.extend((0..500).map(|_| call(&mut requests, EXCHANGE, &BTreeMap::new(), part.clone())));
    // The last request on the connection: its answer shows that the server has read the others.
    let last = framed(&publish("t", vec![record("last")]).encode_to_vec(), false);
    held.push(call(&mut requests, PUBLISH, &BTreeMap::new(), last.into()).answered().await);
    held
}

/// Exchanges that publish without reading their receipts.
async fn unread_receipts(server: &Server) -> Vec<Held> {
    let (mut requests, _task) = connection(server, 1).await;
    let publishes = (1..=500).flat_map(|number| {
        framed(&numbered(number, publish("receipts", vec![record("x")])).encode_to_vec(), false)
    });
    let body: Bytes = framed(&open("receipts").encode_to_vec(), false).into_iter().chain(publishes).collect();
    let begin = |_| call(&mut requests, EXCHANGE, &BTreeMap::new(), body.clone());
    let begun: Vec<_> = (0..200).map(begin).collect();
    let mut held = Vec::new();
    for begun in begun {
        held.push(begun.answered().await.said().await);
    }
    held
}

/// Plays all of these clients against a server with the settings of the manifests and these arguments.
async fn survives(args: &[&str]) {
    let (settings, limit) = shipped();
    let (group, data) = (Cgroup::new(limit), tempfile::tempdir().unwrap());
    let server = in_a_pod(&group, data.path(), &settings, args).await;
    plays(&group, &server).await;
}

async fn plays(group: &Cgroup, server: &Server) {
    let honest = Honest::start(server).await;
    let mut held = Vec::new();
    for round in 0..4 {
        held.extend(match round {
            0 => publishers(server).await,
            1 => subscribers(server).await,
            2 => unread_receipts(server).await,
            _ => unfinished(server).await,
        });
        println!(
            "round {round}: {} MiB resident, {} MiB at most",
            server.resident_bytes() / MIB,
            group.peak() / MIB
        );
    }
    let everything = subscribe("large", earliest());
    let _unread: Vec<_> = (0..32).map(|_| NeverReads::subscribe(server.listen(), &everything)).collect();
    assert_eq!(server.ready_and_alive().await, (true, true));
    // The peak is within the sum of the limits.
    assert!(server.resident_bytes() < 2048 * MIB, "{} MiB", server.resident_bytes() / MIB);
    honest.end_at_limit().await;
    // A subscriber that reads receives everything.
    let mut reader = server.client().await.subscribe(to_tail("large")).await.unwrap().into_inner();
    let mut read = 0;
    while let Some(message) = within(30, "a delivery", reader.message()).await.unwrap() {
        read += message.batches.len();
    }
    assert_eq!(read, 8);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mix_of_clients_has_a_server_of_the_manifests_killed() {
    survives(&[]).await;
}

/// Accepts plaintext connections, and forwards each over a TLS connection of its own. A client that does not read keeps
/// the TLS connection unread.
async fn over_tls(server: SocketAddr, ca: &Path) -> SocketAddr {
    let (listener, ca) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), ca.to_owned());
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let ca = ca.clone();
            tokio::spawn(async move {
                let mut tls = handshake(server, &ca, None, &["h2"]).await?;
                tokio::io::copy_bidirectional(&mut client, &mut tls).await
            });
        }
    });
    at
}

/// Keeps TLS handshakes open of which the server has the first half of the ClientHello, until the set is dropped.
fn unfinished_handshakes(server: SocketAddr) -> JoinSet<()> {
    // A record of 16,384 bytes with a ClientHello.
    let part = Bytes::from([&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[0; 8_000]].concat());
    let begin = |part: Bytes| async move {
        loop {
            let mut tcp = TcpStream::connect(server).await.unwrap();
            let _ = tcp.write_all(&part).await;
            // The server closes the connection once the handshake has taken too long.
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        }
    };
    (0..300).map(|_| begin(part.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mix_of_clients_over_tls_has_a_server_of_the_manifests_killed() {
    let ((settings, limit), dir) = (shipped(), tempfile::tempdir().unwrap());
    let (group, ca) = (Cgroup::new(limit), Ca::new(dir.path(), "ca"));
    let pair = ca.issue(dir.path(), "localhost", 2099);
    let args = ["--tls-cert", pair.cert.to_str().unwrap(), "--tls-key", pair.key.to_str().unwrap()];
    let server = in_a_pod(&group, &dir.path().join("data"), &settings, &args).await;
    let direct = server.listen();
    let server = server.behind(over_tls(direct, &ca.file).await);
    let _handshakes = unfinished_handshakes(direct);
    plays(&group, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mix_of_clients_has_a_replica_of_the_manifests_killed() {
    let nats = Nats::single("");
    survives(&["--engine", "jetstream", "--nats-url", &nats.url(), "--nats-replicas", "1"]).await;
}

fn to_tail(topic: &str) -> SubscribeRequest {
    crate::harness::make::to_tail(subscribe(topic, earliest()))
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_off_and_the_stop_is_not_kept_waiting() {
    let args =
        ["--http2-keepalive-interval", "1s", "--http2-keepalive-timeout", "1s", "--stream-age-max", "1s"];
    let mut server = Server::with(&args).await;
    let mut client = server.client().await;
    for n in 0..16_u8 {
        published(&mut client, "t", vec![record(vec![n; 1_000_000])]).await;
    }
    drop(client);
    let _stuck = NeverReads::subscribe(server.listen(), &subscribe("t", earliest()));
    let connections = "streamway_connections_active{port=\"grpc\"}";
    within(60, "the peer's connection to be there", gauge(&server, connections, 1)).await;
    within(60, "the peer's connection to be gone", gauge(&server, connections, 0)).await;
    server.sigterm().await;
    assert!(!server.log().contains("cutting connections off"), "{}", server.log());
}

/// Waits until a metric has this value.
async fn gauge(server: &Server, metric: &str, value: u64) {
    while !metrics(server).await.lines().any(|line| line == format!("{metric} {value}")) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metrics(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.admin()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn connections_that_stay_on_the_admin_port_do_not_fail_liveness() {
    let server = Server::with(&["--admin-connections-max", "8"]).await;
    let mut stay = Vec::new();
    for _ in 0..8 {
        stay.push(Peer::connect(server.admin()).await);
    }
    for _ in 0..10 {
        assert_eq!(server.ready_and_alive().await, (true, true));
    }
    // Unread metrics do not prevent it either.
    for peer in &mut stay {
        let frames = crate::harness::frames::Frames::default();
        if !peer.send(frames.call(1, "/metrics")).await {
            continue;
        }
    }
    assert_eq!(server.ready_and_alive().await, (true, true));
}

#[tokio::test]
async fn a_call_too_many_is_refused_with_the_limit_and_others_go_on() {
    let server = Server::with(&["--streams-max", "3"]).await;
    let mut client = server.client().await;
    published(&mut client, "t", vec![record("x")]).await;
    let mut open = Vec::new();
    let status = loop {
        match client.subscribe(subscribe("t", earliest())).await {
            Ok(answer) => open.push(answer.into_inner()),
            Err(status) => break status,
        }
        assert!(open.len() < 10);
    };
    refused(&status, tonic::Code::ResourceExhausted, "OVERLOADED");
    assert!(status.message().contains("--streams-max") && open.len() >= 2, "{} {status}", open.len());
    for answer in &mut open {
        assert_eq!(answer.message().await.unwrap().unwrap().batches.len(), 1);
    }
    open.pop();
    within(20, "room for another", async {
        while client.publish(publish("t", vec![record("y")])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
