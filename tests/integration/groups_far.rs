//! A replica that is far from NATS settles records beside one that is near and saturated with members.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamway::client::{Client, ConsumerOptions, Options, PublisherOptions, Received, Record};
use streamway::proto::v1::{GroupSettings, Settlement, SettlementResult};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::harness::make::{published, record};
use crate::harness::member::{Member, create, join, only};
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Server, within};

const TOPIC: &str = "jobs";
const GROUP: &str = "workers";
/// Delay of the far replica's connection to NATS, in each direction.
const WAY: Duration = Duration::from_millis(5);
/// Members at the near replica, each of which handles so many records at a time.
const NEAR: usize = 2;
const AT_ONCE: usize = 100;
/// Settlements through the far replica.
const FAR: usize = 50;

/// Publishes for as long as it is polled.
async fn publish(client: Client) {
    let publisher = client.publisher(TOPIC, PublisherOptions::default()).unwrap();
    loop {
        publisher.publish_nowait(&Record::new("job")).await.unwrap();
    }
}

/// Takes and settles records one by one, and returns how long each settlement took, and the number of those that were not
/// confirmed. A call that ends, as the owner was too busy to answer its replica, is made anew.
async fn timed(far: &Server, count: usize) -> (Vec<Duration>, usize) {
    let (mut took, mut failed) = (Vec::new(), 0);
    while took.len() < count {
        let Ok(mut member) = Member::join(far, join(TOPIC, GROUP)).await else { continue };
        let mut given = 0;
        while took.len() < count {
            given += 1;
            member.credit(given).await;
            let Ok(settled) = settled(&mut member).await else {
                failed += 1;
                break;
            };
            match settled {
                Some(time) => took.push(time),
                None => failed += 1,
            }
        }
    }
    took.sort_unstable();
    (took, failed)
}

/// Takes and settles a record. None if its lease is lost.
async fn settled(member: &mut Member) -> Result<Option<Duration>, Status> {
    let one = loop {
        match member.taken.pop_front() {
            Some(one) => break one,
            None => assert!(member.read().await?, "the call goes on"),
        }
    };
    let begun = Instant::now();
    let acks = vec![only(one.offset)];
    member.settle(Settlement { token: one.token, acks, ..Settlement::default() }).await;
    loop {
        if let Some(outcome) = member.outcomes.pop_front() {
            let is_settled = outcome.result() == SettlementResult::Settled;
            return Ok(is_settled.then(|| begun.elapsed()));
        }
        assert!(member.read().await?, "the call goes on");
    }
}

/// P12: the far member's settlements are confirmed as long as the near ones saturate their replica and the owner, which is
/// the near or the far one. The times are printed; `docs/guarantees.md` tells those of a quiet machine.
async fn far_beside_near(is_owner_far: bool) {
    let nats = Nats::single("");
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    proxy.delay(WAY);
    let replica = async |url: String| {
        Server::with(&["--engine", "jetstream", "--nats-replicas", "1", "--nats-url", &url]).await
    };
    let (near, far) = (replica(nats.url()).await, replica(format!("nats://{}", proxy.at)).await);
    let client = Client::new(Options::new(near.url())).unwrap();
    let (stop, handled) = (CancellationToken::new(), Arc::<AtomicU64>::default());
    published(&mut near.client().await, TOPIC, vec![record("first")]).await;
    let publishing = tokio::spawn(publish(client.clone()));
    create(if is_owner_far { &far } else { &near }, TOPIC, GROUP, GroupSettings::default()).await;
    let mut near_members = JoinSet::new();
    for _ in 0..NEAR {
        let options =
            ConsumerOptions { concurrency: AT_ONCE, prefetch: AT_ONCE, ..ConsumerOptions::new(TOPIC, GROUP) };
        let (consumer, handled, stop) = (client.consumer(options).unwrap(), handled.clone(), stop.clone());
        let handler = move |_: Received| {
            handled.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        };
        near_members.spawn(async move { consumer.run(handler, stop.cancelled_owned()).await });
    }
    let busy = async {
        while handled.load(Ordering::Relaxed) < 5_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(60, "the near members are busy", busy).await;
    let (before, begun) = (handled.load(Ordering::Relaxed), Instant::now());
    let (took, failed) = within(180, "settlements", timed(&far, FAR)).await;
    let (meanwhile, lasted) = (handled.load(Ordering::Relaxed) - before, begun.elapsed());
    println!(
        "owner far: {is_owner_far}; settled after p50 {:?} p99 {:?} max {:?}, {failed} not confirmed; near {meanwhile} in {lasted:?}",
        took[FAR / 2],
        took[FAR * 99 / 100],
        took[FAR - 1]
    );
    assert!(meanwhile > FAR as u64, "the near ones are not held up: {meanwhile}");
    assert!(failed < FAR / 4, "settlements are confirmed: {failed} are not");
    publishing.abort();
    stop.cancel();
    for ended in within(60, "the near members", near_members.join_all()).await {
        assert!(ended.expect("it went well").acknowledged > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_from_nats_settles_beside_near_ones_that_saturate_their_replica() {
    far_beside_near(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_far_from_nats_settles_for_near_members_that_saturate_their_replica() {
    far_beside_near(true).await;
}
