//! Peers that mean harm. The server stays up, an honest client beside them goes on, memory is bounded.
//! Each prints its figures.

use std::time::{Duration, Instant};

use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use streamway::proto::v1::ExchangeRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Honest, Peer, RST_STREAM, Usage,
    call_headers, prefix,
};
use crate::harness::make::{numbered, open, publish, published, record};
use crate::harness::{Server, detail, refused, within};

const PUBLISH: &str = "/streamway.v1.StreamService/Publish";
const EXCHANGE: &str = "/streamway.v1.StreamService/Exchange";
/// Memory that abuse may add to a server, in MiB: less than any unbounded growth would show.
const GROWTH_MAX: u64 = 64;

/// GOAWAY's code for a peer that does too much.
const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let server = Server::start().await;
    let (honest, before, mut attempts) = (Honest::start(&server).await, Usage::of(&server), 0);
    let mut peer = Peer::connect(server.listen()).await;
    for batch in 0..500_u32 {
        let mut frames = Frames::default();
        for i in 0..100 {
            let stream = 1 + 2 * (batch * 100 + i);
            frames = frames.call(stream, PUBLISH).add(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        }
        if !peer.send(frames).await {
            break;
        }
        attempts += 100;
    }
    let code = peer.goaway().await;
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
    honest.end("rapid reset", attempts, 1, &server, before).await;
}

#[tokio::test]
async fn a_flood_of_continuation_frames_ends_the_connection() {
    let server = Server::start().await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    let mut peer = Peer::connect(server.listen()).await;
    peer.send(Frames::default().add(HEADERS, END_STREAM, 1, &call_headers(PUBLISH))).await;
    let (block, mut attempts) = (crate::harness::raw::literal_headers(&[("x-pad", &"p".repeat(100))]), 0);
    for _ in 0..1000 {
        let frames = (0..100).fold(Frames::default(), |frames, _| frames.add(CONTINUATION, 0, 1, &block));
        if !peer.send(frames).await {
            break;
        }
        attempts += 100;
    }
    peer.goaway().await;
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
    honest.end("CONTINUATION flood", attempts, 1, &server, before).await;
}

