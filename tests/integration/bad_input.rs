//! Bad input to calls with one request gets a specific error, and nothing is stored (P7, P9).
//! Request streams are in `bad_stream`, starts out of range in `start`.

use prost::Message;
use streamway::proto::v1::{
    CreateTopicRequest, ListTopicsRequest, Position, PublishRequest, Retention, SubscribeRequest, Topic,
    subscribe_request::Start,
};
use tonic::{Code, Status};

use crate::harness::make::{history, publish, published, record, records, subscribe};
use crate::harness::{Reader, Server, StreamClient, metadata, raw, read_all, refused};

const PUBLISH: &str = "/streamway.v1.StreamService/Publish";
const SUBSCRIBE: &str = "/streamway.v1.StreamService/Subscribe";

/// A server with one topic, `good`, that contains one record. Auto-creation is on, so that an invalid publish could
/// create a topic.
struct Case {
    server: Server,
    client: StreamClient,
}

impl Case {
    async fn new() -> Self {
        let server = Server::start().await;
        let mut client = server.client().await;
        published(&mut client, "good", vec![record("one")]).await;
        Self { server, client }
    }

    /// Asserts that nothing was stored or created, and that the server still works.
    async fn assert_unchanged(&mut self) {
        let topics = self.server.topics().await.list_topics(ListTopicsRequest::default()).await;
        let names: Vec<_> =
            topics.unwrap().into_inner().topics.into_iter().map(|t| (t.name, t.tail)).collect();
        assert_eq!(names, [("good".to_owned(), 1)]);
        assert_eq!(read_all(&mut self.client, "good").await.len(), 1);
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }

    async fn publish(&mut self, request: PublishRequest) -> Status {
        self.client.publish(request).await.expect_err("bad input")
    }

    async fn subscribe(&mut self, request: SubscribeRequest) -> Status {
        match Reader::open(&mut self.client, request).await {
            Err(status) => status,
            Ok(mut reader) => reader.rest().await.expect_err("bad input"),
        }
    }
}

fn bad_names() -> Vec<String> {
    let long = "a".repeat(129);
    ["", ".a", "-a", "_a", "A", "a b", "a/b", "../a", "a\0b", "ä", "a\n", &long].map(str::to_owned).into()
}

#[tokio::test]
async fn a_topic_name_that_breaks_the_rule() {
    let mut case = Case::new().await;
    let mut topics = case.server.topics().await;
    for name in bad_names() {
        let status = case.publish(publish(&name, records("x", 1))).await;
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
        let status = case.subscribe(history(&name)).await;
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
        let topic = Some(Topic { name, ..Topic::default() });
        let status = topics.create_topic(CreateTopicRequest { topic }).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    }
    case.assert_unchanged().await;
}

#[tokio::test]
async fn a_batch_that_is_empty_or_too_large() {
    let mut case = Case::new().await;
    let status = case.publish(publish("good", vec![])).await;
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    // Too many records, one record over the limit, and records that are too large together.
    for batch in [records("x", 1001), vec![record(vec![0; 1 << 20])], vec![record(vec![0; 600_000]); 2]] {
        let status = case.publish(publish("good", batch)).await;
        refused(&status, Code::InvalidArgument, "BATCH_TOO_LARGE");
    }
    case.assert_unchanged().await;
}

#[tokio::test]
async fn the_largest_batches_are_accepted() {
    let case = Case::new().await;
    let mut client = case.client.clone();
    published(&mut client, "large", records("x", 1000)).await;
    // The encoded `records` field is exactly 1 MiB: 4 bytes of tag and length around the value, twice.
    let value = vec![0; (1 << 20) - 8];
    let receipt = published(&mut client, "large", vec![record(value.clone())]).await;
    assert_eq!(receipt.first_offset, 1000);
    let mut over = value;
    over.push(0);
    let status = client.publish(publish("large", vec![record(over)])).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "BATCH_TOO_LARGE");
}

#[tokio::test]
async fn a_request_id_that_is_too_long() {
    let mut case = Case::new().await;
    let request = PublishRequest { request_id: "x".repeat(129), ..publish("good", records("x", 1)) };
    let status = case.publish(request).await;
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    case.assert_unchanged().await;
}

