//! The same `request_id` stores once (P5).

use streamway::proto::v1::{PublishRequest, Receipt, Record};
use tonic::Code;

use crate::harness::make::{ingest, numbered, open, publish, published, record, records};
use crate::harness::{Server, StreamClient, detail, metadata, read_all, refused};

fn with_id(topic: &str, id: &str, prefix: &str) -> PublishRequest {
    PublishRequest { request_id: id.into(), ..publish(topic, records(prefix, 3)) }
}

async fn send(client: &mut StreamClient, request: PublishRequest) -> Receipt {
    client.publish(request).await.expect("accepted").into_inner().receipt.expect("a receipt")
}

fn assert_repeats(first: &Receipt, again: &Receipt) {
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(again, &Receipt { duplicate: true, ..first.clone() }, "the first receipt, again");
}

#[tokio::test]
async fn a_repeated_request_id_answers_the_first_receipt_and_stores_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = send(&mut client, with_id("a", "id-1", "x")).await;
    published(&mut client, "a", records("between", 1)).await;
    assert_repeats(&first, &send(&mut client, with_id("a", "id-1", "x")).await);
    // The same id on another topic, and another id, are different publishes.
    assert!(!send(&mut client, with_id("b", "id-1", "x")).await.duplicate);
    assert!(!send(&mut client, with_id("a", "id-2", "x")).await.duplicate);
    assert_eq!(read_all(&mut client, "a").await.len(), 7);
}

#[tokio::test]
async fn request_ids_are_remembered_across_a_stop_and_a_kill() {
    let mut server = Server::start().await;
    let mut firsts = Vec::new();
    for i in 0..50 {
        firsts.push(send(&mut server.client().await, with_id("a", &format!("id-{i}"), "x")).await);
    }
    server.sigterm().await;
    server.restart().await;
    let mut client = server.client().await;
    let later = send(&mut client, with_id("a", "later", "x")).await;
    for (i, first) in firsts.iter().enumerate() {
        assert_repeats(first, &send(&mut client, with_id("a", &format!("id-{i}"), "x")).await);
    }
    server.kill9().await;
    server.restart().await;
    let mut client = server.client().await;
    assert_repeats(&later, &send(&mut client, with_id("a", "later", "x")).await);
    assert_repeats(&firsts[0], &send(&mut client, with_id("a", "id-0", "x")).await);
    assert_eq!(read_all(&mut client, "a").await.len(), 51 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_is_stored() {
    let server = Server::start().await;
    let channel = server.channel().await;
    for round in 0..20 {
        let id = format!("race-{round}");
        let racers = (0..8).map(|_| {
            let (mut client, id) = (StreamClient::new(channel.clone()), id.clone());
            tokio::spawn(async move { send(&mut client, with_id("race", &id, "x")).await })
        });
        let mut receipts = Vec::new();
        for racer in racers.collect::<Vec<_>>() {
            receipts.push(racer.await.unwrap());
        }
        assert_eq!(receipts.iter().filter(|receipt| !receipt.duplicate).count(), 1);
        assert!(receipts.iter().all(|receipt| receipt.first_offset == round * 3), "{receipts:?}");
    }
    assert_eq!(read_all(&mut server.client().await, "race").await.len(), 60);
}

#[tokio::test]
async fn the_request_id_is_checked_before_expected_offset() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = |id: &str| PublishRequest { expected_offset: Some(0), ..with_id("a", id, "x") };
    let first = send(&mut client, request("once")).await;
    // The tail has moved, but this is a repeat of the same publish, so there is no mismatch.
    assert_repeats(&first, &send(&mut client, request("once")).await);
    let status = client.publish(request("other")).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH");
}

#[tokio::test]
async fn a_refused_publish_does_not_use_its_id_up() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let wrong = PublishRequest { expected_offset: Some(7), ..with_id("a", "id", "x") };
    let status = client.publish(wrong).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH");
    assert!(!send(&mut client, with_id("a", "id", "x")).await.duplicate);
}

#[tokio::test]
async fn streams_know_repeated_ids_too() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = send(&mut client, with_id("a", "id", "x")).await;
    let requests = vec![ingest(with_id("a", "id", "x")), ingest(with_id("a", "new", "y"))];
    let sum = client.ingest(tokio_stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!((sum.batches, sum.records, sum.next.unwrap().offset), (2, 6, 6), "duplicates are counted");

    let requests = vec![open("a"), numbered(1, with_id("", "id", "x")), numbered(2, with_id("", "id3", "z"))];
    let mut answers = client.exchange(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut receipts = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        receipts.extend(answer.receipts.into_iter().map(|numbered| numbered.receipt.unwrap()));
    }
    assert_repeats(&first, &receipts[0]);
    assert_eq!((receipts[1].duplicate, receipts[1].first_offset), (false, 6));
    assert_eq!(read_all(&mut client, "a").await.len(), 9);
}

/// P5, P9: an id names one batch. Every kind of call refuses different records under it and stores none of them.
#[tokio::test]
async fn other_records_under_an_id_are_refused_and_not_called_a_duplicate() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = send(&mut client, with_id("a", "id", "x")).await;
    let others = [
        with_id("a", "id", "y"),
        PublishRequest { records: records("x", 2), ..with_id("a", "id", "x") },
        PublishRequest { records: records("x", 4), ..with_id("a", "id", "x") },
    ];
    for other in &others {
        let status = client.publish(other.clone()).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED");
        assert!(detail(&status).precondition_failure().is_some(), "{status:?}");
    }
    let requests = vec![ingest(with_id("a", "new", "z")), ingest(others[0].clone())];
    let status = client.ingest(tokio_stream::iter(requests)).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED");
    assert_eq!(metadata(&status).get("number").map(String::as_str), Some("2"));
    let requests = vec![open("a"), numbered(1, with_id("", "id", "x")), numbered(2, others[0].clone())];
    let mut answers = client.exchange(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut receipts = Vec::new();
    let status = loop {
        match answers.message().await {
            Ok(answer) => receipts.extend(answer.expect("it fails").receipts),
            Err(status) => break status,
        }
    };
    refused(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED");
    assert_eq!((receipts.len(), metadata(&status)["number"].as_str()), (1, "2"));
    // The same records are still a repeat, even with another trace context and another condition.
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let again = PublishRequest { traceparent: trace, expected_offset: Some(9), ..with_id("a", "id", "x") };
    assert_repeats(&first, &send(&mut client, again).await);
    assert_eq!(read_all(&mut client, "a").await.len(), 6);
}

/// Some languages encode the entries of a map in a different order each time.
#[tokio::test]
async fn a_repetition_with_its_headers_in_another_order_is_a_repetition() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let headers: std::collections::HashMap<String, String> =
        (0..12).map(|i| (format!("key-{i}"), format!("value-{i}"))).collect();
    let of = || {
        // Each new map iterates in its own order.
        let headers = headers.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let record = Record { headers, ..record("x") };
        PublishRequest { request_id: "id".into(), ..publish("a", vec![record]) }
    };
    let first = send(&mut client, of()).await;
    for _ in 0..10 {
        assert_repeats(&first, &send(&mut client, of()).await);
    }
    let mut other = of();
    other.records[0].headers.insert("key-3".into(), "another".into());
    refused(&client.publish(other).await.unwrap_err(), Code::FailedPrecondition, "REQUEST_ID_REUSED");
}
