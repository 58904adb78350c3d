//! Bad input inside a stream of requests: the call ends with an error that names the number and
//! how far it got; what came before is stored, what came after is definitely not (P7, P9).

use prost::Message;
use streamway::proto::v1::{ExchangeRequest, IngestRequest, ListTopicsRequest, PublishRequest};
use tonic::{Code, Status};

use crate::harness::make::{ingest, numbered, open, publish, published, record, records};
use crate::harness::{Seen, Server, StreamClient, metadata, raw, read_all, refused, within};

const EXCHANGE: &str = "/streamway.v1.StreamService/Exchange";
const INGEST: &str = "/streamway.v1.StreamService/Ingest";

/// Sends all, and answers the numbers acknowledged and the status.
async fn exchange(client: &mut StreamClient, requests: Vec<ExchangeRequest>) -> (Vec<u64>, Status) {
    // The client does not half-close: it is the server that ends the call.
    let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
    let mut acknowledged = Vec::new();
    let call = within(10, "the answer", client.exchange(stream)).await;
    let mut answers = match call {
        Ok(answers) => answers.into_inner(),
        Err(status) => return (acknowledged, status),
    };
    loop {
        match within(10, "the end of the call", answers.message()).await {
            Ok(Some(answer)) => acknowledged.extend(answer.receipts.iter().map(|receipt| receipt.number)),
            Ok(None) => panic!("the call ended with status OK"),
            Err(status) => return (acknowledged, status),
        }
    }
}

fn one(number: u64) -> ExchangeRequest {
    numbered(number, publish("", vec![record(format!("n{number}"))]))
}

async fn texts(client: &mut StreamClient, topic: &str) -> Vec<String> {
    read_all(client, topic).await.iter().map(Seen::text).collect()
}

#[tokio::test]
async fn a_first_message_that_is_no_open() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for first in [one(1), numbered(1, publish("named", records("x", 1))), ExchangeRequest::default()] {
        let (acknowledged, status) = exchange(&mut client, vec![first]).await;
        refused(&status, Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert!(acknowledged.is_empty());
    }
    let (_, status) = exchange(&mut client, vec![open("")]).await;
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, []);
}

#[tokio::test]
async fn a_second_open_and_numbers_out_of_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let faults = [
        open("t"),
        ExchangeRequest::default(),
        one(2),
        one(4),
        one(0),
        one(u64::MAX),
        numbered(3, publish("another", records("x", 1))),
    ];
    for (i, fault) in faults.into_iter().enumerate() {
        let topic = format!("t{i}");
        let requests = vec![open(&topic), one(1), one(2), fault, one(4)];
        let (acknowledged, status) = exchange(&mut client, requests).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{i}: {status:?}");
        assert!(["PROTOCOL_VIOLATION", "INVALID_FIELD"].contains(&&*reason(&status)), "{i}: {status:?}");
        assert_eq!(acknowledged, [1, 2], "{i}: what came before is acknowledged before the call ends");
        assert_eq!(metadata(&status)["resume_offset"], "2");
        assert_eq!(texts(&mut client, &topic).await, ["n1", "n2"]);
    }
}