#[tokio::test]
async fn bytes_that_are_no_message() {
    let mut case = Case::new().await;
    let good = publish("good", records("x", 3)).encode_to_vec();
    let mut wrong_type = good.clone();
    wrong_type.extend([0x18, 1]); // records as a varint
    let mut tag_zero = good.clone();
    tag_zero.push(0);
    let mut messages = vec![wrong_type, tag_zero, vec![0xff; 64], b"\x0a\x02\xff\xfe".to_vec()];
    messages.push(good[..good.len() - 1].to_vec());
    for message in messages {
        let status = raw::unary(case.server.channel().await, PUBLISH, message.clone()).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "MALFORMED_MESSAGE");
        let call = raw::streaming(case.server.channel().await, SUBSCRIBE, vec![message]).await;
        let status = match call {
            Err(status) => status,
            Ok(answer) => answer.into_inner().message().await.expect_err("bad input"),
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    case.assert_unchanged().await;
}

#[tokio::test]
async fn every_cut_of_a_publish_is_refused_or_is_a_shorter_publish() {
    let case = Case::new().await;
    let mut request = publish("cut", vec![record("value")]);
    request.records[0].headers.insert("k".into(), "v".into());
    let bytes = request.encode_to_vec();
    for cut in 0..bytes.len() {
        let call = raw::unary(case.server.channel().await, PUBLISH, bytes[..cut].to_vec()).await;
        let status = call.expect_err("the record is the last field, so every cut breaks or loses it");
        assert_eq!(status.code(), Code::InvalidArgument, "cut at {cut}: {status:?}");
    }
    let mut case = case;
    case.assert_unchanged().await;
}

#[tokio::test]
async fn a_record_inside_a_well_formed_message_is_checked_too() {
    let mut case = Case::new().await;
    for inside in [
        &b"\x1a\x03\x0a\x01\xff"[..],             // a header key that is not UTF-8
        &b"\x1a\x03\x12\x01\xff"[..],             // a header value that is not UTF-8
        &b"\x0a\x05ab"[..],                       // a key that is cut short
        &b"\x10\x01"[..],                         // a value of the wrong type
        &b"\x22\x06\x10\x80\x94\xeb\xdc\x03"[..], // an event_time of 10^9 nanoseconds
    ] {
        let mut message = b"\x0a\x04good\x1a".to_vec();
        message.push(inside.len() as u8);
        message.extend(inside);
        let status = raw::unary(case.server.channel().await, PUBLISH, message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{inside:?}: {status:?}");
        assert_eq!(metadata(&status)["side_effects"], "none");
    }
    case.assert_unchanged().await;
}

#[tokio::test]
async fn a_message_over_4_mib() {
    let mut case = Case::new().await;
    let status = case.publish(publish("good", vec![record(vec![0; 4 << 20])])).await;
    refused(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    case.assert_unchanged().await;
}

#[tokio::test]
async fn an_expected_offset_that_lost_the_race() {
    let mut case = Case::new().await;
    for expected in [0, 2, u64::MAX] {
        let request = PublishRequest { expected_offset: Some(expected), ..publish("good", records("x", 1)) };
        let status = case.publish(request).await;
        refused(&status, Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH");
        assert_eq!(metadata(&status)["tail"], "1", "the offset it would have got");
    }
    case.assert_unchanged().await;
    // The one with the correct offset succeeds.
    let request = PublishRequest { expected_offset: Some(1), ..publish("good", records("x", 1)) };
    case.client.publish(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racers_with_the_same_expected_offset_one_wins() {
    let case = Case::new().await;
    let racers: Vec<_> = (0..16)
        .map(|_| {
            let mut client = case.client.clone();
            let request = PublishRequest { expected_offset: Some(1), ..publish("good", records("x", 1)) };
            tokio::spawn(async move { client.publish(request).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(status) => refused(&status, Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_position_or_heartbeat_or_retention_that_makes_no_sense() {
    let mut case = Case::new().await;
    for epoch in ["", "x", "0123456789ABCDEF"] {
        let start = Start::Position(Position { epoch: epoch.into(), offset: 0 });
        let status = case.subscribe(subscribe("good", start)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(metadata(&status)["side_effects"], "none");
    }
    for seconds in [-1, 601] {
        let heartbeat_interval = Some(prost_types::Duration { seconds, nanos: 0 });
        let status = case.subscribe(SubscribeRequest { heartbeat_interval, ..history("good") }).await;
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    }
    let max_age = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let retention = Some(Retention { max_age, max_bytes: 0, max_records: 0 });
    let topic = Some(Topic { name: "r".into(), retention, ..Topic::default() });
    let mut topics = case.server.topics().await;
    let status = topics.create_topic(CreateTopicRequest { topic }).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    let status = topics.create_topic(CreateTopicRequest { topic: None }).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    let list = ListTopicsRequest { page_token: "no token of ours!".into(), ..ListTopicsRequest::default() };
    let status = topics.list_topics(list).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    case.assert_unchanged().await;
}

#[tokio::test]
async fn a_missing_topic_where_auto_creation_is_off() {
    let server = Server::with(&["--auto-create-topics", "false"]).await;
    let mut client = server.client().await;
    let status = client.publish(publish("new", records("x", 1))).await.unwrap_err();
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");
    let status = Reader::open(&mut client, history("new")).await.err().expect("no such topic");
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, []);
}

#[tokio::test]
async fn a_method_that_is_not_there() {
    let case = Case::new().await;
    let path = "/streamway.v1.StreamService/Nonsense";
    let status = raw::unary(case.server.channel().await, path, vec![]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
