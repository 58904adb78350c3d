//! Requests that no well-behaved client sends to the HTTP listener, and clients that leave or dawdle.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