fn reason(status: &Status) -> String {
    crate::harness::detail(status).error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_failed_publish_ends_the_exchange_and_names_its_number() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let empty = numbered(3, publish("", vec![]));
    let lost = numbered(3, PublishRequest { expected_offset: Some(77), ..publish("", records("x", 1)) });
    let large = numbered(3, publish("", vec![record(vec![0; 1 << 20])]));
    for (i, (fault, code, why)) in [
        (empty, Code::InvalidArgument, "INVALID_FIELD"),
        (lost, Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH"),
        (large, Code::InvalidArgument, "BATCH_TOO_LARGE"),
    ]
    .into_iter()
    .enumerate()
    {
        let topic = format!("t{i}");
        let requests = vec![open(&topic), one(1), one(2), fault, one(4), one(5)];
        let (acknowledged, status) = exchange(&mut client, requests).await;
        refused(&status, code, why);
        assert_eq!(metadata(&status)["number"], "3", "{status:?}");
        assert_eq!(acknowledged, [1, 2]);
        assert_eq!(texts(&mut client, &topic).await, ["n1", "n2"], "later ones are definitely not stored");
    }
}

#[tokio::test]
async fn an_ingest_that_fails_half_way_says_how_far_it_got() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let good = |i: u64| ingest(publish("", vec![record(format!("n{i}"))]));
    let lost = PublishRequest { expected_offset: Some(77), ..publish("", records("x", 1)) };
    for (i, (fault, code, why)) in [
        (ingest(publish("", vec![])), Code::InvalidArgument, "INVALID_FIELD"),
        (ingest(lost), Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH"),
        (ingest(publish("", records("x", 1001))), Code::InvalidArgument, "BATCH_TOO_LARGE"),
        (ingest(publish("another", records("x", 1))), Code::InvalidArgument, ""),
        (IngestRequest::default(), Code::InvalidArgument, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let topic = format!("t{i}");
        let first = ingest(publish(&topic, vec![record("n0")]));
        let requests = vec![first, good(1), good(2), fault, good(4)];
        let status = client.ingest(tokio_stream::iter(requests)).await.unwrap_err();
        assert_eq!(status.code(), code, "{i}: {status:?}");
        assert!(why.is_empty() || reason(&status) == why, "{i}: {status:?}");
        let epoch = published(&mut client, &topic, vec![record("end")]).await.next.unwrap().epoch;
        let metadata = metadata(&status);
        assert_eq!((metadata["resume_offset"].as_str(), &metadata["resume_epoch"]), ("3", &epoch));
        assert_eq!(texts(&mut client, &topic).await, ["n0", "n1", "n2", "end"]);
    }
}

#[tokio::test]
async fn an_ingest_of_nothing_and_one_without_a_topic() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let nothing = client.ingest(tokio_stream::iter(Vec::<IngestRequest>::new())).await;
    match nothing {
        Ok(sum) => assert_eq!((sum.get_ref().batches, sum.get_ref().records), (0, 0)),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status:?}"),
    }
    let requests = vec![ingest(publish("", records("x", 1)))];
    let status = client.ingest(tokio_stream::iter(requests)).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, []);
}

#[tokio::test]
async fn bytes_that_are_no_message_inside_a_stream() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let good = [open("x").encode_to_vec(), one(1).encode_to_vec()];
    for bad in [vec![0xff; 10], good[1][..good[1].len() - 1].to_vec(), vec![0; 5 << 20]] {
        let large = bad.len() > 4 << 20;
        let messages = good.iter().cloned().chain([bad]).collect();
        let answer = raw::streaming(server.channel().await, EXCHANGE, messages).await;
        let status = match answer {
            Err(status) => status,
            Ok(answer) => {
                let mut answers = answer.into_inner();
                loop {
                    match within(10, "the end of the call", answers.message()).await {
                        Ok(message) => assert!(message.is_some(), "the call ended with status OK"),
                        Err(status) => break status,
                    }
                }
            }
        };
        let (code, why) = if large {
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
        } else {
            (Code::InvalidArgument, "MALFORMED_MESSAGE")
        };
        assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
    }
    assert_eq!(texts(&mut client, "x").await, ["n1"; 3], "what came before is stored");
    let messages = vec![ingest(publish("y", records("a", 1))).encode_to_vec(), vec![0xff; 3]];
    let answer = raw::streaming(server.channel().await, INGEST, messages).await;
    let status = match answer {
        Err(status) => status,
        Ok(answer) => answer.into_inner().message().await.expect_err("bad input"),
    };
    assert_eq!(reason(&status), "MALFORMED_MESSAGE", "{status:?}");
}
