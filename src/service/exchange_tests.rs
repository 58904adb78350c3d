//! The Exchange protocol, against a log on a simulated disk.

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::exchange::Exchange;
use super::status::Error;
use super::{Streams, request};
use crate::config::Config;
use crate::proto::v1;
use crate::record::TopicName;
use crate::record::testing::records_of;
use crate::storage::Retention;
use crate::storage::embedded::simulated::{SimulatedLog, block_on, wait_until};
use crate::topic::Topics;
use crate::wire::{ExchangeRequest, ExchangeResponse, MALFORMED, PublishRequest};

type Requests = UnboundedReceiverStream<Result<ExchangeRequest, Status>>;

struct Call {
    topics: Topics,
    log: SimulatedLog,
    requests: Option<mpsc::UnboundedSender<Result<ExchangeRequest, Status>>>,
    responses: Exchange<Requests>,
}

impl Call {
    async fn new(config: Config) -> Self {
        let (topics, log) = (Topics::new(&config), SimulatedLog::new());
        topics.open(log.log());
        let (requests, taken) = mpsc::unbounded_channel();
        let streams = Streams::new(topics.clone(), crate::auth::Auth::open(Default::default()), &config);
        let call = super::call::Call::begin(&streams, &http::Extensions::new()).expect("everybody may");
        let responses = Exchange::new(streams, call, UnboundedReceiverStream::new(taken), "".into());
        Self { topics, log, requests: Some(requests), responses }
    }

    /// Makes a call on a topic that exists, so that the call need not wait for the log before its first append.
    async fn on_topic(config: Config) -> Self {
        let call = Self::new(config).await;
        block_on(call.topics.create(TopicName::parse("orders").unwrap(), Retention::default())).unwrap();
        call
    }

    /// Makes a call and sends its open message.
    async fn open() -> Self {
        let call = Self::on_topic(Config::default()).await;
        call.send(open("orders"));
        call
    }

    /// Polls the call, which must have no response yet.
    async fn work(&mut self) {
        let next = tokio::task::unconstrained(self.responses.next());
        assert!(futures_util::poll!(next).is_pending());
    }

    fn send(&self, request: ExchangeRequest) {
        let requests = self.requests.as_ref().expect("not closed yet");
        requests.send(Ok(request)).expect("the call reads");
    }

    fn publish(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.send(publish(number));
        }
    }

    async fn next(&mut self) -> Option<Result<ExchangeResponse, Status>> {
        // Otherwise tokio's cooperative budget would interrupt the channel, which replaces the client, every 128
        // messages.
        tokio::task::unconstrained(self.responses.next()).await
    }

    /// Returns the numbers that are acknowledged until the call ends, and the status with which it ends.
    async fn finish(&mut self) -> (Vec<u64>, Option<Status>) {
        let mut numbers = Vec::new();
        loop {
            match self.next().await {
                Some(Ok(response)) => numbers.extend(response.receipts.iter().map(|r| r.number)),
                Some(Err(status)) => {
                    assert!(self.next().await.is_none());
                    return (numbers, Some(status));
                }
                None => return (numbers, None),
            }
        }
    }
}

fn open(topic: &str) -> ExchangeRequest {
    ExchangeRequest::Open(v1::Open { topic: topic.to_owned(), ..v1::Open::default() }.into())
}

fn publish(number: u64) -> ExchangeRequest {
    let records = records_of(&["x"]);
    ExchangeRequest::Publish { number, publish: PublishRequest { records, ..PublishRequest::default() } }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().expect("has a reason").reason.clone()
}

fn metadata(status: &Status, key: &str) -> Option<String> {
    status.get_error_details().error_info()?.metadata.get(key).cloned()
}

#[tokio::test]
async fn receipts_of_what_is_ready_come_in_one_message_and_half_close_ends_well() {
    let mut call = Call::open().await;
    call.log.hold_syncs(true);
    call.publish(1..=3000);
    call.requests = None;
    call.work().await;
    call.log.hold_syncs(false);
    // The answer to this append comes after those of all earlier appends.
    call.log.put("orders", &["last"]);
    let first = call.next().await.unwrap().unwrap();
    assert!(first.receipts.len() >= 1024, "{} receipts", first.receipts.len());
    let mut numbers: Vec<u64> = first.receipts.iter().map(|r| r.number).collect();
    let (rest, end) = call.finish().await;
    numbers.extend(rest);
    assert_eq!(numbers, (1..=3000).collect::<Vec<_>>());
    assert!(end.is_none());
}

#[tokio::test]
async fn protocol_faults_are_told_after_the_receipts() {
    let faults = [
        ("second open", open("orders")),
        ("number out of order", publish(5)),
        ("number repeated", publish(2)),
        ("empty", ExchangeRequest::Empty),
        (
            "other topic",
            ExchangeRequest::Publish {
                number: 3,
                publish: PublishRequest {
                    topic: "other".into(),
                    records: records_of(&["x"]),
                    ..PublishRequest::default()
                },
            },
        ),
    ];
    for (what, fault) in faults {
        let mut call = Call::open().await;
        call.publish([1, 2]);
        call.send(fault);
        call.publish([3, 4]);
        let (numbers, status) = call.finish().await;
        let status = status.expect(what);
        assert_eq!((numbers, reason(&status).as_str()), (vec![1, 2], "PROTOCOL_VIOLATION"), "{what}");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(metadata(&status, "resume_offset").as_deref(), Some("2"), "{what}");
        assert_eq!(call.log.tail("orders"), 2, "{what}");
    }
}

