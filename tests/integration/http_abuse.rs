//! Requests that no well-behaved client sends to the HTTP listener, and clients that leave or dawdle.

use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::certs::{Ca, handshake};
use crate::harness::identities::{Setup, rule, until};
use crate::harness::vitals::metrics;
use crate::harness::web::{ask, raw};
use crate::harness::{Server, within};

#[tokio::test]
async fn a_body_that_trickles_is_ended() {
    let server = Server::with(&["--http-body-timeout", "1s"]).await;
    for kind in ["application/json", "application/x-ndjson", "application/octet-stream"] {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let head = format!(
            "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 1000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reads, mut writes) = stream.split();
        let trickles = async {
            // Never silent for as long as the timeout.
            while writes.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut said = vec![0; 4096];
        let answered = async {
            tokio::select! {
                () = trickles => unreachable!("it has no end"),
                read = reads.read(&mut said) => read.unwrap(),
            }
        };
        let read = within(30, "an answer", answered).await;
        let said = String::from_utf8_lossy(&said[..read]);
        assert!(said.starts_with("HTTP/1.1 408") && said.contains("more slowly"), "{kind}: {said}");
    }
    assert_eq!(ask(server.http(), "GET /v1/topics/t", &[], "").await.code, 404, "nothing was stored");
}

#[tokio::test]
async fn a_follower_that_leaves_within_tls_is_noticed_at_once() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let pair = ca.issue(dir.path(), "server", 2040);
    let [cert, key] = [&pair.cert, &pair.key].map(|path| path.to_str().unwrap());
    let server = Server::with(&["--tls-cert", cert, "--tls-key", key]).await;
    let open = |count| format!("http_server_active_requests {count}\n");
    for version in ["1.2", "1.3"] {
        let mut stream = handshake(server.http(), &ca.file, Some(version), &["http/1.1"]).await.unwrap();
        let body = r#"{"records":[{"value":"x"}]}"#;
        let publish = format!(
            "POST /v1/topics/t/records HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(publish.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let read = within(30, "an answer", stream.read(&mut answer)).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        let read = "GET /v1/topics/t/records?follow&heartbeat=600 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        stream.write_all(read.as_bytes()).await.unwrap();
        within(30, "an answer", stream.read(&mut answer)).await.unwrap();
        until("it follows", async || metrics(&server).await.contains(&open(1))).await;
        // The alert close_notify comes before the end of TCP's stream, and nobody reads it.
        stream.shutdown().await.unwrap();
        until("it is gone", async || metrics(&server).await.contains(&open(0))).await;
    }
}

#[tokio::test]
async fn the_name_of_a_coding_has_any_case_and_stands_once() {
    let server = Server::start().await;
    for (codings, code) in [
        ("transfer-encoding: chunked", 200),
        ("transfer-encoding: Chunked", 200),
        ("transfer-encoding: chunked\r\ncontent-encoding: Identity", 200),
        ("transfer-encoding: chunked\r\ncontent-encoding: gzip", 415),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", 415),
    ] {
        let request = format!(
            "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/octet-stream\r\n{codings}\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
        let said = raw(&server, request.as_bytes(), false).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {code} ")), "{codings}: {said}");
    }
}

#[tokio::test]
async fn the_server_itself_tells_its_methods() {
    let server = Server::start().await;
    let request = "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let said = raw(&server, format!("{request}\r\n").as_bytes(), false).await;
    assert!(said.starts_with("HTTP/1.1 204") && said.contains("allow: GET, HEAD, POST"), "{said:?}");
    let said = raw(&server, format!("{request}origin: http://evil.example\r\n\r\n").as_bytes(), false).await;
    assert!(said.starts_with("HTTP/1.1 403"), "{said:?}");
    let get = "GET * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(raw(&server, get.as_bytes(), false).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_token_in_a_url_identifies_nobody() {
    let policy = rule(r#"["ann"]"#, r#"["*"]"#, r#"["subscribe"]"#);
    let server = Setup::new(&["ann"], &policy).start(&[]).await;
    for parameter in ["access_token", "token", "authorization", "bearer"] {
        let line = format!("GET /v1/topics?{parameter}=ann-secret");
        assert_eq!(ask(server.http(), &line, &[], "").await.problem().0, 401, "{line}");
    }
    // What a browser makes of http://ann:ann-secret@host/.
    let basic = [("authorization", "Basic YW5uOmFubi1zZWNyZXQ=")];
    assert_eq!(ask(server.http(), "GET /v1/topics", &basic, "").await.problem().0, 401);
    let cookie = [("cookie", "token=ann-secret")];
    assert_eq!(ask(server.http(), "GET /v1/topics", &cookie, "").await.problem().0, 401);
    let bearer = [("authorization", "Bearer ann-secret")];
    let answer = ask(server.http(), "GET /v1/topics", &bearer, "").await;
    assert_eq!((answer.code, answer.header("referrer-policy")), (200, "no-referrer"));
}

#[tokio::test]
async fn a_quota_says_when_it_is_available_again() {
    let server = Server::with(&["--quota-publish-records-per-s", "1"]).await;
    let line = "POST /v1/topics/t/records";
    let three = r#"{"records":[{"value":"a"},{"value":"b"},{"value":"c"}]}"#;
    let kind = [("content-type", "application/json")];
    assert_eq!(ask(server.http(), line, &kind, three).await.code, 200);
    let over = ask(server.http(), line, &kind, three).await;
    assert_eq!(over.problem(), (429, "QUOTA_EXCEEDED".to_owned()));
    assert!(over.header("retry-after").parse::<u32>().unwrap() >= 1, "{:?}", over.headers);
}
