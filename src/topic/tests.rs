//! The subscription loop and the publisher against a log on a simulated disk, on a paused clock.

use std::time::Duration;

use super::{Delivery, Error, From, Notice, OutOfRange, ReadLimit, Subscribe, Subscription, Topics};
use crate::config::Config;
use crate::record::block::Blocks;
use crate::record::testing::batch_of;
use crate::record::{Epoch, Offset, Position, TopicName, UnixMicros};
use crate::storage::embedded::simulated::{SimulatedLog, block_on};
use crate::storage::{self, Retention, Start};

const TIME: UnixMicros = UnixMicros(1_700_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn name() -> TopicName {
    TopicName::parse("orders").unwrap()
}

async fn served(config: Config) -> (Topics, SimulatedLog) {
    let (topics, log) = (Topics::new(&config), SimulatedLog::new());
    topics.open(log.log());
    topics.create(name(), Retention::default()).await.unwrap();
    (topics, log)
}

async fn subscribe(topics: &Topics, start: Start) -> Subscription {
    topics
        .subscribe(&name(), Subscribe::from(From::Start(start)), topics.shutdown_signal().child())
        .await
        .unwrap()
}

async fn limited(topics: &Topics, start: Start, limit: ReadLimit) -> Subscription {
    let request = Subscribe { limit, ..Subscribe::from(From::Start(start)) };
    topics.subscribe(&name(), request, topics.shutdown_signal().child()).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> Delivery {
    subscription.next().await.expect("goes on").expect("no error")
}

/// Offset and value of every record delivered.
fn records(delivery: &Delivery) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for run in &delivery.runs {
        for block in Blocks::new(run) {
            let block = block.unwrap();
            for (i, record) in block.records().enumerate() {
                let value = String::from_utf8(record[2..].to_vec()).unwrap();
                found.push((block.first.get() + i as u64, value));
            }
        }
    }
    found
}

fn expected(from: u64, values: &[&str]) -> Vec<(u64, String)> {
    (from..).zip(values.iter().map(|value| (*value).to_owned())).collect()
}

/// All records up to the end of a limited subscription.
async fn drained(mut subscription: Subscription) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    while let Some(delivery) = subscription.next().await {
        found.extend(records(&delivery.unwrap()));
    }
    found
}

#[tokio::test(start_paused = true)]
async fn stored_and_live_records_come_through_one_path() {
    for flushed in [0, 1, 2] {
        let (topics, log) = served(Config::default()).await;
        for (n, values) in [&["a", "b"][..], &["c"]].into_iter().enumerate() {
            log.put("orders", values);
            if flushed == n + 1 {
                log.flush("orders");
            }
        }
        let mut subscription = subscribe(&topics, Start::Earliest).await;
        let (mut history, mut caught_up) = (Vec::new(), None);
        while caught_up.is_none() {
            let delivery = next(&mut subscription).await;
            history.extend(records(&delivery));
            assert_eq!((delivery.next.offset.get(), delivery.tail.get()), (history.len() as u64, 3));
            caught_up = delivery.notice;
        }
        assert_eq!(history, expected(0, &["a", "b", "c"]), "{flushed} batches are on disk only");
        assert_eq!(caught_up, Some(Notice::CaughtUp));
        log.put("orders", &["d"]);
        let live = next(&mut subscription).await;
        assert_eq!((records(&live), live.notice), (expected(3, &["d"]), None));
    }
}

#[tokio::test(start_paused = true)]
async fn small_live_batches_make_one_message() {
    let (topics, log) = served(Config::default()).await;
    let mut subscription = subscribe(&topics, Start::Latest).await;
    assert_eq!(next(&mut subscription).await.notice, Some(Notice::CaughtUp));
    for value in ["a", "b", "c"] {
        log.put("orders", &[value]);
    }
    assert_eq!(records(&next(&mut subscription).await), expected(0, &["a", "b", "c"]));
}

