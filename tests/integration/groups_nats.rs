//! Groups of a fleet while NATS fails: its leaders are killed, and replicas are cut off from it. The judge finds that each
//! record was handled as P11 to P14 say.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::DeliveryOrder;

use crate::group_history::load::Load;
use crate::groups_crash::{TOPIC, create};
use crate::harness::owner::{owner, stream};
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Server, seed, soak};

/// Kills the leader of the shard's stream, or of the topic's, again and again.
async fn leader_kills(order: DeliveryOrder) {
    let mut rng = Rng::with_seed(seed());
    let mut nats = tokio::task::spawn_blocking(Nats::cluster).await.unwrap();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Server::with(&["--engine", "jetstream", "--nats-url", &nats.url()]).await);
    }
    create(&replicas[0], order).await;
    let streams = [stream(&replicas[owner(&replicas).await]), format!("streamway-{TOPIC}")];
    let addresses: Vec<SocketAddr> = replicas.iter().map(Server::listen).collect();
    let load = Load::begin(order, &addresses, &mut rng);
    let rounds = if soak() { 20 } else { 3 };
    for round in 0..rounds {
        load.recorder.reach(rng.u64(1..400)).await;
        let stream = streams[round % 2].clone();
        let killed = move || {
            let leader = nats.leader(&stream);
            leader.kill();
            let name = leader.name.clone();
            (nats, name)
        };
        let name;
        (nats, name) = tokio::task::spawn_blocking(killed).await.unwrap();
        // The other two go on with a new leader.
        load.recorder.reach(rng.u64(1..400)).await;
        nats.servers.iter_mut().find(|server| server.name == name).expect("it was killed").start();
        nats = tokio::task::spawn_blocking(move || {
            nats.wait();
            nats
        })
        .await
        .unwrap();
    }
    let summary = load.end(&replicas[0]).await;
    println!("{order:?}, {rounds} leaders of NATS killed: {summary:?}");
}

/// P11, P12, P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_go_on_in_order_when_leaders_of_nats_are_killed() {
    leader_kills(DeliveryOrder::Key).await;
    if soak() {
        leader_kills(DeliveryOrder::None).await;
        leader_kills(DeliveryOrder::Total).await;
    }
}

/// Which replica is cut off from NATS.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Owner,
    /// One whose members are leased records by an owner elsewhere.
    Other,
}

/// Cuts replicas off from NATS for times shorter and longer than that after which another owner follows.
async fn partitions(order: DeliveryOrder) {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let (mut links, mut replicas) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let link = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
        let url = format!("nats://{}", link.at);
        replicas
            .push(Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await);
        links.push(link);
    }
    create(&replicas[0], order).await;
    let addresses: Vec<SocketAddr> = replicas.iter().map(Server::listen).collect();
    let load = Load::begin(order, &addresses, &mut rng);
    for seconds in [3, 9] {
        for cut in [Cut::Owner, Cut::Other] {
            load.recorder.reach(rng.u64(1..600)).await;
            let owner = owner(&replicas).await;
            let at = match cut {
                Cut::Owner => owner,
                Cut::Other => (owner + 1) % replicas.len(),
            };
            let is_silent = rng.bool();
            println!("{cut:?} is cut off for {seconds} s, silently: {is_silent}");
            if is_silent {
                links[at].freeze_for(Duration::from_secs(seconds));
            } else {
                links[at].set_down(true);
            }
            // The partition itself.
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            links[at].set_down(false);
        }
    }
    links[0].delay(Duration::from_millis(20));
    load.recorder.reach(400).await;
    let summary = load.end(&replicas[1]).await;
    println!("{order:?}, 4 partitions: {summary:?}");
}

/// P11, P12, P13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_cut_off_from_nats_repeat_nothing_that_was_settled() {
    partitions(DeliveryOrder::None).await;
}

/// P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_cut_off_from_nats_keep_the_order_of_each_key() {
    partitions(DeliveryOrder::Key).await;
}
