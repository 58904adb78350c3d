//! kill -9 under load: everything acknowledged is there, once, in order, and a sound topic can explain the history of all
//! clients.

use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Server, read_all, seed, soak, within};
use crate::history::check::{Summary, check};
use crate::history::clients::{Publisher, follow};
use crate::history::{History, Recorder};

const TOPIC: &str = "crash";
/// Small files, so that checkpoints and segment changes happen during the kills.
const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];

/// Checks a history; on failure prints the broken promise.
pub fn assert_sound(history: &History) -> Summary {
    check(history).unwrap_or_else(|reason| panic!("{reason}"))
}

fn publisher(server: &Publishing<'_>, name: String) -> Publisher {
    Publisher {
        client: server.client.clone(),
        topic: TOPIC.into(),
        name,
        rng: Rng::with_seed(fastrand::u64(..)),
        recorder: server.recorder.clone(),
        stop: server.stop.clone(),
        pause: Duration::ZERO,
    }
}

struct Publishing<'a> {
    client: crate::harness::StreamClient,
    recorder: &'a Recorder,
    stop: watch::Receiver<bool>,
}

/// P1, P2, P3, P4, P5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_repeats_and_reorders_nothing_acknowledged() {
    let rounds = if soak() { 200 } else { 20 };
    let mut rng = Rng::with_seed(seed());
    fastrand::seed(rng.u64(..));
    let mut server = Server::with(&SMALL).await;
    let (recorder, (done, stop), (end, last)) =
        (Recorder::new(), watch::channel(false), watch::channel(None));
    let mut lasting = JoinSet::new();
    let publishing = Publishing { client: server.client().await, recorder: &recorder, stop: stop.clone() };
    lasting.spawn(publisher(&publishing, "faithful".into()).faithful());
    recorder.reach(1).await;
    lasting.spawn(publisher(&publishing, "conditional".into()).conditional());
    lasting.spawn(publisher(&publishing, "ingesting".into()).ingesting());
    let mut followers = JoinSet::new();
    for _ in 0..2 {
        followers.spawn(follow(server.client().await, TOPIC.into(), recorder.clone(), last.clone()));
    }
    for round in 0..rounds {
        let publishing =
            Publishing { client: server.client().await, recorder: &recorder, stop: stop.clone() };
        let mut publishers = JoinSet::new();
        for i in 0..2 {
            publishers.spawn(publisher(&publishing, format!("r{round}p{i}")).exchanging());
        }
        recorder.reach(rng.u64(1..400)).await;
        server.kill9().await;
        publishers.join_all().await;
        if rng.u8(..3) == 0 {
            kill_inside_recovery(&mut server, &mut rng).await;
        }
        server.restart().await;
    }
    done.send_replace(true);
    within(60, "the lasting publishers", lasting.join_all()).await;
    let topic = read_all(&mut server.client().await, TOPIC).await;
    end.send_replace(topic.last().map(|seen| seen.offset + 1));
    within(120, "the followers", followers.join_all()).await;
    let summary = assert_sound(&recorder.history(&topic));
    println!("{rounds} kills: {summary:?}");
    assert!(summary.acknowledged >= rounds && summary.delivered == 2 * topic.len(), "the load was real");
}

/// Starts the server and kills it at a random moment of its first tenth of a second: during recovery, or during the
/// checkpoint that follows.
async fn kill_inside_recovery(server: &mut Server, rng: &mut Rng) {
    for _ in 0..rng.u8(1..4) {
        server.start_again();
        // A random delay, not a wait for a condition.
        tokio::time::sleep(Duration::from_micros(rng.u64(..100_000))).await;
        server.kill9().await;
    }
}
