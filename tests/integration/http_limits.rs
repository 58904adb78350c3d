//! The limits, identities and drain of the HTTP listener, which are those of the gRPC port.

use std::time::{Duration, Instant};

use prost::Message;
use streamway::proto::v1::GetTopicRequest;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::certs::{Ca, handshake};
use crate::harness::identities::{Setup, rule, until};
use crate::harness::make::{latest, publish, records, subscribe};
use crate::harness::vitals::metrics;
use crate::harness::web::{ask, raw, rest};
use crate::harness::{Server, within};

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

/// A call of gRPC-Web by hand, on a connection that stays open. `len` is that of the body, which may never come whole.
async fn begin(server: &Server, method: &str, body: &[u8], len: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let head = format!(
        "POST /streamway.v1.{method} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\n\
         content-length: {len}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    stream
}

#[tokio::test]
async fn headers_that_never_end_and_connections_without_a_request_are_closed() {
    let server = Server::with(&["--preface-timeout", "200ms", "--http-idle-timeout", "1s"]).await;
    let mut slow = TcpStream::connect(server.http()).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
    assert_eq!(rest(&mut slow).await, "");
    let mut silent = TcpStream::connect(server.http()).await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    let mut idle = TcpStream::connect(server.http()).await.unwrap();
    idle.write_all(b"GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 404"));
    assert!(begun.elapsed() >= Duration::from_secs(1), "kept alive for the next request");
}

