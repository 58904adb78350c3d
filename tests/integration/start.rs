//! Start positions of subscriptions, and positions that the topic does not have.

use prost_types::Timestamp;
use streamway::proto::v1::subscribe_request::Start;
use streamway::proto::v1::{Notice, OutOfRangePolicy, Position, SubscribeRequest, TrimTopicRequest};
use tonic::Code;

use crate::harness::make::{
    at, earliest, history, latest, or_else, published, record, records, subscribe, to_tail,
};
use crate::harness::{Reader, Server, StreamClient, metadata, refused};

const TOPIC: &str = "start";

/// Ten batches of ten records: offsets 0 to 99.
async fn filled(client: &mut StreamClient) -> Position {
    let mut last = None;
    for i in 0..10 {
        last = published(client, TOPIC, records(&format!("{i}-"), 10)).await.next;
    }
    last.expect("published")
}

async fn first_offset(client: &mut StreamClient, start: Start) -> Option<u64> {
    let mut reader = Reader::open(client, to_tail(subscribe(TOPIC, start))).await.expect("in range");
    reader.rest().await.expect("read to the tail").first().map(|seen| seen.offset)
}

#[tokio::test]
async fn every_start_begins_where_it_says() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let end = filled(&mut client).await;
    let position = |offset| Position { epoch: end.epoch.clone(), offset };
    for (start, expected) in [
        (earliest(), Some(0)),
        (latest(), None),
        (Start::Offset(0), Some(0)),
        (Start::Offset(37), Some(37)),
        (Start::Offset(99), Some(99)),
        (Start::Offset(100), None),
        (Start::Position(position(40)), Some(40)),
        (Start::Position(position(41)), Some(41)),
        (Start::Position(position(100)), None),
        (Start::LastRecords(1), Some(99)),
        (Start::LastRecords(15), Some(85)),
        (Start::LastRecords(100), Some(0)),
        (Start::LastRecords(u64::MAX), Some(0)),
        (Start::LastRecords(0), None),
    ] {
        let found = first_offset(&mut client, start.clone()).await;
        assert_eq!(found, expected, "{start:?}");
    }
}

#[tokio::test]
async fn without_a_start_only_new_records_are_delivered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    filled(&mut client).await;
    let request = SubscribeRequest { topic: TOPIC.into(), ..SubscribeRequest::default() };
    let mut reader = Reader::open(&mut client.clone(), request).await.unwrap();
    assert_eq!(reader.until(Notice::CaughtUp).await, []);
    published(&mut client, TOPIC, vec![record("now")]).await;
    assert_eq!(reader.take(1).await[0].offset, 100);
}

#[tokio::test]
async fn a_time_starts_at_the_first_batch_stored_then_or_later() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut times = Vec::new();
    for i in 0..20 {
        let receipt = published(&mut client, TOPIC, records(&format!("{i}-"), 2)).await;
        times.push(receipt.publish_time.expect("a time on every receipt"));
    }
    for time in &times {
        // Two batches may bear the same time: the first of them counts.
        let first = times.iter().position(|other| other == time).expect("it is one of them") as u64;
        assert_eq!(first_offset(&mut client, Start::Time(*time)).await, Some(first * 2));
    }
    let long_ago = Timestamp { seconds: 1, nanos: 0 };
    assert_eq!(first_offset(&mut client, Start::Time(long_ago)).await, Some(0));
    let after = Timestamp { seconds: times[19].seconds + 1000, nanos: 0 };
    assert_eq!(first_offset(&mut client, Start::Time(after)).await, None);
}

#[tokio::test]
async fn start_positions_are_found_after_a_restart_too() {
    let mut server = Server::with(&["--storage-segment-bytes", "1048576"]).await;
    let mut client = server.client().await;
    let mut times = Vec::new();
    for i in 0..40 {
        let value = format!("{i}-{}", "x".repeat(100_000));
        times.push(published(&mut client, TOPIC, vec![record(value)]).await.publish_time.unwrap());
    }
    server.sigterm().await;
    server.restart().await;
    let mut client = server.client().await;
    for i in [0, 1, 17, 39] {
        let first = times.iter().position(|time| *time == times[i]).unwrap() as u64;
        assert_eq!(first_offset(&mut client, Start::Time(times[i])).await, Some(first));
        assert_eq!(first_offset(&mut client, Start::Offset(i as u64)).await, Some(i as u64));
        assert_eq!(first_offset(&mut client, Start::LastRecords(40 - i as u64)).await, Some(i as u64));
    }
}

