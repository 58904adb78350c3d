//! Constructors of messages.

use bytes::Bytes;
use prost_types::Timestamp;
use streamway::proto::v1::{
    Boundary, ExchangeRequest, IngestRequest, NumberedPublish, Open, OutOfRangePolicy, Position,
    PublishRequest, ReadLimit, Receipt, Record, SubscribeRequest, exchange_request::Kind,
    subscribe_request::Start,
};

use super::StreamClient;

pub fn record(value: impl Into<Vec<u8>>) -> Record {
    Record { value: Bytes::from(value.into()), ..Record::default() }
}

/// Creates `n` records with the values `{prefix}{i}`.
pub fn records(prefix: &str, n: usize) -> Vec<Record> {
    (0..n).map(|i| record(format!("{prefix}{i}"))).collect()
}

pub fn publish(topic: &str, records: Vec<Record>) -> PublishRequest {
    PublishRequest { topic: topic.into(), records, ..PublishRequest::default() }
}

pub fn ingest(publish: PublishRequest) -> IngestRequest {
    IngestRequest { publish: Some(publish) }
}

pub fn open(topic: &str) -> ExchangeRequest {
    let open = Open { topic: topic.into(), ..Open::default() };
    ExchangeRequest { kind: Some(Kind::Open(open)) }
}

pub fn numbered(number: u64, publish: PublishRequest) -> ExchangeRequest {
    let publish = NumberedPublish { number, publish: Some(publish) };
    ExchangeRequest { kind: Some(Kind::Publish(publish)) }
}

pub fn subscribe(topic: &str, start: Start) -> SubscribeRequest {
    SubscribeRequest { topic: topic.into(), start: Some(start), ..SubscribeRequest::default() }
}

/// Request from the oldest record to the current tail.
pub fn history(topic: &str) -> SubscribeRequest {
    to_tail(subscribe(topic, earliest()))
}

pub fn to_tail(mut request: SubscribeRequest) -> SubscribeRequest {
    request.limit = Some(ReadLimit { stop_at_tail: true, ..ReadLimit::default() });
    request
}

pub fn or_else(mut request: SubscribeRequest, policy: OutOfRangePolicy) -> SubscribeRequest {
    request.out_of_range = policy.into();
    request
}

pub fn earliest() -> Start {
    Start::Boundary(Boundary::Earliest.into())
}

pub fn latest() -> Start {
    Start::Boundary(Boundary::Latest.into())
}

pub fn at(position: &Position) -> Start {
    Start::Position(position.clone())
}

pub fn micros(time: &Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1000
}

/// Publishes a batch, which must be accepted.
pub async fn published(client: &mut StreamClient, topic: &str, records: Vec<Record>) -> Receipt {
    let response = client.publish(publish(topic, records)).await.expect("accepted").into_inner();
    response.receipt.expect("a receipt on every answer")
}

/// Position after the records of a receipt.
pub fn next(receipt: &Receipt) -> Position {
    receipt.next.clone().expect("a position on every receipt")
}