#[tokio::test]
async fn a_header_bomb_is_refused() {
    let server = Server::start().await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    let mut peer = Peer::connect(server.listen()).await;
    // A header of 3 KB into HPACK's dynamic table, then 4,000 references to it, a byte each: 12 MB.
    let mut block = call_headers(PUBLISH);
    block.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    block.resize(block.len() + 127 + 0x39 + (0x16 << 7), b'b');
    block.resize(block.len() + 4000, 0x80 | 62);
    for call in 0..50 {
        let stream = 1 + 2 * call;
        if !peer.send(Frames::default().add(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await {
            break;
        }
    }
    // 431 in HTTP's words, not a status of the call (`:status 200`, 0x88), which would have been decoded.
    let refused = loop {
        match peer.next().await {
            Some((HEADERS, _, _, block)) => break Some(block),
            Some((GOAWAY, ..)) | None => break None,
            Some(_) => {}
        }
    };
    assert!(refused.as_ref().is_none_or(|block| block[0] != 0x88), "{refused:?}");
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
    honest.end("header bomb", 50, 1, &server, before).await;
}

#[tokio::test]
async fn a_flood_of_tiny_frames_costs_no_other_call_of_the_connection() {
    let server = Server::start().await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    tiny_frames(&server, EXCHANGE, &prefix(200_000)).await;
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
    honest.end("tiny frames", 100_000, 1, &server, before).await;
}

#[tokio::test]
async fn tiny_frames_that_a_slowed_call_leaves_unread_cost_no_other_where_the_window_allows_so_many() {
    // Half the window is what h2 lets frames below 256 bytes fall short of that.
    let flags = ["--quota-publish-records-per-s", "10", "--http2-connection-window-bytes", "64MiB"];
    let server = Server::with(&flags).await;
    let before = Usage::of(&server);
    // A hundred seconds' worth of records, so that the call is not read from for as long.
    let batch = numbered(1, publish("slowed", vec![record("x"); 1000]));
    tiny_frames(&server, EXCHANGE, &[framed(&open("slowed")), framed(&batch), prefix(200_000)].concat())
        .await;
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
}

fn framed(request: &ExchangeRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    [prefix(u32::try_from(message.len()).expect("short")), message].concat()
}

/// 100,000 frames of a byte, all at once, in one call, and another call of the connection that is answered.
async fn tiny_frames(server: &Server, method: &str, first: &[u8]) {
    let mut peer = Peer::connect(server.listen()).await;
    let frames = Frames::default().call(1, method).data(1, first);
    let frames = (0..100_000).fold(frames, |frames, _| frames.data(1, b"x"));
    // An empty publish, refused by its headers.
    assert!(peer.send(frames.call(3, PUBLISH).add(0, END_STREAM, 3, &prefix(0))).await);
    loop {
        let (kind, flags, stream, payload) = peer.next().await.expect("the connection goes on");
        assert_ne!(kind, GOAWAY, "{payload:?}");
        if stream == 3 && kind == HEADERS && flags & END_STREAM != 0 {
            return;
        }
    }
}

#[tokio::test]
async fn messages_sent_in_part_take_a_bounded_amount_of_memory() {
    let server = Server::with(&["--connection-inflight-bytes-max", "8MiB"]).await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    let mut peer = Peer::connect(server.listen()).await;
    let piece = vec![0; 16 << 10];
    // 60 messages of 4 MB that never end, 240 KiB of each, against a bound of 8 MiB; within the windows.
    let (reader, mut writer) = peer.tcp.split();
    let send = async {
        for call in 0..60_u32 {
            let stream = 1 + 2 * call;
            let mut frames = Frames::default().call(stream, EXCHANGE).data(stream, &prefix(4_000_000));
            for _ in 0..15 {
                frames = frames.data(stream, &piece);
            }
            if tokio::time::timeout(Duration::from_secs(10), writer.write_all(&frames.0)).await.is_err() {
                break;
            }
        }
    };
    let refused = async {
        let mut reader = reader;
        let (mut bytes, mut all, mut ended) = ([0; 16384], Vec::new(), false);
        while !has_ended_a_call(&all) {
            let read = tokio::time::timeout(Duration::from_secs(30), reader.read(&mut bytes)).await;
            let read = read.expect("the server says something within 30 s").unwrap_or(0);
            if read == 0 {
                ended = true;
                break;
            }
            all.extend_from_slice(&bytes[..read]);
        }
        (all, ended)
    };
    let ((), (said, ended)) = tokio::join!(send, refused);
    let grown = Usage::of(&server).grown_mib(before);
    assert!(grown < GROWTH_MAX, "grew by {grown} MiB");
    // That the refusal says why is the next test's; here the connection may also have been ended.
    assert!(has_ended_a_call(&said) || ended, "no call was refused: {} bytes", said.len());
    honest.end("messages in part", 60, 1, &server, before).await;
}

/// Returns true if these frames hold the last one of a call.
fn has_ended_a_call(mut bytes: &[u8]) -> bool {
    while let [a, b, c, kind, flags, ..] = *bytes {
        if kind == HEADERS && flags & END_STREAM != 0 {
            return true;
        }
        let len = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        bytes = bytes.get(len..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn a_message_beyond_the_budget_is_refused_as_overload() {
    let args = ["--connection-inflight-bytes-max", "1MiB", "--message-bytes-max", "1MiB"];
    let server = Server::with(&[&args[..], &["--batch-bytes-max", "900KiB"]].concat()).await;
    let tcp = TcpStream::connect(server.listen()).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut calls = Vec::new();
    for _ in 0..5 {
        let request = http::Request::post(format!("http://test{PUBLISH}"));
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let mut client = client.clone().ready().await.unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(prefix(1_000_000).into(), false).unwrap();
        body.send_data(vec![0; 240 << 10].into(), false).unwrap();
        calls.push(Box::pin(async move { (answer.await, body) }));
    }
    // Five times 240 KiB do not fit in 1 MiB: one is refused, in headers alone; the others wait.
    let ((answer, _body), _, waiting) =
        within(10, "the refusal", futures_util::future::select_all(calls)).await;
    let status = tonic::Status::from_header_map(answer.unwrap().headers()).unwrap();
    refused(&status, tonic::Code::ResourceExhausted, "OVERLOADED");
    assert!(detail(&status).retry_info().is_some(), "{status:?}");
    assert_eq!(waiting.len(), 4);
    // Another connection has a budget of its own.
    published(&mut server.client().await, "honest", vec![record(vec![1; 800_000])]).await;
    connection.abort();
}

#[tokio::test]
async fn who_is_slow_with_the_preface_is_closed() {
    let server = Server::with(&["--preface-timeout", "1s"]).await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    let mut peers = Vec::new();
    for _ in 0..200 {
        let mut tcp = TcpStream::connect(server.listen()).await.unwrap();
        tcp.write_all(b"PRI * HTTP/").await.unwrap();
        peers.push(tcp);
    }
    let begun = Instant::now();
    for tcp in &mut peers {
        let read = within(10, "the close", tcp.read(&mut [0; 16])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    println!("slow preface: closed after {:?}", begun.elapsed());
    honest.end("slow preface", 200, 0, &server, before).await;
}

#[tokio::test]
async fn garbage_is_closed_and_http1_is_told_what_this_port_speaks() {
    let server = Server::start().await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    for garbage in [&[0; 100][..], b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\nX", &[0xff; 5000]] {
        for _ in 0..50 {
            let mut tcp = TcpStream::connect(server.listen()).await.unwrap();
            tcp.write_all(garbage).await.unwrap();
            let mut said = Vec::new();
            let _ = within(10, "the close", tcp.read_to_end(&mut said)).await;
            assert_eq!(said, b"");
        }
    }
    for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"] {
        let mut tcp = TcpStream::connect(server.listen()).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        let read = async {
            while !said.ends_with("port\n") {
                let mut bytes = [0; 1024];
                let read = tcp.read(&mut bytes).await.unwrap();
                assert_ne!(read, 0, "{said:?}");
                said.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
        };
        within(5, "the answer", read).await;
        assert!(said.starts_with("HTTP/1.1 505 ") && said.contains("speaks gRPC"), "{said}");
    }
    honest.end("garbage", 202, 0, &server, before).await;
}

#[tokio::test]
async fn ten_thousand_connections_against_a_cap_of_a_thousand() {
    // None is to free its place while the others come.
    let server = Server::with(&["--connections-max", "1000", "--preface-timeout", "120s"]).await;
    let (honest, before) = (Honest::start(&server).await, Usage::of(&server));
    let (mut peers, mut closed) = (Vec::new(), 0);
    for _ in 0..10_000 {
        let mut tcp = TcpStream::connect(server.listen()).await.unwrap();
        if peers.len() < 990 {
            peers.push(tcp);
            continue;
        }
        let read = tokio::time::timeout(Duration::from_millis(200), tcp.read(&mut [0; 1])).await;
        match read {
            Ok(_) => closed += 1,
            Err(_) => peers.push(tcp),
        }
    }
    assert!(closed >= 9000 && peers.len() <= 1000, "{closed} closed, {} open", peers.len());
    let alive = peers.len();
    let mut health = HealthClient::new(connect(server.admin()).await);
    health.check(HealthCheckRequest::default()).await.expect("the admin port is another's");
    drop(peers);
    honest.end("connections over the cap", 10_000, alive, &server, before).await;
}

async fn connect(at: std::net::SocketAddr) -> tonic::transport::Channel {
    tonic::transport::Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap()
}

async fn probe(server: &Server) -> String {
    let mut tcp =
        within(5, "connecting to the admin port", TcpStream::connect(server.admin())).await.unwrap();
    tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    let _ = within(5, "the probe's answer", tcp.read_to_string(&mut said)).await;
    said.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn at_the_limit_on_open_files_nothing_spins_and_probes_are_answered() {
    let server = Server::start().await;
    let honest = Honest::start(&server).await;
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    let limit = Rlimit { current: Some(files + 40), maximum: Some(20_000) };
    let pid = Pid::from_raw(server.pid() as i32);
    prlimit(pid, Resource::Nofile, limit).unwrap();
    let mut peers = Vec::new();
    for _ in 0..200 {
        peers.push(TcpStream::connect(server.listen()).await.unwrap());
    }
    within(10, "the limit", async {
        while !server.log().contains("accepting a connection") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    honest.end_at_limit().await;
    let before = Usage::of(&server);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = Usage::of(&server).cpu_percent(before);
    for _ in 0..20 {
        assert_eq!(probe(&server).await, "HTTP/1.1 200 OK");
    }
    println!("file limit: attempts 200, CPU {idle:.1} % while full, 20 probes answered");
    assert!(idle < 5.0, "CPU {idle:.1} %");
    drop(peers);
    let begun = Instant::now();
    published(&mut server.client().await, "honest", vec![record("again")]).await;
    println!("file limit: served again after {:?}", begun.elapsed());
}