#[tokio::test]
async fn a_start_beyond_the_tail_fails_or_goes_on_as_the_policy_says() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let end = filled(&mut client).await;
    let beyond = Position { epoch: end.epoch.clone(), offset: 101 };
    for start in [Start::Offset(101), Start::Offset(u64::MAX), at(&beyond)] {
        let status = subscribe_fails(&mut client, subscribe(TOPIC, start.clone())).await;
        refused(&status, Code::OutOfRange, "OFFSET_BEYOND_TAIL");
        assert_eq!(metadata(&status)["tail"], "100");
        assert_eq!(metadata(&status)["earliest_offset"], "0");

        let request = to_tail(or_else(subscribe(TOPIC, start.clone()), OutOfRangePolicy::Earliest));
        assert_gap(&mut client, request, Some(0)).await;
        let request = to_tail(or_else(subscribe(TOPIC, start), OutOfRangePolicy::Latest));
        assert_gap(&mut client, request, None).await;
    }
}

#[tokio::test]
async fn a_trimmed_start_fails_or_goes_on_as_the_policy_says() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let end = filled(&mut client).await;
    let trim = TrimTopicRequest { name: TOPIC.into(), before_offset: 35, ..TrimTopicRequest::default() };
    let left = server.topics().await.trim_topic(trim).await.unwrap().into_inner();
    let kept = left.earliest_offset;
    assert!((1..=35).contains(&kept), "whole batches are kept: {kept}");
    let old = Position { epoch: end.epoch.clone(), offset: kept - 1 };
    for start in [Start::Offset(0), at(&old)] {
        let status = subscribe_fails(&mut client, subscribe(TOPIC, start.clone())).await;
        refused(&status, Code::OutOfRange, "OFFSET_TRIMMED");
        assert_eq!(metadata(&status)["earliest_offset"], kept.to_string());
        assert_eq!(metadata(&status)["tail"], "100");
        let request = to_tail(or_else(subscribe(TOPIC, start.clone()), OutOfRangePolicy::Earliest));
        assert_gap(&mut client, request, Some(kept)).await;
        let request = to_tail(or_else(subscribe(TOPIC, start), OutOfRangePolicy::Latest));
        assert_gap(&mut client, request, None).await;
    }
    // These are in range whatever was trimmed.
    assert_eq!(first_offset(&mut client, earliest()).await, Some(kept));
    assert_eq!(first_offset(&mut client, Start::LastRecords(1000)).await, Some(kept));
    let long_ago = Timestamp { seconds: 1, nanos: 0 };
    assert_eq!(first_offset(&mut client, Start::Time(long_ago)).await, Some(kept));
}

async fn subscribe_fails(client: &mut StreamClient, request: SubscribeRequest) -> tonic::Status {
    match Reader::open(client, request).await {
        Err(status) => status,
        Ok(mut reader) => reader.rest().await.expect_err("out of range"),
    }
}

async fn assert_gap(client: &mut StreamClient, request: SubscribeRequest, expected: Option<u64>) {
    let mut reader = Reader::open(client, request).await.unwrap();
    let seen = reader.rest().await.unwrap();
    assert_eq!(seen.first().map(|seen| seen.offset), expected);
    assert_eq!(reader.notices.first(), Some(&Notice::Gap), "a gap is told, not silent");
    assert_eq!(reader.next.unwrap().offset, 100);
}

#[tokio::test]
async fn a_missing_topic_is_created_for_a_reader_that_waits_and_for_no_position() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let position = Position { epoch: "0123456789abcdef".into(), offset: 0 };
    let status = subscribe_fails(&mut client, subscribe("new", at(&position))).await;
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");
    let status = subscribe_fails(&mut client, history("new")).await;
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");
    let mut reader = Reader::open(&mut client, subscribe("new", earliest())).await.unwrap();
    assert_eq!(reader.until(Notice::CaughtUp).await, []);
    assert_eq!(reader.next.unwrap().offset, 0);
}