#[tokio::test]
async fn a_request_outlasts_the_idle_timeout_and_its_body_must_not_stop() {
    let server = Server::with(&["--http-idle-timeout", "1s", "--http-body-timeout", "2s"]).await;
    let message = framed(&publish("t", records("x", 1)));
    let begun = Instant::now();
    let mut stream = begin(&server, "StreamService/Publish", &message[..7], message.len()).await;
    let mut answer = [0; 12];
    within(30, "an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_drain_ends_open_subscriptions_with_their_trailers_within_its_budget() {
    let mut server = Server::start().await;
    server.client().await.publish(publish("t", records("x", 1))).await.unwrap();
    let request = framed(&subscribe("t", latest()));
    let mut stream = begin(&server, "StreamService/Subscribe", &request, request.len()).await;
    let mut head = [0; 15];
    within(30, "an answer", stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // Another that never reads.
    let stuck = begin(&server, "StreamService/Subscribe", &request, request.len()).await;
    server.sigterm().await;
    let said = rest(&mut stream).await;
    assert!(said.contains("grpc-status:14") && said.ends_with("0\r\n\r\n"), "{said:?}");
    drop(stuck);
}

#[tokio::test]
async fn both_ports_share_one_limit_on_connections() {
    let server = Server::with(&["--connections-max", "1"]).await;
    let mut first = TcpStream::connect(server.http()).await.unwrap();
    first.write_all(b"GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    within(30, "an answer", first.read_exact(&mut answer)).await.unwrap();
    for at in [server.http(), server.listen()] {
        let mut over = TcpStream::connect(at).await.unwrap();
        assert_eq!(rest(&mut over).await, "", "closed at once");
    }
    assert!(metrics(&server).await.contains(r#"streamway_connections_active{port="http"} 1"#));
}

#[tokio::test]
async fn identities_and_permissions_are_those_of_the_grpc_port() {
    let policy = rule(r#"["ann"]"#, r#"["mine"]"#, r#"["publish", "subscribe"]"#);
    let server = Setup::new(&["ann"], &policy).start(&[]).await;
    let at = server.http();
    let nobody = ask(at, "GET /v1/nothing", &[], "").await;
    assert_eq!(nobody.problem(), (401, "UNAUTHENTICATED".into()));
    assert!(nobody.header("www-authenticate").starts_with("Bearer"));
    let wrong = ask(at, "GET /v1/nothing", &[("authorization", "Bearer wrong")], "").await;
    assert_eq!(wrong.problem().0, 401);
    let ann = ("authorization", "Bearer ann-secret");
    assert_eq!(ask(at, "GET /v1/nothing", &[ann], "").await.problem().0, 404);
    // A page that had a browser come here under its own name has no token.
    let rebound = ("host", "rebound.example");
    assert_eq!(ask(at, "GET /v1/nothing", &[rebound], "").await.problem().0, 421);
    assert_eq!(ask(at, "GET /v1/nothing", &[rebound, ann], "").await.problem().0, 404);

    let kind = ("content-type", "application/grpc-web+proto");
    for (headers, topic, status) in
        [(&[kind][..], "mine", "16"), (&[kind, ann], "other", "7"), (&[kind, ann], "mine", "5")]
    {
        let request = framed(&GetTopicRequest { name: topic.into() });
        let answer = ask(at, "POST /streamway.v1.TopicService/GetTopic", headers, request).await;
        assert_eq!(answer.header("grpc-status"), status, "{topic}");
    }
}

#[tokio::test]
async fn tls_offers_both_protocols_and_asks_for_a_certificate_without_requiring_one() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let pair = ca.issue(dir.path(), "server", 2040);
    let policy = dir.path().join("policy.toml");
    std::fs::write(&policy, rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#)).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let args = [
        ("--tls-cert", text(&pair.cert)),
        ("--tls-key", text(&pair.key)),
        ("--tls-client-ca", text(&ca.file)),
        ("--auth-policy", text(&policy)),
    ];
    let args: Vec<&str> = args.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
    let server = Server::with(&args).await;
    for (offered, chosen) in [(&["h2", "http/1.1"][..], &b"h2"[..]), (&["http/1.1"], b"http/1.1")] {
        let stream = handshake(server.http(), &ca.file, None, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen));
    }
    let mut stream = handshake(server.http(), &ca.file, None, &["http/1.1"]).await.unwrap();
    let request = b"GET /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut said = String::new();
    within(30, "an answer", stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    // The gRPC port still requires one.
    let mut strict = handshake(server.listen(), &ca.file, None, &["h2"]).await.unwrap();
    assert!(within(30, "an end", strict.read_u8()).await.is_err());
}

#[tokio::test]
async fn requests_are_counted_by_their_templates() {
    let server = Server::with(&["--telemetry-access-log-every", "1"]).await;
    for path in ["/v1/topics/a/none/of/these", "/v1/topics/b/none/of/these"] {
        assert_eq!(ask(server.http(), &format!("GET {path}"), &[], "").await.code, 404);
    }
    let counted = r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="_other",http_response_status_code="404"} 2"#;
    until("the requests are counted", async || metrics(&server).await.contains(counted)).await;
    assert!(server.log().contains("request ended"), "{}", server.log());
}

#[tokio::test]
async fn every_first_line_has_an_answer() {
    let server = Server::start().await;
    let end = "/v1/topics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for (begin, code) in [
        ("GET ", 200),
        ("\r\nGET ", 200),
        ("BREW ", 405),
        ("TRACE ", 405),
        ("get ", 405),
        ("PRO ", 405),
        ("G\0T ", 400),
        (" GET ", 400),
        ("\u{16}\u{3}\u{1}\0\u{1}", 400),
    ] {
        let said = raw(&server, format!("{begin}{end}").as_bytes(), false).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {code} ")), "{begin:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_peer_that_closes_its_side_gets_the_answer_to_what_it_asked() {
    let server = Server::start().await;
    let body = r#"{"records":[{"value":"x"}]}"#;
    let head = "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let said = raw(&server, whole.as_bytes(), true).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("first_offset"), "{said:?}");
    let read = "GET /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let said = raw(&server, read.as_bytes(), true).await;
    assert!(said.contains(r#""value":"x""#) && said.ends_with("0\r\n\r\n"), "{said:?}");
    let coded = format!("{head}transfer-encoding: gzip, chunked\r\n\r\n1b\r\n{body}\r\n0\r\n\r\n");
    assert!(raw(&server, coded.as_bytes(), true).await.starts_with("HTTP/1.1 415"));
    // Half a body is none.
    let half = format!("{head}content-length: 1000\r\n\r\n{body}");
    let said = raw(&server, half.as_bytes(), true).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said:?}");
    assert_eq!(ask(server.http(), "GET /v1/topics/t", &[], "").await.json()["tail"], "1");
}

#[tokio::test]
async fn a_follower_that_leaves_is_noticed_at_once() {
    let server = Server::start().await;
    server.client().await.publish(publish("t", records("x", 1))).await.unwrap();
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let read = "GET /v1/topics/t/records?follow&heartbeat=600 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(read.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within(30, "an answer", stream.read_exact(&mut answer)).await.unwrap();
    let open = |count| format!("http_server_active_requests {count}\n");
    until("it follows", async || metrics(&server).await.contains(&open(1))).await;
    drop(stream);
    until("it is gone", async || metrics(&server).await.contains(&open(0))).await;
}

#[tokio::test]
async fn requests_that_stop_do_not_hold_the_drain() {
    let mut server = Server::start().await;
    server.client().await.publish(publish("t", records("x", 1))).await.unwrap();
    let mut stopped = Vec::new();
    for kind in ["application/json", "application/x-ndjson", "application/octet-stream"] {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let half = format!(
            "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 1000\r\n\r\n{{"
        );
        stream.write_all(half.as_bytes()).await.unwrap();
        stopped.push(stream);
    }
    let mut heads = TcpStream::connect(server.http()).await.unwrap();
    heads.write_all(b"GET /v1/topics HTTP/1.1\r\nhost: loc").await.unwrap();
    let open = "http_server_active_requests 3\n";
    until("the server waits for the bodies", async || metrics(&server).await.contains(open)).await;
    let (status, took) = server.stop("TERM", 20).await;
    assert!(status.success() && took < Duration::from_secs(4), "{status:?} after {took:?}");
    for mut stream in stopped {
        let said = rest(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 503") && said.contains("SERVER_DRAINING"), "{said:?}");
        assert!(said.contains("retry-after"), "{said:?}");
    }
    assert_eq!(rest(&mut heads).await, "");
}

#[tokio::test]
async fn an_event_source_that_is_one_too_many_is_told_to_come_back() {
    // The port's own tasks are more than that.
    let server = Server::with(&["--streams-max", "1"]).await;
    let line = "GET /v1/topics/t/records";
    let events = ask(server.http(), line, &[("accept", "text/event-stream")], "").await;
    assert_eq!((events.code, events.header("content-type")), (200, "text/event-stream"), "{}", events.text());
    assert!(events.text().starts_with("retry: "), "{}", events.text());
    assert!(events.text().contains("event: problem") && events.text().contains("--streams-max"));
    let lines = ask(server.http(), line, &[], "").await;
    assert!(lines.code != 200 && lines.headers.contains_key("retry-after"), "{}", lines.code);
}

#[tokio::test]
async fn a_call_with_a_content_type_of_forms_is_refused_as_such() {
    let server = Server::start().await;
    for path in ["/streamway.v1.StreamService/Publish", "/grpc.health.v1.Health/Check"] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json", ""] {
            let answer = ask(server.http(), &format!("POST {path}"), &[("content-type", kind)], "x").await;
            assert_eq!(answer.problem(), (415, "UNSUPPORTED_MEDIA_TYPE".to_owned()), "{path} {kind}");
        }
        let answer = ask(server.http(), &format!("GET {path}"), &[], "").await;
        assert_eq!((answer.problem().0, answer.header("allow")), (405, "POST"), "{path}");
    }
}