#[tokio::test(start_paused = true)]
async fn a_start_inside_a_batch_delivers_its_rest() {
    let (topics, log) = served(Config::default()).await;
    log.put("orders", &["a", "b", "c"]);
    log.put("orders", &["d"]);
    let mut subscription = subscribe(&topics, Start::At(Offset::new(2))).await;
    assert_eq!(records(&next(&mut subscription).await), expected(2, &["c", "d"]));
}

#[tokio::test(start_paused = true)]
async fn an_idle_subscription_gets_heartbeats_with_jitter() {
    let (topics, log) = served(Config::default()).await;
    let request = Subscribe {
        heartbeat_interval: Some(Duration::from_secs(10)),
        ..Subscribe::from(From::Start(Start::Latest))
    };
    let mut subscription =
        topics.subscribe(&name(), request, topics.shutdown_signal().child()).await.unwrap();
    next(&mut subscription).await;
    for _ in 0..5 {
        let before = tokio::time::Instant::now();
        let heartbeat = next(&mut subscription).await;
        assert!(heartbeat.runs.is_empty() && heartbeat.notice.is_none());
        let silence = before.elapsed();
        assert!((Duration::from_secs(9)..=Duration::from_millis(11_010)).contains(&silence), "{silence:?}");
    }
    // A delivery postpones the next heartbeat.
    tokio::time::sleep(Duration::from_secs(8)).await;
    log.put("orders", &["a"]);
    assert_eq!(records(&next(&mut subscription).await).len(), 1);
    let before = tokio::time::Instant::now();
    assert!(next(&mut subscription).await.runs.is_empty());
    assert!(before.elapsed() >= Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn limits_cut_inside_a_batch() {
    let (topics, log) = served(Config::default()).await;
    log.put("orders", &["a", "b"]);
    log.pass(HOUR);
    let later = log.put("orders", &["c", "d"]).time;
    let all = ["a", "b", "c", "d"];
    for max in 1..=4_u64 {
        let limit = ReadLimit { max_records: Some(max), ..ReadLimit::default() };
        let found = drained(limited(&topics, Start::Earliest, limit).await).await;
        assert_eq!(found, expected(0, &all[..max as usize]));
    }
    let limit = ReadLimit { max_bytes: Some(1), ..ReadLimit::default() };
    assert_eq!(drained(limited(&topics, Start::Earliest, limit).await).await, expected(0, &["a"]));
    let limit = ReadLimit { until: Some(later), ..ReadLimit::default() };
    assert_eq!(drained(limited(&topics, Start::Earliest, limit).await).await, expected(0, &["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn a_byte_limit_is_exceeded_by_one_record_only() {
    let (topics, log) = served(Config::default()).await;
    for _ in 0..4 {
        log.put("orders", &["0123456789", "0123456789", "0123456789"]);
    }
    for max in [30, 60, 61, 100, 200, 1000] {
        let limit = ReadLimit { max_bytes: Some(max), ..ReadLimit::default() };
        let mut subscription = limited(&topics, Start::Earliest, limit).await;
        let (mut bytes, mut count) = (0, 0);
        while bytes < max
            && let Ok(Some(delivery)) =
                tokio::time::timeout(Duration::from_secs(1), subscription.next()).await
        {
            let delivery = delivery.unwrap();
            bytes += delivery.runs.iter().map(|run| run.len() as u64).sum::<u64>();
            count += records(&delivery).len();
        }
        assert!(bytes <= max || count == 1, "{max}: {bytes} bytes, {count} records");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_at_tail_means_the_tail_at_the_start() {
    let (topics, log) = served(Config::default()).await;
    let limit = ReadLimit { stop_at_tail: true, ..ReadLimit::default() };
    // In an empty topic, one message has the position to resume at.
    let mut subscription = limited(&topics, Start::Earliest, limit).await;
    assert_eq!(next(&mut subscription).await.notice, Some(Notice::CaughtUp));
    assert!(subscription.next().await.is_none());
    log.put("orders", &["a"]);
    let subscription = limited(&topics, Start::Earliest, limit).await;
    log.put("orders", &["b"]);
    assert_eq!(drained(subscription).await, expected(0, &["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_start_out_of_range_follows_the_policy() {
    let (topics, log) = served(Config::default()).await;
    for value in ["a", "b", "c"] {
        log.put("orders", &[value]);
    }
    topics.trim(&name(), None, Offset::new(1)).await.unwrap();
    let ask = async |at, out_of_range| {
        let request = Subscribe { out_of_range, ..Subscribe::from(From::Start(Start::At(Offset::new(at)))) };
        topics.subscribe(&name(), request, topics.shutdown_signal().child()).await
    };
    for at in [0, 9] {
        let error = ask(at, OutOfRange::Fail).await.unwrap_err();
        match (at, error) {
            (0, Error::Storage(storage::Error::Trimmed { earliest, tail, .. }))
            | (9, Error::Storage(storage::Error::BeyondTail { earliest, tail, .. })) => {
                assert_eq!((earliest.get(), tail.get()), (1, 3));
            }
            other => panic!("{other:?}"),
        }
        let mut earliest = ask(at, OutOfRange::Earliest).await.unwrap();
        let gap = next(&mut earliest).await;
        assert_eq!((gap.notice, gap.next.offset.get()), (Some(Notice::Gap), 1));
        assert_eq!(records(&next(&mut earliest).await), expected(1, &["b", "c"]));
        let mut latest = ask(at, OutOfRange::Latest).await.unwrap();
        let gap = next(&mut latest).await;
        assert_eq!((gap.notice, gap.next.offset.get()), (Some(Notice::Gap), 3));
        assert_eq!(next(&mut latest).await.notice, Some(Notice::CaughtUp));
    }
}

#[tokio::test(start_paused = true)]
async fn trimming_under_a_reader_follows_the_policy() {
    for policy in [OutOfRange::Fail, OutOfRange::Earliest, OutOfRange::Latest] {
        let (topics, log) = served(Config::default()).await;
        for value in ["a", "b", "c"] {
            log.put("orders", &[value]);
        }
        let request = Subscribe { out_of_range: policy, ..Subscribe::from(From::Start(Start::Earliest)) };
        let mut subscription =
            topics.subscribe(&name(), request, topics.shutdown_signal().child()).await.unwrap();
        block_on(topics.trim(&name(), None, Offset::new(2))).unwrap();
        let Some(first) = subscription.next().await else { panic!("goes on") };
        if policy == OutOfRange::Fail {
            let error = first.unwrap_err();
            assert!(matches!(error, Error::Storage(storage::Error::Trimmed { .. })), "{error:?}");
            assert!(subscription.next().await.is_none());
            continue;
        }
        let gap = first.unwrap();
        let resume = if policy == OutOfRange::Earliest { 2 } else { 3 };
        assert_eq!((gap.notice, gap.next.offset.get()), (Some(Notice::Gap), resume));
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_deleted_under_a_reader_is_not_found_and_a_recreated_one_has_another_epoch() {
    for recreated in [false, true] {
        let (topics, _log) = served(Config::default()).await;
        let mut subscription = subscribe(&topics, Start::Latest).await;
        next(&mut subscription).await;
        block_on(topics.delete(&name(), None)).unwrap();
        if recreated {
            block_on(topics.create(name(), Retention::default())).unwrap();
        }
        let error = subscription.next().await.unwrap().unwrap_err();
        match error {
            Error::Storage(storage::Error::TopicNotFound) => assert!(!recreated),
            Error::Storage(storage::Error::EpochChanged { .. }) => assert!(recreated),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn positions_are_valid_in_their_epoch_only_and_create_no_topic() {
    let (topics, log) = served(Config::default()).await;
    log.put("orders", &["a", "b"]);
    let epoch = topics.get(&name()).await.unwrap().epoch();
    let at = |name: &str, epoch, offset| {
        let position = Position { epoch, offset: Offset::new(offset) };
        let name = TopicName::parse(name).unwrap();
        let topics = topics.clone();
        async move {
            topics
                .subscribe(&name, Subscribe::from(From::Position(position)), topics.shutdown_signal().child())
                .await
        }
    };
    let mut resumed = at("orders", epoch, 1).await.unwrap();
    assert_eq!(records(&next(&mut resumed).await), expected(1, &["b"]));
    let error = at("orders", Epoch::new(99), 1).await.unwrap_err();
    assert_eq!(error, storage::Error::EpochChanged { current: epoch, resume: Offset::ZERO }.into());
    assert_eq!(at("other", epoch, 0).await.unwrap_err(), storage::Error::TopicNotFound.into());
    assert_eq!(topics.list("", None, 10).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_the_position_to_resume_at() {
    let (topics, log) = served(Config::default()).await;
    log.put("orders", &["a"]);
    let mut idle = subscribe(&topics, Start::Earliest).await;
    next(&mut idle).await;
    let waiting = tokio::spawn(async move { (idle.next().await, idle.next().await, idle.next().await) });
    tokio::task::yield_now().await;
    topics.drain();
    let (notice, error, end) = waiting.await.unwrap();
    let notice = notice.unwrap().unwrap();
    assert_eq!((notice.notice, notice.next.offset.get()), (Some(Notice::Draining), 1));
    assert_eq!(error.unwrap().unwrap_err(), Error::Draining);
    assert!(end.is_none());
    let request = Subscribe::from(From::Start(Start::Earliest));
    let late = topics.subscribe(&name(), request, topics.shutdown_signal().child()).await;
    assert_eq!(late.err(), Some(Error::Draining));
    assert!(topics.get(&name()).await.is_ok(), "a call of one answer is served");
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_ends_a_subscription_at_the_tail() {
    let (topics, log) = served(Config::default()).await;
    let stored = log.put("orders", &["a"]).time;
    // The wall clock is not paused: this limit has passed for good.
    let past = ReadLimit { until: Some(UnixMicros(stored.0 + 1)), ..ReadLimit::default() };
    assert_eq!(drained(limited(&topics, Start::Earliest, past).await).await, expected(0, &["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_server_that_starts_for_a_limited_time() {
    let starting = Topics::new(&Config::default());
    assert_eq!(starting.get(&name()).await.err(), Some(Error::Starting));
    let early = starting.clone();
    let early = tokio::spawn(async move { early.get_or_create(&name()).await.map(drop) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    starting.open(SimulatedLog::new().log());
    early.await.unwrap().unwrap();
    let starting = Topics::new(&Config::default());
    let closing = starting.clone();
    let early = tokio::spawn(async move { closing.get(&name()).await.err() });
    tokio::task::yield_now().await;
    starting.drain();
    assert_eq!(early.await.unwrap(), Some(Error::Draining));
}

#[tokio::test]
async fn missing_topics_are_created_only_if_configured() {
    let (topics, _log) = served(Config { auto_create_topics: false, ..Config::default() }).await;
    let other = TopicName::parse("other").unwrap();
    assert!(topics.get_or_create(&other).await.is_err());
    let (topics, _log) = served(Config::default()).await;
    assert!(topics.get_or_create(&other).await.is_ok());
}

#[tokio::test]
async fn bytes_stay_admitted_until_the_append_completes() {
    let batch = batch_of(&["a"]);
    let config = Config { inflight_bytes_max: batch.weight(), ..Config::default() };
    let (topics, log) = served(config).await;
    log.hold_syncs(true);
    let publish = async |batch| {
        let topic = topics.get(&name()).await.unwrap();
        let permit = super::admit(topics.connections(), &batch).await?;
        super::publish(topic, permit, batch).await
    };
    let mut first = Box::pin(publish(batch.clone()));
    assert!(futures_util::poll!(&mut first).is_pending());
    // The call is cancelled, but its appended batches are still in memory.
    drop(first);
    let mut second = Box::pin(publish(batch));
    tokio::task::yield_now().await;
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(log.batches(), 1);
    log.hold_syncs(false);
    assert_eq!(second.await.unwrap().first.get(), 1);
}

/// A start in the future is not a start at the tail: batches stored before that time are not delivered.
#[tokio::test(start_paused = true)]
async fn a_start_at_a_future_time_delivers_nothing_stored_before_it() {
    for flushed in [false, true] {
        let (topics, log) = served(Config::default()).await;
        let stored = log.put("orders", &["a"]).time;
        let start = Start::Time(UnixMicros(stored.0 + 60 * HOUR.as_micros() as u64));
        let mut subscription = subscribe(&topics, start).await;
        assert_eq!(next(&mut subscription).await.notice, Some(Notice::CaughtUp));
        log.pass(30 * HOUR);
        log.put("orders", &["b", "c"]);
        assert!(futures_util::poll!(Box::pin(subscription.next())).is_pending());
        log.pass(29 * HOUR);
        log.put("orders", &["d"]);
        log.pass(HOUR);
        log.put("orders", &["e", "f"]);
        log.put("orders", &["g"]);
        if flushed {
            log.flush("orders");
        }
        let mut found = records(&next(&mut subscription).await);
        if found.len() < 3 {
            found.extend(records(&next(&mut subscription).await));
        }
        assert_eq!(found, expected(4, &["e", "f", "g"]), "on disk only: {flushed}");
        let limit = ReadLimit { max_records: Some(1), ..ReadLimit::default() };
        let few = limited(&topics, start, limit).await;
        assert_eq!(drained(few).await, expected(4, &["e"]));
    }
}

/// P9: a subscription that fails or ends at once creates no topic.
#[tokio::test]
async fn a_subscription_creates_a_topic_only_if_it_waits_for_records() {
    let position = Position { epoch: Epoch::new(1), offset: Offset::ZERO };
    let to_tail = ReadLimit { stop_at_tail: true, ..ReadLimit::default() };
    let over = ReadLimit { until: Some(TIME), ..ReadLimit::default() };
    let some = ReadLimit { max_records: Some(3), ..ReadLimit::default() };
    let none = ReadLimit::default();
    let (fail, latest) = (OutOfRange::Fail, OutOfRange::Latest);
    let of = |start| From::Start(start);
    let at = |offset| From::Start(Start::At(Offset::new(offset)));
    for (from, out_of_range, limit, creates) in [
        (of(Start::Latest), fail, none, true),
        (of(Start::Earliest), fail, some, true),
        (of(Start::Last(5)), fail, none, true),
        (of(Start::Time(TIME)), fail, none, true),
        (at(0), fail, none, true),
        (at(5), latest, none, true),
        (at(5), fail, none, false),
        (From::Position(position), latest, none, false),
        (of(Start::Earliest), fail, to_tail, false),
        (at(0), latest, to_tail, false),
        (of(Start::Earliest), fail, over, false),
    ] {
        for (auto_create_on_subscribe, creates) in [(true, creates), (false, false)] {
            let config = Config { auto_create_on_subscribe, ..Config::default() };
            let (topics, log) = (Topics::new(&config), SimulatedLog::new().log());
            topics.open(log.clone());
            let request = Subscribe { out_of_range, limit, ..Subscribe::from(from) };
            let found = topics.subscribe(&name(), request, topics.shutdown_signal().child()).await;
            let what = format!("{from:?} {out_of_range:?} {limit:?} {auto_create_on_subscribe}");
            assert_eq!(found.is_ok(), creates, "{what}");
            assert!(creates || found.err() == Some(storage::Error::TopicNotFound.into()), "{what}");
            assert_eq!(log.known(&name()).is_some(), creates, "{what}");
        }
    }
}
