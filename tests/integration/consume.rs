//! The consumer of the client library: every record is handled, whatever is killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamway::client::{
    Client, Consumer, ConsumerOptions, Handled, Options, PublisherOptions, Received, Record, Rejection,
    Summary,
};
use streamway::proto::v1::{DeliveryOrder, Group, GroupSettings};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::harness::proxy::Proxy;
use crate::harness::{Server, within};

fn client(server: &Server) -> Client {
    Client::new(Options::new(server.url())).unwrap()
}

/// Publishes the numbers from `from` up to `to`, with `keys` different keys.
async fn publish(client: &Client, topic: &str, numbers: std::ops::Range<u64>, keys: u64) {
    let publisher = client.publisher(topic, PublisherOptions::default()).unwrap();
    for number in numbers {
        let key = format!("k{}", number % keys).into_bytes();
        let record = Record { key: key.into(), ..Record::new(number.to_string()) };
        publisher.publish_nowait(&record).await.unwrap();
    }
    publisher.close().await.unwrap();
}

async fn create(client: &Client, topic: &str, settings: GroupSettings) {
    let group = Group { topic: topic.into(), name: "g".into(), settings: Some(settings), ..Group::default() };
    client.groups().create(group, None).await.unwrap();
}

fn consumer(client: &Client, topic: &str, concurrency: usize) -> Consumer {
    let options = ConsumerOptions { concurrency, prefetch: concurrency, ..ConsumerOptions::new(topic, "g") };
    client.consumer(options).unwrap()
}

