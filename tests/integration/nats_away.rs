//! Shutdown of a server that cannot reach NATS: every call is answered (P7) in time (P8).

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use streamway::proto::v1::{IngestRequest, Position, PublishRequest, Receipt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::make::{earliest, next, numbered, open, publish, published, record, subscribe};
use crate::harness::{Nats, Server, StreamClient, metadata, within};

/// Bytes of each record.
const BYTES: usize = 1000;
const UNARY: usize = 30;
const EXCHANGES: usize = 3;

async fn replica(nats: &Nats) -> Server {
    let url = nats.url();
    Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await
}

fn one(topic: &str, id: String) -> PublishRequest {
    PublishRequest { request_id: id, ..publish(topic, vec![record(vec![7; BYTES])]) }
}

/// Bytes of accepted publishes that are not acknowledged.
fn inflight_bytes(server: &Server) -> usize {
    let url = format!("http://{}/metrics", server.admin());
    let output = std::process::Command::new("curl").args(["-s", &url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("streamway_publish_inflight_bytes "));
    line.map_or(0, |number| number.parse::<f64>().unwrap() as usize)
}

/// An Exchange with one acknowledged publish and another one that is sent when `go` fires.
async fn exchange(
    mut client: StreamClient,
    acknowledged: Arc<Semaphore>,
    mut go: watch::Receiver<bool>,
) -> (Receipt, Status) {
    let (requests, stream) = mpsc::channel(4);
    requests.send(open("away")).await.unwrap();
    requests.send(numbered(1, one("away", String::new()))).await.unwrap();
    let mut answers = client.exchange(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let receipt = loop {
        let answer = answers.message().await.unwrap().expect("it goes on");
        if let Some(receipt) = answer.receipts.into_iter().next() {
            break receipt.receipt.unwrap();
        }
    };
    acknowledged.add_permits(1);
    go.wait_for(|go| *go).await.unwrap();
    requests.send(numbered(2, one("away", String::new()))).await.unwrap();
    loop {
        match answers.message().await {
            Ok(Some(answer)) => assert!(answer.receipts.is_empty(), "NATS is away"),
            Ok(None) => panic!("it ends well"),
            Err(status) => return (receipt, status),
        }
    }
}

#[track_caller]
fn told(status: &Status) -> String {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    metadata(status)["side_effects"].clone()
}

/// Stops a server while it waits for a NATS that `go_away` made unavailable.
async fn stop(go_away: impl FnOnce(&mut Nats), come_back: impl FnOnce(&mut Nats)) {
    let mut nats = tokio::task::spawn_blocking(|| Nats::single("")).await.unwrap();
    let mut server = replica(&nats).await;
    let mut client = server.client().await;
    published(&mut client, "away", vec![record("before")]).await;
    let (go, going) = watch::channel(false);
    let acknowledged = Arc::new(Semaphore::new(0));
    let (mut unary, mut exchanges) = (JoinSet::new(), JoinSet::new());
    for _ in 0..EXCHANGES {
        exchanges.spawn(exchange(client.clone(), acknowledged.clone(), going.clone()));
    }
    let all = acknowledged.acquire_many(EXCHANGES as u32);
    within(10, "a receipt for each", all).await.unwrap().forget();
    go_away(&mut nats);
    go.send_replace(true);
    for n in 0..UNARY {
        let mut client = client.clone();
        unary.spawn(async move { client.publish(one("away", format!("id-{n}"))).await });
    }
    // A start waits as well.
    let starting = tokio::spawn({
        let mut client = client.clone();
        async move { client.subscribe(subscribe("away", earliest())).await.map(drop) }
    });
    let all_taken = async {
        while inflight_bytes(&server) < (UNARY + EXCHANGES) * BYTES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(10, "every publish is taken", all_taken).await;
    server.sigterm().await;
    let answers = unary.join_all().await;
    let answered =
        answers.iter().filter(|answer| answer.as_ref().is_err_and(|e| e.code() == Code::Unavailable));
    assert_eq!(answered.count(), UNARY, "{answers:#?}");
    for answer in answers {
        let side_effects = told(&answer.expect_err("NATS is away"));
        assert!(["none", "unknown"].contains(&side_effects.as_str()), "{side_effects}");
    }
    while let Some(ended) = exchanges.join_next().await {
        let (receipt, status) = ended.unwrap();
        let Position { epoch, offset } = next(&receipt);
        told(&status);
        let metadata = metadata(&status);
        assert_eq!((&metadata["resume_epoch"], &metadata["resume_offset"]), (&epoch, &offset.to_string()));
        assert_eq!(metadata["number"], "2");
    }
    if let Err(status) = starting.await.unwrap() {
        told(&status);
    }
    come_back(&mut nats);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_nats_is_gone_answers_every_call() {
    stop(|nats| nats.servers[0].kill(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_nats_hangs_answers_every_call() {
    let signal = |signal| move |nats: &mut Nats| nats.servers[0].signal(signal);
    stop(signal(Signal::STOP), signal(Signal::CONT)).await;
}

/// A server that is still waiting for NATS at its start stops at once and without a panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_the_start_waits_for_nats_is_clean() {
    let args = ["--engine", "jetstream", "--nats-url", "nats://127.0.0.1:1"];
    let mut server = Server::starting(&args).await;
    let waiting = async {
        while !server.log().contains("waiting for NATS") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(30, "the start waits", waiting).await;
    server.sigterm().await;
    let log = server.log();
    assert!(log.contains("drained"), "{log}");
    assert!(!log.contains("panicked") && !log.contains("cut off"), "{log}");
}

/// What waits for a topic that is being created is counted as in flight, so that its memory has a limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_to_an_unknown_topic_are_counted_while_nats_hangs() {
    let nats = tokio::task::spawn_blocking(|| Nats::single("")).await.unwrap();
    let server = replica(&nats).await;
    let mut client = server.client().await;
    published(&mut client, "known", vec![record("before")]).await;
    nats.servers[0].signal(Signal::STOP);
    let mut calls = JoinSet::new();
    for n in 0..UNARY {
        let (mut unary, mut ingesting) = (client.clone(), client.clone());
        let request = one(&format!("unknown-{n}"), String::new());
        let ingest = IngestRequest { publish: Some(request.clone()) };
        calls.spawn(async move { unary.publish(request).await.map(drop) });
        calls.spawn(async move { ingesting.ingest(tokio_stream::iter([ingest])).await.map(drop) });
    }
    let counted = async {
        while inflight_bytes(&server) < 2 * UNARY * BYTES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(10, "every publish is counted", counted).await;
    nats.servers[0].signal(Signal::CONT);
    for answer in calls.join_all().await {
        if let Err(status) = answer {
            told(&status);
        }
    }
    let released = async {
        while inflight_bytes(&server) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(10, "all is released", released).await;
}
