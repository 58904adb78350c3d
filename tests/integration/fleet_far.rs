//! A replica that is far from NATS publishes beside one that is near and saturated with publishers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::make::{earliest, publish, published, record, subscribe, to_tail};
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Reader, Server, StreamClient, within};

const TOPIC: &str = "far";
/// Delay of the far replica's connection to NATS, in each direction.
const WAY: Duration = Duration::from_millis(5);
/// Publishers through the near replica, each of which publishes without a pause.
const NEAR: usize = 8;
/// Publishes through the far replica.
const FAR: usize = 200;

/// Publishes one record after the other, and returns how long each took.
async fn timed(client: &mut StreamClient, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let publishing = client.publish(publish(TOPIC, vec![record("far")]));
        within(20, "an answer", publishing).await.expect("nobody fails");
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took
}

/// Nobody fails, and the far publisher goes on as long as the near ones do. The times are printed; `docs/guarantees.md` tells
/// those of a quiet machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_publisher_is_not_starved_by_near_ones_that_saturate_their_replica() {
    let nats = Nats::single("");
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    proxy.delay(WAY);
    let replica = async |url: String| {
        Server::with(&["--engine", "jetstream", "--nats-replicas", "1", "--nats-url", &url]).await
    };
    let (near, far) = (replica(nats.url()).await, replica(format!("nats://{}", proxy.at)).await);
    let mut client = far.client().await;
    published(&mut client, TOPIC, vec![record("far")]).await;
    let alone = timed(&mut client, FAR / 2).await;

    let (stop, stored) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut publishers = JoinSet::new();
    for _ in 0..NEAR {
        let (mut client, stop, stored) = (near.client().await, stop.clone(), stored.clone());
        publishers.spawn(async move {
            while !stop.load(Ordering::Acquire) {
                let publishing = client.publish(publish(TOPIC, vec![record("near")]));
                within(20, "an answer", publishing).await.expect("nobody fails");
                stored.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let busy = async {
        while stored.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(20, "the near publishers are busy", busy).await;
    let (before, begun) = (stored.load(Ordering::Relaxed), Instant::now());
    let beside = timed(&mut client, FAR).await;
    let (meanwhile, lasted) = (stored.load(Ordering::Relaxed) - before, begun.elapsed());
    stop.store(true, Ordering::Release);
    publishers.join_all().await;

    let (middle, last) = (FAR / 2, FAR * 99 / 100);
    println!(
        "alone p50 {:?} p99 {:?}; beside p50 {:?} p99 {:?} max {:?}; near {meanwhile} in {lasted:?}",
        alone[FAR / 4],
        alone[FAR / 2 * 99 / 100],
        beside[middle],
        beside[last],
        beside[FAR - 1]
    );
    assert!(meanwhile > FAR as u64, "the near ones are not held up: {meanwhile}");
    let request = to_tail(subscribe(TOPIC, earliest()));
    let mut reader = Reader::open(&mut client, request).await.unwrap().sparse();
    let all = reader.rest().await.unwrap();
    let of_far = all.iter().filter(|seen| seen.text() == "far").count();
    assert_eq!(of_far, 1 + FAR / 2 + FAR, "each is stored once");
    assert_eq!(all.len() - of_far, usize::try_from(stored.load(Ordering::Relaxed)).unwrap());
}
