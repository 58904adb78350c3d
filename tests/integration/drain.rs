//! SIGTERM ends the process with exit code 0 inside its budget, whatever clients do; who still
//! reads is told where to resume, and nothing acknowledged is lost (P8).

use std::net::TcpStream;
use std::time::Duration;

use streamway::proto::v1::{Notice, SubscribeRequest};
use tokio::sync::watch;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::make::{
    self, at, earliest, latest, open, published, record, records, subscribe, to_tail,
};
use crate::harness::raw::{NeverReads, PublishesAtOnce};
use crate::harness::{Reader, Server, read_all, refused, within};
use crate::history::Recorder;
use crate::history::check::check;
use crate::history::clients::Publisher;

/// The default budget, and a little for the process to be reaped.
const BUDGET_SECONDS: u64 = 9;

async fn tells_where_to_resume(signal: &str) {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "drain", records("a", 5)).await;
    let mut reader = Reader::open(&mut client, subscribe("drain", earliest())).await.unwrap();
    reader.until(Notice::CaughtUp).await;
    let told = tokio::spawn(async move {
        let status = reader.rest().await.expect_err("draining ends the call");
        (reader, status)
    });
    let (exit, took) = server.stop(signal, BUDGET_SECONDS).await;
    assert!(exit.success(), "{exit:?} after {took:?}");
    let (reader, status) = told.await.unwrap();
    assert_eq!(reader.notices.last(), Some(&Notice::Draining), "told in-band first");
    refused(&status, Code::Unavailable, "SERVER_DRAINING");
    let next = reader.next.expect("where to resume");
    assert_eq!(next.offset, 5);

    server.restart().await;
    let mut client = server.client().await;
    published(&mut client, "drain", vec![record("b")]).await;
    let mut reader = Reader::open(&mut client, to_tail(subscribe("drain", at(&next)))).await.unwrap();
    let seen = reader.rest().await.unwrap();
    assert_eq!((seen.len(), seen[0].offset, seen[0].text().as_str()), (1, 5, "b"));
}

#[tokio::test]
async fn sigterm_tells_subscribers_where_to_resume() {
    tells_where_to_resume("TERM").await;
}

#[tokio::test]
async fn sigint_tells_subscribers_where_to_resume() {
    tells_where_to_resume("INT").await;
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut server = Server::start().await;
    let (exit, took) = server.stop("TERM", BUDGET_SECONDS).await;
    assert!(exit.success(), "{exit:?} after {took:?}");
    assert!(!server.log().contains("drain deadline"), "nothing was waited for: {}", server.log());
}

#[tokio::test]
async fn peers_that_do_nothing_cannot_hold_it_up() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..40 {
        published(&mut client, "stuck", vec![record(vec![7; 1_000_000])]).await;
    }
    let never_reads = NeverReads::subscribe(server.listen(), &subscribe("stuck", earliest()));
    let silent = TcpStream::connect(server.listen()).unwrap();
    let admin = TcpStream::connect(server.admin()).unwrap();
    // A subscriber that has stopped reading its stream, on a connection that lives.
    let unread = client.subscribe(subscribe("stuck", earliest())).await.unwrap();
    let exchange = client.exchange(tokio_stream::StreamExt::chain(
        tokio_stream::iter([open("stuck")]),
        tokio_stream::pending(),
    ));
    let exchange = exchange.await.unwrap();
    let mut health = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest { service: String::new() };
    let watch = health.watch(request).await.unwrap();
    let (exit, took) = server.stop("TERM", BUDGET_SECONDS).await;
    assert!(exit.success(), "{exit:?} after {took:?}\n{}", server.log());
    drop((never_reads, silent, admin, unread, exchange, watch));
}

