//! Pauses of the owner of a group, of a member's replica and of members, shorter and longer than the times that leases and
//! owners last, with records that become due meanwhile; and replicas whose clocks differ.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::DeliveryOrder;
use tempfile::TempDir;

use crate::group_history::load::Load;
use crate::groups_crash::create;
use crate::groups_fleet::replica;
use crate::harness::make::{published, records};
use crate::harness::member::{self, Member};
use crate::harness::owner::owner;
use crate::harness::preload::Preload;
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Server, seed, signal, soak, within};

#[derive(Clone, Copy, Debug)]
enum Paused {
    Owner,
    /// A replica whose members are leased records by an owner elsewhere.
    Other,
    /// The members of one replica, as far as the replica can tell: their connections are open and silent.
    Members,
}

fn seconds() -> &'static [u64] {
    if soak() { &[3, 5, 7, 60] } else { &[3, 5, 7] }
}

async fn pauses(order: DeliveryOrder, paused: Paused) {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let (mut replicas, mut doors) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let replica = replica(&nats).await;
        doors.push(Proxy::to(replica.listen()).await);
        replicas.push(replica);
    }
    create(&replicas[0], order).await;
    let addresses: Vec<SocketAddr> = doors.iter().map(|door| door.at).collect();
    let load = Load::begin(order, &addresses, &mut rng);
    for seconds in seconds() {
        let pause = Duration::from_secs(*seconds);
        load.recorder.reach(rng.u64(200..600)).await;
        let owner = owner(&replicas).await;
        let at = match paused {
            Paused::Owner => owner,
            Paused::Other | Paused::Members => (owner + 1) % replicas.len(),
        };
        // The pause itself. Workers fail to handle records and delay them all the time, so that some are due at its end.
        if let Paused::Members = paused {
            doors[at].freeze_for(pause);
            tokio::time::sleep(pause).await;
        } else {
            signal(replicas[at].pid(), "STOP");
            tokio::time::sleep(pause).await;
            signal(replicas[at].pid(), "CONT");
        }
    }
    load.recorder.reach(200).await;
    let summary = load.end(&replicas[0]).await;
    println!("{order:?}, {paused:?} paused for {:?} s: {summary:?}", seconds());
}

/// P11, P12, P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_wakes_up_gives_nothing_that_was_settled() {
    pauses(DeliveryOrder::Key, Paused::Owner).await;
}

/// P11, P12, P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_members_that_wakes_up_gives_nothing_that_was_settled() {
    pauses(DeliveryOrder::Key, Paused::Other).await;
}

/// P11, P12, P13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_wake_up_settle_nothing_that_others_were_leased() {
    pauses(DeliveryOrder::None, Paused::Members).await;
}

/// Two replicas whose clocks are so many seconds ahead of the machine's.
async fn skewed(nats: &Nats, ahead: [i64; 2]) -> (Vec<Server>, Vec<(Preload, TempDir)>) {
    let (mut replicas, mut kept) = (Vec::new(), Vec::new());
    for seconds in ahead {
        let (preload, dir) = (Preload::new(), TempDir::new().unwrap());
        preload.set_clock(seconds);
        let url = nats.url();
        let args = ["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"];
        replicas.push(Server::under(preload.command(), dir.path(), &args).await);
        kept.push((preload, dir));
    }
    (replicas, kept)
}

const TEN_MINUTES: i64 = 600;

/// P11, P12: the next owner waits for a delayed record no longer than the delay is, whatever its clock says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_last_no_longer_where_the_clock_of_the_next_owner_differs() {
    let nats = Nats::single("");
    for ahead in [TEN_MINUTES, -TEN_MINUTES] {
        let topic = format!("jobs{ahead}");
        let (mut replicas, _kept) = skewed(&nats, [ahead, 0]).await;
        published(&mut replicas[0].client().await, &topic, records("r", 2)).await;
        member::create(&replicas[0], &topic, "workers", Default::default()).await;
        let mut first = Member::open(&replicas[0], &topic, "workers", 2).await;
        let taken = first.take(2).await;
        first.ack(&taken[..1]).await;
        first.nack(&taken[1], Some(2000), "not today").await;
        replicas[0].kill9().await;
        let mut next = Member::open(&replicas[1], &topic, "workers", 2).await;
        let again = within(60, "the delayed record", next.take(1)).await;
        assert_eq!((again[0].text(), again[0].delivery), ("r1".to_owned(), 2), "{ahead} s");
        assert!(again[0].fence > taken[1].fence, "fences rise whatever the clocks say (P13)");
        next.ack(&again).await;
        next.assert_nothing_for(Duration::from_millis(200)).await;
        next.leave().await;
    }
}

/// P11, P12, P14: owners follow each other whose clocks differ by ten minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_with_different_clocks_keep_the_order_of_each_key() {
    let mut rng = Rng::with_seed(seed());
    let nats = Nats::single("");
    let (mut replicas, _kept) = skewed(&nats, [TEN_MINUTES, -TEN_MINUTES]).await;
    create(&replicas[0], DeliveryOrder::Key).await;
    let addresses: Vec<SocketAddr> = replicas.iter().map(Server::listen).collect();
    let load = Load::begin(DeliveryOrder::Key, &addresses, &mut rng);
    for round in 0..if soak() { 12 } else { 4 } {
        load.recorder.reach(rng.u64(1..600)).await;
        // The clocks of the logs differ too, so that they do not tell which of the two is the owner.
        let at = rng.usize(..2);
        if round % 2 == 0 {
            replicas[at].kill9().await;
        } else {
            replicas[at].sigterm().await;
        }
        replicas[at].restart().await;
    }
    let summary = load.end(&replicas[0]).await;
    println!("clocks 20 minutes apart: {summary:?}");
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}
