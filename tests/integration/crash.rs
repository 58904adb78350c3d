//! kill -9 under load: what was acknowledged is there, once, in order.

use fastrand::Rng;
use streamway::proto::v1::Position;
use tokio::sync::watch;

use crate::harness::load::{Acks, Journal, persistent, pipelined, verify};
use crate::harness::make::{at, earliest, subscribe};
use crate::harness::{Reader, Seen, Server, StreamClient, read_all, seed, soak, within};

const TOPIC: &str = "crash";

/// P1, P2, P3, P4, P5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_repeats_and_reorders_nothing_acknowledged() {
    let rounds = if soak() { 200 } else { 20 };
    let mut rng = Rng::with_seed(seed());
    // Small files, so that checkpoints and segment changes happen under the kills.
    let mut server =
        Server::with(&["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"]).await;
    let (done, stop) = watch::channel(false);
    let acks = Acks::default();
    let faithful = tokio::spawn(persistent(
        server.client().await,
        TOPIC.into(),
        "faithful".into(),
        rng.fork(),
        acks.clone(),
        stop.clone(),
    ));
    acks.reach(1).await;
    let (end, last) = watch::channel(None);
    let follower = tokio::spawn(follow(server.client().await, last));

    let mut journals = Vec::new();
    for round in 0..rounds {
        let mut publishers = Vec::new();
        for publisher in 0..3 {
            let name = format!("r{round}p{publisher}");
            let client = server.client().await;
            let publisher = pipelined(client, TOPIC.into(), name, rng.fork(), acks.clone(), stop.clone());
            publishers.push(tokio::spawn(publisher));
        }
        acks.reach(acks.count() + rng.u64(1..400)).await;
        server.kill9().await;
        for publisher in publishers {
            journals.push(publisher.await.expect("a publisher's own checks"));
        }
        server.restart().await;
    }
    done.send_replace(true);
    journals.push(within(60, "the faithful publisher", faithful).await.expect("its own checks"));

    let topic = read_all(&mut server.client().await, TOPIC).await;
    let found = verify(&journals, &topic);
    println!("{rounds} kills, {} records: {found:?}", topic.len());
    assert!(found.acknowledged >= rounds, "the load was real");
    end.send_replace(topic.last().map(|seen| seen.offset + 1));
    let followed = within(120, "the follower", follower).await.expect("its own checks");
    assert_eq!(followed.len(), topic.len());
    assert!(followed.iter().zip(&topic).all(|(a, b)| a.offset == b.offset && a.record == b.record));
    assert_journals_differ(&journals);
}

/// Subscribes, and after every cut subscribes again at `next`, until it has seen `end` (P3).
async fn follow(mut client: StreamClient, mut end: watch::Receiver<Option<u64>>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut next: Option<Position> = None;
    loop {
        let start = next.as_ref().map_or_else(earliest, at);
        let Ok(mut reader) = Reader::open(&mut client, subscribe(TOPIC, start)).await else {
            // The server is down or starting: this is the client's back-off.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        loop {
            let reached = |end: &Option<u64>| end.is_some_and(|end| end <= seen.len() as u64);
            if reached(&end.borrow_and_update()) {
                return seen;
            }
            tokio::select! {
                _ = end.changed() => {}
                more = reader.records() => {
                    let Ok(Some(more)) = more else { break };
                    assert_eq!(more[0].offset, seen.len() as u64, "goes on exactly where it was cut off");
                    seen.extend(more);
                    next.clone_from(&reader.next);
                }
            }
        }
    }
}

/// The check is worth nothing where two batches look alike.
fn assert_journals_differ(journals: &[Journal]) {
    let mut all: Vec<&String> = journals.iter().flatten().flat_map(|sent| &sent.values).collect();
    let before = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), before);
}
