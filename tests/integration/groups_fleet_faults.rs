//! Groups of a fleet under faults: replicas are killed, drained and paused while members at all of them work, and the
//! judge finds that each record was handled as P11 to P14 say.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::DeliveryOrder;

use crate::group_history::judge::Summary;
use crate::group_history::load::Load;
use crate::groups_crash::create;
use crate::groups_fleet::replica;
use crate::harness::envoy::Envoy;
use crate::harness::haproxy::HaProxy;
use crate::harness::{Nats, Server, seed, signal, soak};

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

/// Strikes one of the replicas again and again while the load is on.
async fn strike(replicas: &mut [Server], load: &Load, rng: &mut Rng, rounds: u64) {
    for _ in 0..rounds {
        load.recorder.reach(rng.u64(1..600)).await;
        let at = rng.usize(..replicas.len());
        fault(&mut replicas[at], rng).await;
    }
}

async fn three(nats: &Nats) -> [Server; 3] {
    [replica(nats).await, replica(nats).await, replica(nats).await]
}

/// Members at the replicas themselves.
async fn faults(order: DeliveryOrder, rounds: u64) -> Summary {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let mut replicas = three(&nats).await;
    create(&replicas[0], order).await;
    let addresses: Vec<SocketAddr> = replicas.iter().map(Server::listen).collect();
    let load = Load::begin(order, &addresses, &mut rng);
    strike(&mut replicas, &load, &mut rng, rounds).await;
    let summary = load.end(&replicas[0]).await;
    println!("{order:?}, {rounds} faults: {summary:?}");
    summary
}

/// Members behind a load balancer, which decides to which replica each call goes.
async fn balanced(order: DeliveryOrder, balancer: impl AsyncFnOnce(&[Server]) -> (SocketAddr, Box<dyn Any>)) {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let mut replicas = three(&nats).await;
    create(&replicas[0], order).await;
    let (at, _balancer) = balancer(&replicas).await;
    let load = Load::begin(order, &[at; 2], &mut rng);
    let rounds = rounds();
    strike(&mut replicas, &load, &mut rng, rounds).await;
    let summary = load.end(&replicas[0]).await;
    println!("{order:?} behind a balancer, {rounds} faults: {summary:?}");
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
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

/// P11 to P14, where HAProxy moves members from replica to replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_behind_haproxy_keep_the_order_of_each_key_across_faults_of_replicas() {
    balanced(DeliveryOrder::Key, async |replicas| {
        let proxy = HaProxy::before(replicas);
        (proxy.at, Box::new(proxy) as Box<dyn Any>)
    })
    .await;
}

/// P11 to P14, where Envoy moves members from replica to replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_behind_envoy_keep_the_order_of_each_key_across_faults_of_replicas() {
    balanced(DeliveryOrder::Key, async |replicas| {
        let proxy = Envoy::before(replicas);
        (proxy.at, Box::new(proxy) as Box<dyn Any>)
    })
    .await;
}
