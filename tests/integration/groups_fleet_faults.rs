//! Groups of a fleet under faults: replicas are killed, drained and paused while members at all of them work, and the
//! judge finds that each record was handled as P11 to P14 say.

use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::group_service_client::GroupServiceClient;
use streamway::proto::v1::{DeliveryOrder, GetGroupRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::group_history::Recorder;
use crate::group_history::judge::Summary;
use crate::group_history::worker::Worker;
use crate::groups_crash::{GROUP, TOPIC, create, judged, publishing};
use crate::groups_fleet::replica;
use crate::harness::make::history;
use crate::harness::{Nats, Reader, Server, seed, signal, soak, within};

/// Longest time in which members go on after a fault: another replica follows after 6 s, and clients try again.
const SECONDS: u64 = 60;

/// Confirmations that each publisher is ahead of at most.
const AHEAD_MAX: u64 = 300;

/// Records that are not settled; none while no replica can tell.
async fn lag(server: &Server) -> Option<u64> {
    let mut client = GroupServiceClient::new(server.channel().await);
    let request = GetGroupRequest { topic: TOPIC.into(), name: GROUP.into() };
    let answer = client.get_group(request).await.ok()?.into_inner();
    answer.group?.status.map(|status| status.lag_records)
}

/// Strikes a replica.
async fn fault(server: &mut Server, rng: &mut Rng) {
    match rng.u8(..3) {
        0 => {
            server.kill9().await;
            server.restart().await;
        }
        1 => {
            server.sigterm().await;
            server.restart().await;
        }
        _ => {
            signal(server.pid(), "STOP");
            // The pause itself, shorter and longer than the time after which another replica follows.
            tokio::time::sleep(Duration::from_secs(*rng.choice(&[3, 5, 7, 9]).expect("some"))).await;
            signal(server.pid(), "CONT");
        }
    }
}

async fn faults(order: DeliveryOrder, rounds: u64) -> Summary {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await, replica(&nats).await];
    create(&replicas[0], order).await;
    let recorder = Recorder::default();
    let ((enough, enough_seen), (calm, careful), (done, stop)) =
        (watch::channel(false), watch::channel(false), watch::channel(false));
    let mut publishers = JoinSet::new();
    for replica in &replicas {
        let client = replica.client().await;
        publishers.spawn(publishing(
            client,
            recorder.clone(),
            rng.fork(),
            (0, AHEAD_MAX),
            enough_seen.clone(),
        ));
    }
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        let worker = Worker {
            servers: replicas.iter().map(Server::listen).collect(),
            topic: TOPIC.into(),
            group: GROUP.into(),
            rng: rng.fork(),
            recorder: recorder.clone(),
            careful: careful.clone(),
            stop: stop.clone(),
        };
        workers.spawn(worker.work());
    }
    for _ in 0..rounds {
        recorder.reach(rng.u64(1..600)).await;
        let at = rng.usize(..replicas.len());
        fault(&mut replicas[at], &mut rng).await;
    }
    enough.send_replace(true);
    within(SECONDS, "the publishers", publishers.join_all()).await;
    calm.send_replace(true);
    within(90, "the end of the work", async {
        while lag(&replicas[0]).await != Some(0) {
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
    })
    .await;
    done.send_replace(true);
    within(SECONDS, "the workers", workers.join_all()).await;
    let mut client = replicas[0].client().await;
    let reader = Reader::open(&mut client, history(TOPIC)).await.expect("subscribed");
    let topic = reader.sparse().rest().await.expect("read to the tail");
    let summary = judged(order, &recorder, &topic);
    println!("{order:?}, {rounds} faults: {summary:?}");
    summary
}

/// Faults in a usual run, and in a long one.
fn rounds() -> u64 {
    if soak() { 60 } else { 4 }
}

/// P11, P12, P13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_replicas_forget_nothing_and_repeat_nothing_that_was_settled() {
    let summary = faults(DeliveryOrder::None, rounds()).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}

/// P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_replicas_keep_the_order_of_each_key() {
    let summary = faults(DeliveryOrder::Key, rounds()).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}

/// P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_replicas_keep_a_total_order() {
    let summary = faults(DeliveryOrder::Total, rounds()).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}