#[tokio::test]
async fn the_first_message_must_be_an_open() {
    for first in [Some(publish(1)), Some(ExchangeRequest::Empty), None] {
        let mut call = Call::new(Config::default()).await;
        match first {
            Some(first) => call.send(first),
            None => call.requests = None,
        }
        let (numbers, status) = call.finish().await;
        assert_eq!((numbers.len(), reason(&status.unwrap()).as_str()), (0, "PROTOCOL_VIOLATION"));
        assert!(call.topics.list("", None, 1).await.unwrap().is_empty(), "nothing was created");
    }
}

#[tokio::test]
async fn a_bad_open_names_its_field_and_creates_nothing() {
    let bad_start = v1::SubscribeRequest {
        start: Some(v1::subscribe_request::Start::Position(v1::Position::default())),
        ..v1::SubscribeRequest::default()
    };
    for (open, field) in [
        (v1::Open { topic: "No".to_owned(), ..v1::Open::default() }, "open.topic"),
        (
            v1::Open { topic: "orders".to_owned(), subscribe: Some(bad_start), ..v1::Open::default() },
            "open.subscribe.position.epoch",
        ),
    ] {
        let mut call = Call::new(Config::default()).await;
        call.send(ExchangeRequest::Open(open.into()));
        let status = call.finish().await.1.unwrap();
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
        assert!(call.topics.list("", None, 1).await.unwrap().is_empty());
    }
}

