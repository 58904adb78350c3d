//! Tests of listing topics and request ids at low cost, and of forgetting deleted topics.

use futures_util::TryStreamExt;

use super::{config, created, open, put};
use crate::record::Offset;
use crate::storage::conformance::{batch, name};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Hold, Log};

/// Topics that another replica deleted are forgotten, and samples contain all existing topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_replica_deleted_is_forgotten() {
    const TOPICS: usize = 20;
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    for n in 0..TOPICS {
        let text = format!("t{n}");
        created(&*a, &text).await;
        let topic = b.get(&name(&text)).await.unwrap();
        put(&*topic, n as u64).await.unwrap();
    }
    assert_eq!((b.sample().await.unwrap().len(), b.topics().len()), (TOPICS, TOPICS));
    let held = b.nats.cache.held();
    for n in 1..TOPICS {
        a.delete(&name(&format!("t{n}")), None).await.unwrap();
    }
    let left = b.sample().await.unwrap();
    assert_eq!(left.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["t0"]);
    assert_eq!(b.topics().keys().cloned().collect::<Vec<_>>(), [name("t0")]);
    // Their caches are dropped too, once the followers have noticed.
    super::eventually("most bytes are gone", std::time::Duration::from_secs(10), async || {
        b.nats.cache.held() < held / 4
    })
    .await;
    // A new topic of the same name is another topic.
    created(&*a, "t1").await;
    assert_eq!(b.sample().await.unwrap().len(), 2);
}

/// NATS takes seconds to list all streams if there are many. A server that may not request that list can still list,
/// count and sample topics, and one sample requests only a part of many topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_listed_at_the_cost_of_a_page() {
    const TOPICS: usize = 130;
    let user = "authorization { users: [ { user: me, password: \"right\", permissions: { publish: { deny: \
                [\"$JS.API.STREAM.LIST\"] } } } ] }";
    let nats = Nats::single(user);
    let mut config = config(&nats);
    config.nats.user = "me".into();
    config.nats.password = String::from("right").into();
    let log = open(&config).await;
    for n in 0..TOPICS {
        created(&*log, &format!("many.{n:03}")).await;
    }
    let asked = async || log.nats.context.query_account().await.unwrap().requests.total;
    // A page requests the names and its own topics.
    let before = asked().await;
    let page = log.list("many.", Some("many.019"), 10).await.unwrap();
    let names: Vec<_> = page.iter().map(|info| info.name.as_str().to_owned()).collect();
    assert_eq!(names, (20..30).map(|n| format!("many.{n:03}")).collect::<Vec<_>>());
    let cost = asked().await - before;
    assert!(cost <= 10 + 10, "{cost} requests for a page of 10");
    let before = asked().await;
    assert_eq!(log.names("many.", None, 1000).await.unwrap().len(), TOPICS);
    let cost = asked().await - before;
    assert!(cost <= 10, "{cost} requests for names");
    // The first sample requests every topic, later ones only those with the oldest results.
    assert_eq!(log.sample().await.unwrap().len(), TOPICS);
    let before = asked().await;
    assert_eq!(log.sample().await.unwrap().len(), TOPICS);
    let cost = asked().await - before;
    assert!(cost <= 100 + 10, "{cost} requests for a sample");
}

/// A page of request ids begins where the one before it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_listed_at_the_cost_of_a_page() {
    const IDS: usize = 800;
    const PAGE: usize = 100;
    /// Number of messages that are requested at a time.
    const AT_ONCE: u64 = 200;
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    for n in 0..IDS as u64 {
        let batch = batch(&[n], 10).with_request_id(&format!("id-{n}")).unwrap();
        assert_eq!(topic.appender().append(vec![batch], Hold::default()).await.failure, None);
    }
    let delivered = async || {
        let stream = log.nats.context.get_stream("streamway-t").await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        consumers.iter().map(|consumer| consumer.delivered.consumer_sequence).sum::<u64>()
    };
    let (before, mut from, mut firsts) = (delivered().await, Offset::ZERO, Vec::new());
    loop {
        let page = topic.request_ids(from, PAGE).await.unwrap();
        firsts.extend(page.iter().map(|id| id.first));
        let Some(last) = page.last() else { break };
        from = last.first.plus(1);
    }
    assert_eq!(firsts.len(), IDS);
    assert!(firsts.is_sorted_by(|a, b| a < b));
    let (pages, cost) = ((IDS / PAGE) as u64, delivered().await - before);
    // A page that began with the window would read half of it on average.
    assert!(cost <= pages * AT_ONCE + AT_ONCE, "{cost} messages for {pages} pages");
    assert!(topic.request_ids(Offset::MAX, PAGE).await.unwrap().is_empty());
}