/// A load balancer that has connected and sent a publish could not tell, were it cut off, whether it was taken.
#[tokio::test]
async fn what_was_sent_before_the_port_closed_is_answered() {
    const PEERS: usize = 64;
    let mut server = Server::start().await;
    published(&mut server.client().await, "late", records("a", 1)).await;
    // All at once: the connections, their publishes, and the signal.
    crate::harness::signal(server.pid(), "STOP");
    let request = make::publish("late", records("b", 1));
    let peers: Vec<_> = (0..PEERS).map(|_| PublishesAtOnce::new(server.listen(), &request)).collect();
    crate::harness::signal(server.pid(), "TERM");
    let read = |peer: PublishesAtOnce| tokio::task::spawn_blocking(|| peer.acknowledged());
    let answers: Vec<_> = peers.into_iter().map(read).collect();
    let (exit, took) = server.stop("CONT", BUDGET_SECONDS).await;
    assert!(exit.success(), "{exit:?} after {took:?}");
    for answer in answers {
        assert!(answer.await.unwrap().expect("no reset"), "refused");
    }
    server.restart().await;
    assert_eq!(read_all(&mut server.client().await, "late").await.len(), 1 + PEERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_at_full_speed_lose_nothing_acknowledged() {
    let mut server = Server::start().await;
    let (recorder, mut rng) = (Recorder::new(), fastrand::Rng::with_seed(7));
    let (_run, stop) = watch::channel(false);
    for round in 0..3 {
        let mut publishers = tokio::task::JoinSet::new();
        for i in 0..4 {
            let publisher = Publisher {
                client: server.client().await,
                topic: "busy".into(),
                name: format!("r{round}p{i}"),
                rng: rng.fork(),
                recorder: recorder.clone(),
                stop: stop.clone(),
                pause: Duration::ZERO,
            };
            publishers.spawn(publisher.exchanging());
        }
        recorder.reach(200).await;
        server.sigterm().await;
        within(10, "the calls' end", publishers.join_all()).await;
        server.restart().await;
    }
    let topic = read_all(&mut server.client().await, "busy").await;
    let found = check(&recorder.history(&topic)).unwrap();
    println!("{found:?}");
    assert!(found.acknowledged >= 600);
    assert_eq!(found.unacknowledged, 0, "what a draining server stored, it acknowledged");
}

#[tokio::test]
async fn a_drained_exchange_is_told_so_after_all_its_receipts() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let requests = (1..=100)
        .map(|n| crate::harness::make::numbered(n, crate::harness::make::publish("", records("x", 1))));
    let requests = std::iter::once(open("x")).chain(requests).collect::<Vec<_>>();
    let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
    let mut answers = client.exchange(stream).await.unwrap().into_inner();
    let mut receipts = 0;
    while receipts < 100 {
        let answer = within(10, "receipts", answers.message()).await.unwrap().unwrap();
        receipts += answer.receipts.len();
    }
    let told = tokio::spawn(async move {
        let mut notices = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(answer)) => notices.push(answer.notice()),
                Ok(None) => panic!("draining ends the call with a status"),
                Err(status) => return (notices, status),
            }
        }
    });
    server.sigterm().await;
    let (notices, status) = told.await.unwrap();
    assert_eq!(notices, [Notice::Draining]);
    refused(&status, Code::Unavailable, "SERVER_DRAINING");
}

#[tokio::test]
async fn a_drain_delay_goes_on_serving_while_readiness_is_off() {
    let mut server = Server::with(&["--drain-delay", "1s"]).await;
    let mut client = server.client().await;
    let request = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap();
    let mut reader = Reader::open(
        &mut client.clone(),
        SubscribeRequest { topic: "delay".into(), start: Some(latest()), ..SubscribeRequest::default() },
    )
    .await
    .unwrap();
    reader.until(Notice::CaughtUp).await;
    crate::harness::signal(server.pid(), "TERM");
    let off = within(5, "readiness off", watch.message()).await.unwrap().unwrap();
    assert_eq!(off.status, 2, "NOT_SERVING");
    published(&mut client, "delay", vec![record("still served")]).await;
    assert_eq!(reader.take(1).await.len(), 1);
    let (exit, _) = server.stop("CONT", BUDGET_SECONDS).await;
    assert!(exit.success());
}