/// P9: an Exchange whose subscription is refused leaves no topic behind: neither the one that it reads nor the one to
/// which it would publish.
#[tokio::test]
async fn a_refused_subscription_of_an_open_creates_nothing() {
    use v1::subscribe_request::Start;
    let position = v1::Position { epoch: "00c0ffee00c0ffee".to_owned(), offset: 0 };
    for (topic, start, limit) in [
        ("", Start::Offset(5), None),
        ("", Start::Position(position.clone()), None),
        ("other", Start::Offset(5), None),
        ("other", Start::Position(position), None),
        ("other", Start::Boundary(1), Some(v1::ReadLimit { stop_at_tail: true, ..Default::default() })),
    ] {
        let what = format!("{topic:?} {start:?}");
        let subscribe = v1::SubscribeRequest {
            topic: topic.to_owned(),
            start: Some(start),
            limit,
            ..v1::SubscribeRequest::default()
        };
        let open = v1::Open { topic: "orders".to_owned(), subscribe: Some(subscribe), ..v1::Open::default() };
        let mut call = Call::new(Config::default()).await;
        call.send(ExchangeRequest::Open(open.into()));
        let status = call.finish().await.1.unwrap();
        assert_eq!(reason(&status), "TOPIC_NOT_FOUND", "{what}");
        assert!(call.topics.list("", None, 1).await.unwrap().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_bad_batch_fails_its_number_and_stores_none_after_it() {
    let mut call = Call::open().await;
    call.publish([1, 2]);
    call.send(ExchangeRequest::Publish { number: 3, publish: PublishRequest::default() });
    call.publish([4]);
    let (numbers, status) = call.finish().await;
    let status = status.unwrap();
    assert_eq!((numbers, metadata(&status, "number").as_deref()), (vec![1, 2], Some("3")));
    assert!(status.message().contains('3'), "{}", status.message());
    let field = &status.get_error_details().bad_request().unwrap().field_violations[0].field.clone();
    assert_eq!(field, "publish.publish.records");
    assert_eq!(call.log.tail("orders"), 2);
}

#[tokio::test]
async fn a_refused_append_names_its_number_after_the_receipts_before_it() {
    let mut call = Call::open().await;
    call.publish(1..=2);
    let ExchangeRequest::Publish { number, mut publish } = publish(3) else { unreachable!() };
    publish.expected_offset = Some(7);
    call.send(ExchangeRequest::Publish { number, publish });
    call.publish(4..=5);
    let (numbers, status) = call.finish().await;
    let status = status.unwrap();
    assert_eq!((numbers, reason(&status).as_str()), (vec![1, 2], "EXPECTED_OFFSET_MISMATCH"));
    assert_eq!(metadata(&status, "number").as_deref(), Some("3"));
    assert_eq!(metadata(&status, "resume_offset").as_deref(), Some("2"));
    assert_eq!(call.log.tail("orders"), 2);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_told_after_the_receipts() {
    let mut call = Call::open().await;
    call.publish([1]);
    let bad = Status::invalid_argument(format!("{MALFORMED}: truncated"));
    call.requests.as_ref().unwrap().send(Err(bad)).unwrap();
    let (numbers, status) = call.finish().await;
    assert_eq!((numbers, reason(&status.unwrap()).as_str()), (vec![1], "MALFORMED_MESSAGE"));
}

#[tokio::test]
async fn the_window_bounds_what_is_not_acknowledged() {
    let mut call = Call::on_topic(Config::default()).await;
    call.send(ExchangeRequest::Open(
        v1::Open { topic: "orders".to_owned(), window: 2, ..v1::Open::default() }.into(),
    ));
    call.log.hold_syncs(true);
    call.publish(1..=10);
    call.work().await;
    assert_eq!(call.log.batches(), 2);
    call.log.hold_syncs(false);
    call.requests = None;
    let (numbers, end) = call.finish().await;
    assert_eq!((numbers, end.is_none()), ((1..=10).collect::<Vec<_>>(), true));
}

#[tokio::test]
async fn a_drain_acknowledges_what_was_taken_and_says_so() {
    let mut call = Call::open().await;
    call.log.hold_syncs(true);
    call.publish([1, 2]);
    call.work().await;
    call.topics.drain();
    call.publish([3]);
    call.work().await;
    call.log.hold_syncs(false);
    let mut receipts = Vec::new();
    while receipts.len() < 2 {
        receipts.extend(call.next().await.unwrap().unwrap().receipts);
    }
    assert_eq!(receipts.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(call.next().await.unwrap().unwrap().notice, v1::Notice::Draining);
    let status = call.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    assert_eq!(metadata(&status, "resume_offset").as_deref(), Some("2"));
    assert_eq!(call.log.tail("orders"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_old_enough_acknowledges_and_says_so() {
    let age = std::time::Duration::from_secs(60);
    let mut call = Call::on_topic(Config { stream_age_max: age, ..Config::default() }).await;
    let open = v1::Open {
        topic: "orders".to_owned(),
        subscribe: Some(v1::SubscribeRequest::default()),
        ..Default::default()
    };
    let begun = tokio::time::Instant::now();
    call.send(ExchangeRequest::Open(open.into()));
    call.publish([1]);
    let first = call.next().await.unwrap().unwrap();
    // The receipt may be in the same message.
    let mut receipts = first.receipts.len();
    let caught_up = first.delivery.unwrap();
    assert_eq!(caught_up.notice, v1::Notice::CaughtUp);
    let mut next = caught_up.next.offset.get();
    wait_until(|| call.log.tail("orders") == 1);
    call.log.finish_work();
    let notice = loop {
        let response = call.next().await.unwrap().unwrap();
        receipts += response.receipts.len();
        next = response.delivery.map_or(next, |delivery| delivery.next.offset.get());
        if response.notice != v1::Notice::Unspecified {
            break response.notice;
        }
    };
    assert_eq!((receipts, next, notice), (1, 1, v1::Notice::MaxAge));
    let (taken, tenth) = (begun.elapsed(), age / 10);
    assert!(taken >= age - tenth && taken <= age + tenth, "{taken:?}");
    let status = call.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STREAM_MAX_AGE"));
    assert_eq!(metadata(&status, "resume_offset").as_deref(), Some("1"));
    assert!(call.next().await.is_none());
}

#[tokio::test]
async fn deliveries_go_on_after_half_close_and_limits_end_the_call() {
    let mut call = Call::new(Config::default()).await;
    let subscribe = v1::SubscribeRequest {
        limit: Some(v1::ReadLimit { max_records: 3, ..v1::ReadLimit::default() }),
        ..v1::SubscribeRequest::default()
    };
    let topic = "orders".to_owned();
    call.send(ExchangeRequest::Open(
        v1::Open { topic, subscribe: Some(subscribe), ..v1::Open::default() }.into(),
    ));
    let caught_up = call.next().await.unwrap().unwrap().delivery.unwrap();
    assert_eq!(caught_up.notice, v1::Notice::CaughtUp);
    call.publish([1, 2]);
    call.requests = None;
    let (mut receipts, mut next) = (0, 0);
    while receipts < 2 || next < 2 {
        let response = call.next().await.unwrap().unwrap();
        receipts += response.receipts.len();
        next = response.delivery.map_or(next, |delivery| delivery.next.offset.get());
    }
    assert!(futures_util::poll!(call.responses.next()).is_pending());
    call.log.put("orders", &["last"]);
    let last = call.next().await.unwrap().unwrap().delivery.unwrap();
    assert_eq!(last.next.offset.get(), 3);
    assert!(call.next().await.is_none());
}

#[test]
fn subscribe_requests_are_checked() {
    let ask = |request: v1::SubscribeRequest| match request::subscribe(&request, "") {
        Err(Error::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    for interval in [-1, 601] {
        let request = v1::SubscribeRequest {
            heartbeat_interval: Some(seconds(interval)),
            ..v1::SubscribeRequest::default()
        };
        assert_eq!(ask(request), "heartbeat_interval");
    }
    let request = v1::SubscribeRequest { out_of_range: 9, ..v1::SubscribeRequest::default() };
    assert_eq!(ask(request), "out_of_range");
    let start = v1::subscribe_request::Start::Boundary(9);
    let request = v1::SubscribeRequest { start: Some(start), ..v1::SubscribeRequest::default() };
    assert_eq!(ask(request), "boundary");
}
