//! The drain's bounds against many peers and dead ones (P8), and its second signal.

use streamway::proto::v1::Notice;
use tonic::Code;

use crate::harness::make::{latest, published, record, records, subscribe};
use crate::harness::proxy::Proxy;
use crate::harness::{Reader, Server, StreamClient, refused, signal, within};

/// The default budget, and a little for the process to be reaped.
const BUDGET_SECONDS: u64 = 9;

/// Subscriptions that have caught up, so many on one connection.
async fn idle(mut client: StreamClient, count: usize) -> Vec<Reader> {
    let mut readers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut reader = Reader::open(&mut client, subscribe("idle", latest())).await.unwrap();
        reader.until(Notice::CaughtUp).await;
        readers.push(reader);
    }
    readers
}

/// Reads to the end, which must be the drain's.
async fn told(mut reader: Reader) {
    let status = reader.rest().await.expect_err("draining ends the call");
    refused(&status, Code::Unavailable, "SERVER_DRAINING");
    assert_eq!(reader.notices.last(), Some(&Notice::Draining));
    assert_eq!(reader.next.expect("where to resume").offset, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_subscriptions_are_all_told_inside_the_budget() {
    const CONNECTIONS: usize = 50;
    const EACH: usize = 100;
    // More than the default: both sides are debug builds here, beside other tests on two cores.
    const BUDGET_SECONDS: u64 = 40;
    let mut server = Server::with(&["--drain-timeout", "40s"]).await;
    published(&mut server.client().await, "idle", records("x", 3)).await;
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        opening.spawn(idle(server.client().await, EACH));
    }
    let readers: Vec<_> = within(60, "open", opening.join_all()).await.into_iter().flatten().collect();
    let ends: tokio::task::JoinSet<_> = readers.into_iter().map(told).collect();
    assert_eq!(ends.len(), CONNECTIONS * EACH);
    let (exit, took) = server.stop("TERM", BUDGET_SECONDS).await;
    println!("{} subscriptions drained in {took:?}", CONNECTIONS * EACH);
    assert!(exit.success(), "{exit:?} after {took:?}");
    assert!(!server.log().contains("cutting connections off"), "{}", server.log());
    within(10, "their ends", ends.join_all()).await;
}

#[tokio::test]
async fn a_peer_behind_a_cut_network_cannot_hold_it_up() {
    let mut server = Server::start().await;
    let proxy = Proxy::to(server.listen()).await;
    let mut near = server.client().await;
    published(&mut near, "idle", records("x", 3)).await;
    let far = tonic::transport::Endpoint::from_shared(format!("http://{}", proxy.at)).unwrap();
    let cut_off = idle(StreamClient::new(far.connect().await.unwrap()), 20).await;
    let near = idle(near, 1).await.pop().expect("one");
    proxy.freeze();
    let told = tokio::spawn(told(near));
    let (exit, took) = server.stop("TERM", BUDGET_SECONDS).await;
    assert!(exit.success(), "{exit:?} after {took:?}");
    told.await.unwrap();
    drop(cut_off);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut server = Server::with(&["--drain-delay", "40s", "--drain-timeout", "60s"]).await;
    let mut client = server.client().await;
    signal(server.pid(), "TERM");
    // In the delay it still serves, and has taken the signal once readiness is off.
    within(10, "readiness off", async {
        while server.ready_and_alive().await.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // `timeout` and some init systems send a second one at once, which is part of the same request.
    signal(server.pid(), "TERM");
    signal(server.pid(), "INT");
    published(&mut client, "idle", vec![record("acknowledged")]).await;
    // What makes a signal the second one is that a second has passed.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    published(&mut client, "idle", vec![record("still served")]).await;
    let (exit, took) = server.stop("TERM", 5).await;
    assert_eq!(exit.code(), Some(1), "after {took:?}");
    server.restart().await;
    assert_eq!(crate::harness::read_all(&mut server.client().await, "idle").await.len(), 2);
}
