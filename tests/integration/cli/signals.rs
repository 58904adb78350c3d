//! Signals to commands that publish.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use streamway::proto::v1::ListTopicsRequest;

use super::command;
use crate::harness::{Server, signal, within};

/// Whatever a signal ends says how far it got, and leaves nothing of its own behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_publish_and_a_benchmark_cleanly() {
    let server = Server::start().await;
    let named = async |prefix: &str| {
        let request = ListTopicsRequest { prefix: prefix.into(), ..ListTopicsRequest::default() };
        server.topics().await.list_topics(request).await.unwrap().into_inner().topics
    };
    let shown = async |prefix: &str, tail: u64| {
        while !named(prefix).await.iter().any(|topic| topic.tail >= tail) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for (name, tail) in [("INT", 1), ("TERM", 2)] {
        let mut publish = command(&server, &["publish", "t"]).stdin(Stdio::piped()).spawn().unwrap();
        // Its input stays open, which `wait` would close: it is the signal that ends it.
        let mut input = publish.stdin.take().unwrap();
        input.write_all(b"a\n").unwrap();
        within(30, "a record", shown("t", tail)).await;
        signal(publish.id(), name);
        let status = tokio::task::block_in_place(|| publish.wait()).unwrap();
        drop(input);
        let mut said = String::new();
        publish.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(130), "{name}: {said}");
        assert!(said.contains("interrupted; at least the first 1 lines are stored"), "{said}");

        let endless = ["bench", "publish", "--warmup", "584y", "--duration", "584y", "--rate", "100"];
        let mut bench = command(&server, &endless).spawn().unwrap();
        within(30, "a benchmark", shown("bench-", 1)).await;
        signal(bench.id(), name);
        let status = tokio::task::block_in_place(|| bench.wait()).unwrap();
        assert_eq!(status.code(), Some(130), "{name}");
        assert!(named("bench-").await.is_empty(), "its topic is deleted");
    }
}