/// Waits until nothing is left to do for a group.
async fn all_settled(client: &Client, topic: &str) {
    let settled = async {
        loop {
            let status = client.groups().get(topic, "g").await.ok().and_then(|group| group.status);
            if status.is_some_and(|status| status.lag_records == 0 && status.tail > 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(180, "everything to be settled", settled).await;
}

/// Records that handlers have seen, by key, in the order in which they ended.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u64>>>>);

impl Seen {
    fn note(&self, received: &Received) {
        let number = std::str::from_utf8(received.value()).unwrap().parse().unwrap();
        self.0.lock().unwrap().entry(received.key().to_vec()).or_default().push(number);
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().values().flatten().copied().collect()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// P11: two consumers share the records; each is handled once where nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_the_records() {
    const RECORDS: u64 = 2_000;
    let server = Server::start().await;
    let client = client(&server);
    publish(&client, "t", 0..RECORDS, 7).await;
    create(&client, "t", GroupSettings::default()).await;
    let (seen, stop) = (Seen::default(), CancellationToken::new());
    let run = |consumer: Consumer| {
        let (seen, stop) = (seen.clone(), stop.clone());
        let handler = move |received: Received| {
            let seen = seen.clone();
            async move {
                seen.note(&received);
                tokio::task::yield_now().await;
                Ok(())
            }
        };
        tokio::spawn(async move { consumer.run(handler, stop.cancelled_owned()).await })
    };
    let both = [run(consumer(&client, "t", 8)), run(consumer(&client, "t", 8))];
    all_settled(&client, "t").await;
    stop.cancel();
    let mut acknowledged = 0;
    for one in both {
        let summary: Summary = within(20, "a consumer to leave", one).await.unwrap().unwrap();
        assert!(summary.acknowledged > 0 && summary.lost == 0, "{summary:?}");
        acknowledged += summary.acknowledged;
    }
    assert_eq!((acknowledged, seen.count()), (RECORDS, RECORDS as usize));
    assert_eq!(client.groups().get("t", "g").await.unwrap().status.unwrap().member_count, 0);
}

/// P11, P12, P14: kills, drains and cuts under load, in the order of the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_handles_every_record_in_key_order_across_restarts_and_cuts() {
    const RECORDS: u64 = 3_000;
    let mut server = Server::start().await;
    let direct = client(&server);
    create_topic_and_group(&direct).await;
    let proxy = Proxy::to(server.listen()).await;
    let through = Client::new(Options::new(format!("http://{}", proxy.at))).unwrap();
    let (seen, stop) = (Seen::default(), CancellationToken::new());
    let handled = seen.clone();
    let handler = move |received: Received| {
        let handled = handled.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if received.delivery() == 1 && received.offset().get().is_multiple_of(97) {
                return Err(Rejection::retry("once"));
            }
            handled.note(&received);
            Ok(())
        }
    };
    let (consumer, stopped) = (consumer(&through, "t", 16), stop.clone().cancelled_owned());
    let consuming = tokio::spawn(async move { consumer.run(handler, stopped).await });
    for round in 0..3 {
        publish(&direct, "t", round * RECORDS / 3..(round + 1) * RECORDS / 3, 11).await;
        match round {
            0 => proxy.cut(),
            1 => {
                server.kill9().await;
                server.restart().await;
            }
            _ => {
                server.sigterm().await;
                server.restart().await;
            }
        }
    }
    all_settled(&direct, "t").await;
    stop.cancel();
    let summary = within(20, "the consumer to leave", consuming).await.unwrap().unwrap();
    assert_eq!(seen.numbers(), (0..RECORDS).collect(), "{summary:?}");
    assert!(summary.refused > 0, "{summary:?}");
    // The first results of each key are in order. Repeats, which are allowed, go back.
    for (key, numbers) in seen.0.lock().unwrap().iter() {
        let mut next = None;
        for number in numbers {
            assert!(next.is_none_or(|next| *number <= next), "{key:?} skips to {number}: {numbers:?}");
            next = next.max(Some(number + 11));
        }
    }
}

async fn create_topic_and_group(client: &Client) {
    client.topics().create("t", None).await.unwrap();
    let settings = GroupSettings { order: DeliveryOrder::Key.into(), ..GroupSettings::default() };
    create(client, "t", settings).await;
}

/// A lease lasts as long as its handler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_keeps_its_lease() {
    let server = Server::start().await;
    let client = client(&server);
    publish(&client, "t", 0..1, 1).await;
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    create(&client, "t", GroupSettings { ack_deadline: second, ..GroupSettings::default() }).await;
    let (done, seen) = (CancellationToken::new(), Seen::default());
    let (ended, noted) = (done.clone(), seen.clone());
    let handler = move |received: Received| {
        let (ended, noted) = (ended.clone(), noted.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(3500)).await;
            assert!(!received.is_lost());
            noted.note(&received);
            ended.cancel();
            Ok(())
        }
    };
    let summary = within(20, "it", consumer(&client, "t", 4).run(handler, done.cancelled())).await.unwrap();
    assert_eq!((summary.acknowledged, summary.lost, seen.count()), (1, 0, 1));
}

/// A record that was not begun at a stop is given back, and not counted as delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_has_begun_and_returns_the_rest() {
    let server = Server::start().await;
    let client = client(&server);
    publish(&client, "t", 0..10, 1).await;
    create(&client, "t", GroupSettings::default()).await;
    let (begun, stop, release) =
        (Arc::new(Notify::new()), CancellationToken::new(), CancellationToken::new());
    let (at_work, released) = (Arc::clone(&begun), release.clone());
    let handler = move |_| {
        let (at_work, released) = (Arc::clone(&at_work), released.clone());
        async move {
            at_work.notify_one();
            released.cancelled().await;
            Ok(())
        }
    };
    let options = ConsumerOptions { prefetch: 5, ..ConsumerOptions::new("t", "g") };
    let (consumer, stopped) = (client.consumer(options).unwrap(), stop.clone().cancelled_owned());
    let consuming = tokio::spawn(async move { consumer.run(handler, stopped).await });
    within(20, "a handler", begun.notified()).await;
    stop.cancel();
    release.cancel();
    let summary = within(20, "the end", consuming).await.unwrap().unwrap();
    // The handlers that had begun end well.
    assert!((1..=2).contains(&summary.acknowledged), "{summary:?}");
    let next = |received: Received| std::future::ready(first_deliveries_only(&received));
    let options =
        ConsumerOptions { deliveries_max: Some(10 - summary.acknowledged), ..ConsumerOptions::new("t", "g") };
    let rest =
        within(20, "the rest", client.consumer(options).unwrap().run(next, std::future::pending())).await;
    assert_eq!(rest.unwrap().acknowledged, 10 - summary.acknowledged);
}

