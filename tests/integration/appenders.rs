//! Two replicas publish to one topic. The one farther from NATS hands its batches to the other, which is stopped, killed and
//! drained meanwhile. Every client uses a single replica.

use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::crash::assert_sound;
use crate::harness::make::history;
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Reader, Server, seed, signal, soak, within};
use crate::history::Recorder;
use crate::history::clients::{Publisher, follow};

const TOPIC: &str = "appended";
/// Batches that must be acknowledged before, during and after each fault.
const BATCHES: u64 = 100;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The process of this replica is stopped for so many seconds.
    Stopped(usize, u64),
    Frozen,
    Killed,
    Drained,
}

/// The replica that is near NATS, and appends for the other.
const APPENDING: usize = 0;
/// The replica that is farther, and hands its batches over.
const HANDING: usize = 1;

/// P1, P2, P4, P5, P7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_repeated_or_reordered_while_one_replica_appends_for_another() {
    run(&[Event::Stopped(APPENDING, 1), Event::Frozen, Event::Killed, Event::Drained]).await;
}

/// The same for so long that batches are taken back, called lost by clients, and given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn nothing_is_lost_repeated_or_reordered_when_a_replica_pauses_for_long() {
    let pauses = [(APPENDING, 3), (HANDING, 3), (APPENDING, 7), (HANDING, 7)];
    let events = pauses.map(|(server, seconds)| Event::Stopped(server, seconds));
    let more = [Event::Frozen, Event::Killed, Event::Drained];
    let rounds = if soak() { 5 } else { 1 };
    run(&(0..rounds).flat_map(|_| events.into_iter().chain(more)).collect::<Vec<_>>()).await;
}

async fn run(events: &[Event]) {
    let (nats, recorder, mut rng) = (Nats::single(""), Recorder::new(), Rng::with_seed(seed()));
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    proxy.delay(Duration::from_millis(2));
    let mut servers = Vec::new();
    for url in [nats.url(), format!("nats://{}", proxy.at)] {
        let args = ["--engine", "jetstream", "--nats-replicas", "1", "--nats-url", &url];
        servers.push(Server::with(&args).await);
    }
    let clients = [servers[APPENDING].client().await, servers[HANDING].client().await];
    let mut publisher = |server: usize, name: String, stop: &watch::Receiver<bool>, pause: u64| Publisher {
        client: clients[server].clone(),
        topic: TOPIC.into(),
        name,
        rng: rng.fork(),
        recorder: recorder.clone(),
        stop: stop.clone(),
        pause: Duration::from_millis(pause),
    };
    let ((done, stop), (end, last)) = (watch::channel(false), watch::channel(None));
    let (mut publishers, mut followers) = (JoinSet::new(), JoinSet::new());
    publishers.spawn(publisher(0, "first".into(), &stop, 0).faithful());
    recorder.reach(1).await;
    for (server, client) in clients.iter().enumerate() {
        for n in 0..3 {
            publishers.spawn(publisher(server, format!("faithful{server}{n}"), &stop, 0).faithful());
        }
        publishers.spawn(publisher(server, format!("conditional{server}"), &stop, 0).conditional());
        publishers.spawn(publisher(server, format!("ingesting{server}"), &stop, 3).ingesting());
        followers.spawn(follow(client.clone(), TOPIC.into(), recorder.clone(), last.clone()));
    }
    for event in events {
        let begun = std::time::Instant::now();
        let (end, ended) = watch::channel(false);
        let mut exchanges = JoinSet::new();
        for server in 0..2 {
            let exchange = publisher(server, format!("exchange{server}"), &ended, 3);
            exchanges.spawn(exchange.exchanging());
        }
        recorder.reach(BATCHES).await;
        match event {
            Event::Stopped(server, seconds) => {
                signal(servers[*server].pid(), "STOP");
                // The other replica continues without it.
                recorder.reach(BATCHES / 2).await;
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                signal(servers[*server].pid(), "CONT");
            }
            // The replica that hands over reaches nobody.
            Event::Frozen => proxy.freeze_for(Duration::from_secs(1)),
            Event::Killed => {
                servers[APPENDING].kill9().await;
                recorder.reach(BATCHES / 2).await;
                servers[APPENDING].restart().await;
            }
            Event::Drained => {
                servers[APPENDING].sigterm().await;
                recorder.reach(BATCHES / 2).await;
                servers[APPENDING].restart().await;
            }
        }
        recorder.reach(BATCHES).await;
        end.send_replace(true);
        within(60, "the exchanges", exchanges.join_all()).await;
        println!("{event:?}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    done.send_replace(true);
    within(60, "the publishers", publishers.join_all()).await;
    let reader = Reader::open(&mut servers[HANDING].client().await, history(TOPIC)).await.unwrap();
    let topic = within(60, "the topic", reader.sparse().rest()).await.unwrap();
    end.send_replace(topic.last().map(|seen| seen.offset + 1));
    within(120, "the followers", followers.join_all()).await;
    let summary = assert_sound(&recorder.history(&topic).dense());
    println!("{summary:?}");
    assert_eq!(summary.delivered, 2 * topic.len(), "every subscriber saw everything");
}
