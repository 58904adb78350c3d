//! A fleet as users run it: two replicas behind HAProxy, three NATS servers behind the replicas, and
//! publishers and subscribers that see nothing but HAProxy while each part fails in turn.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::crash::assert_sound;
use crate::harness::haproxy::HaProxy;
use crate::harness::make::history;
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Reader, Seen, Server, StreamClient, connect, seed, soak, within};
use crate::history::Recorder;
use crate::history::clients::{Publisher, follow};

const TOPIC: &str = "fleet";
/// Name of its stream at NATS.
const STREAM: &str = "streamway-fleet";
/// Batches acknowledged before, while and after something has failed.
const BATCHES: u64 = 30;
/// Between two batches of a streaming call: most of a run is waiting for new leaders, and what is published
/// as fast as it is taken meanwhile takes longer to judge than all of them.
const PAUSE: Duration = Duration::from_millis(3);

/// Everything a test needs, and what every client writes down.
struct Fleet {
    nats: Nats,
    /// Between the first replica and each NATS server.
    links: Vec<Proxy>,
    replicas: Vec<Server>,
    front: HaProxy,
    recorder: Recorder,
    rng: Rng,
}

impl Fleet {
    async fn start() -> Self {
        let nats = tokio::task::spawn_blocking(Nats::cluster).await.unwrap();
        let mut links = Vec::new();
        for server in &nats.servers {
            links.push(Proxy::to(SocketAddr::from(([127, 0, 0, 1], server.port))).await);
        }
        let linked: Vec<_> = links.iter().map(|link| format!("nats://{}", link.at)).collect();
        let mut replicas = Vec::new();
        for url in [linked.join(","), nats.url()] {
            replicas.push(Server::with(&["--engine", "jetstream", "--nats-url", &url]).await);
        }
        assert!(replicas.iter().all(|replica| !replica.log().contains("nats.replicas is below 3")));
        let front = HaProxy::before(&replicas);
        Self { nats, links, replicas, front, recorder: Recorder::new(), rng: Rng::with_seed(seed()) }
    }

    async fn client(&self) -> StreamClient {
        StreamClient::new(connect(self.front.at).await)
    }

    async fn publisher(&mut self, name: &str, stop: &watch::Receiver<bool>) -> Publisher {
        Publisher {
            client: self.client().await,
            topic: TOPIC.into(),
            name: name.into(),
            rng: self.rng.fork(),
            recorder: self.recorder.clone(),
            stop: stop.clone(),
            pause: PAUSE,
        }
    }

    /// Every replica says again that it is ready.
    async fn ready(&self) {
        for replica in &self.replicas {
            let ready = async {
                while !replica.ready_and_alive().await.0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            within(60, "readiness", ready).await;
        }
    }

    async fn rolling_restart(&mut self) {
        for n in 0..self.replicas.len() {
            self.replicas[n].sigterm().await;
            self.replicas[n].restart().await;
            self.recorder.reach(BATCHES).await;
        }
    }

    async fn kill_of_a_replica(&mut self) {
        let n = self.rng.usize(..self.replicas.len());
        self.replicas[n].kill9().await;
        self.recorder.reach(BATCHES).await;
        self.replicas[n].restart().await;
    }

    async fn kill_of_the_leader(&mut self) {
        let leader = self.nats.leader(STREAM);
        let name = leader.name.clone();
        leader.kill();
        self.recorder.reach(BATCHES).await;
        self.nats.servers.iter_mut().find(|server| server.name == name).unwrap().start();
        self.nats.wait();
    }

    async fn pause_of_a_node(&mut self) {
        let n = self.rng.usize(..self.nats.servers.len());
        self.nats.servers[n].signal(Signal::STOP);
        self.recorder.reach(BATCHES).await;
        self.nats.servers[n].signal(Signal::CONT);
        self.nats.wait();
    }

    async fn cut_from_nats(&mut self) {
        self.links.iter().for_each(|link| link.set_down(true));
        self.recorder.reach(BATCHES).await;
        self.links.iter().for_each(|link| link.set_down(false));
    }

    /// Everything the topic holds.
    async fn topic(&self) -> Vec<Seen> {
        let reader = Reader::open(&mut self.client().await, history(TOPIC)).await.expect("subscribed");
        reader.sparse().rest().await.expect("read to the tail")
    }
}

/// Fault that a fleet must stand.
#[derive(Clone, Copy, Debug)]
enum Fault {
    RollingRestart,
    KillOfReplica,
    KillOfLeader,
    PauseOfNode,
    CutFromNats,
}

const FAULTS: [Fault; 5] = [
    Fault::RollingRestart,
    Fault::KillOfReplica,
    Fault::KillOfLeader,
    Fault::PauseOfNode,
    Fault::CutFromNats,
];

/// P1, P2, P3, P4, P5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_loses_repeats_and_reorders_nothing_whatever_fails() {
    let rounds = if soak() { 30 } else { 3 };
    let mut fleet = Fleet::start().await;
    let ((done, stop), (end, last)) = (watch::channel(false), watch::channel(None));
    let (mut publishers, mut followers) = (JoinSet::new(), JoinSet::new());
    publishers.spawn(fleet.publisher("first", &stop).await.faithful());
    fleet.recorder.reach(1).await;
    publishers.spawn(fleet.publisher("second", &stop).await.faithful());
    publishers.spawn(fleet.publisher("conditional", &stop).await.conditional());
    publishers.spawn(fleet.publisher("ingesting", &stop).await.ingesting());
    for _ in 0..2 {
        followers.spawn(follow(fleet.client().await, TOPIC.into(), fleet.recorder.clone(), last.clone()));
    }
    for round in 0..rounds {
        for fault in FAULTS {
            let begun = std::time::Instant::now();
            let (end, ended) = watch::channel(false);
            let exchange = fleet.publisher(&format!("{fault:?}{round}"), &ended).await.exchanging();
            let exchange = tokio::spawn(exchange);
            fleet.recorder.reach(BATCHES).await;
            match fault {
                Fault::RollingRestart => fleet.rolling_restart().await,
                Fault::KillOfReplica => fleet.kill_of_a_replica().await,
                Fault::KillOfLeader => fleet.kill_of_the_leader().await,
                Fault::PauseOfNode => fleet.pause_of_a_node().await,
                Fault::CutFromNats => fleet.cut_from_nats().await,
            }
            end.send_replace(true);
            fleet.ready().await;
            fleet.recorder.reach(BATCHES).await;
            within(60, "the exchange", exchange).await.unwrap();
            println!("{round} {fault:?}: {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    done.send_replace(true);
    within(60, "the publishers", publishers.join_all()).await;
    let topic = within(60, "the topic", fleet.topic()).await;
    end.send_replace(topic.last().map(|seen| seen.offset + 1));
    within(120, "the followers", followers.join_all()).await;
    let summary = assert_sound(&fleet.recorder.history(&topic).dense());
    println!("{summary:?}");
    assert_eq!(summary.delivered, 2 * topic.len(), "every subscriber saw everything");
}