fn first_deliveries_only(received: &Received) -> Handled {
    assert_eq!(received.delivery(), 1);
    Ok(())
}

/// A handler that panics, one that fails and one that gives up end no consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_delivered_again_and_hopeless_records_go_to_the_dead_letters() {
    let server = Server::start().await;
    let client = client(&server);
    publish(&client, "t", 0..3, 3).await;
    let settings = GroupSettings { dead_letter_topic: "t.failed".into(), ..GroupSettings::default() };
    create(&client, "t", settings).await;
    let handler = |received: Received| async move {
        match (received.offset().get(), received.delivery()) {
            (0, 1) => panic!("a handler that panics"),
            (1, 1) => Err(Rejection::retry("busy")),
            (2, _) => Err(Rejection::dead_letter("hopeless")),
            _ => Ok(()),
        }
    };
    let options = ConsumerOptions { deliveries_max: Some(5), ..ConsumerOptions::new("t", "g") };
    let run = client.consumer(options).unwrap().run(handler, std::future::pending());
    let summary = within(20, "five deliveries", run).await.unwrap();
    let expected = Summary { acknowledged: 2, refused: 2, dead_lettered: 1, ..Summary::default() };
    assert_eq!(summary, expected);
    let given_up = async {
        while client.topics().get("t.failed").await.map_or(0, |topic| topic.tail) != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(20, "the dead letter", given_up).await;
}

/// P13: a handler that is at work while the server is restarted keeps its lease, though it works for longer than the
/// deadline, and no handler runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handler_runs_twice_over_planned_restarts() {
    const RECORDS: u64 = 8;
    let mut server = Server::start().await;
    let client = client(&server);
    publish(&client, "t", 0..RECORDS, 3).await;
    let ack_deadline = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    create(&client, "t", GroupSettings { ack_deadline, ..GroupSettings::default() }).await;
    let (begun, seen, release) = (Arc::new(Semaphore::new(0)), Seen::default(), CancellationToken::new());
    let stop = CancellationToken::new();
    let run = |concurrency| {
        let (begun, seen, release) = (begun.clone(), seen.clone(), release.clone());
        let handler = move |received: Received| {
            let (begun, seen, release) = (begun.clone(), seen.clone(), release.clone());
            async move {
                seen.note(&received);
                begun.add_permits(1);
                release.cancelled().await;
                assert!(!received.is_lost());
                Ok(())
            }
        };
        let (consumer, stopped) = (consumer(&client, "t", concurrency), stop.clone().cancelled_owned());
        tokio::spawn(async move { consumer.run(handler, stopped).await })
    };
    let first = run(RECORDS as usize);
    let all = begun.acquire_many(RECORDS as u32);
    within(20, "all handlers", all).await.unwrap().forget();
    let second = run(4);
    for _ in 0..2 {
        server.sigterm().await;
        server.restart().await;
        let back = async {
            loop {
                let group = client.groups().get("t", "g").await.ok();
                let members = group.and_then(|group| group.status).map(|status| status.members);
                if members.is_some_and(|members| {
                    members.iter().any(|member| member.is_connected && member.leased_records == RECORDS)
                }) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(20, "the session to come back", back).await;
    }
    // The handlers work for longer than the deadline in all.
    tokio::time::sleep(Duration::from_secs(5)).await;
    release.cancel();
    all_settled(&client, "t").await;
    stop.cancel();
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(
        (first.acknowledged, first.lost, second.acknowledged),
        (RECORDS, 0, 0),
        "{first:?} {second:?}"
    );
    assert_eq!(seen.count(), RECORDS as usize);
}
