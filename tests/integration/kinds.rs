//! The four kinds of call, and the tutorial's services.

use streamway::proto::example::example_service_client::ExampleServiceClient;
use streamway::proto::example::my_service_client::MyServiceClient;
use streamway::proto::example::{MyRequest, Request};
use streamway::proto::v1::{ExchangeRequest, Open, Record, exchange_request::Kind};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::make::{
    earliest, history, ingest, latest, next, numbered, open, publish, published, record, records, subscribe,
};
use crate::harness::{Reader, Server, raw, read_all, within};

#[tokio::test]
async fn publish_and_subscribe_hand_records_through_unchanged() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let full = Record {
        key: vec![0, 255, 1].into(),
        value: vec![7; 70_000].into(),
        headers: [("a".into(), "ä".into()), (String::new(), String::new())].into(),
        event_time: Some(prost_types::Timestamp { seconds: -5, nanos: 999_999_999 }),
    };
    let sent = vec![full, Record::default(), record("plain")];
    let receipt = published(&mut client, "kinds", sent.clone()).await;
    assert_eq!((receipt.first_offset, next(&receipt).offset, receipt.duplicate), (0, 3, false));
    let seen = read_all(&mut client, "kinds").await;
    assert_eq!(seen.iter().map(|s| s.record.clone()).collect::<Vec<_>>(), sent);
    assert_eq!(seen.iter().map(|s| s.offset).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test]
async fn what_passes_through_keeps_unknown_fields() {
    let server = Server::start().await;
    // topic "newer", one record { value: "v", unknown field 99: "u" }.
    let request = b"\x0a\x05newer\x1a\x07\x12\x01v\x9a\x06\x01u".to_vec();
    raw::unary(server.channel().await, "/streamway.v1.StreamService/Publish", request).await.unwrap();
    let request = prost::Message::encode_to_vec(&history("newer"));
    let path = "/streamway.v1.StreamService/Subscribe";
    let answer = raw::streaming(server.channel().await, path, vec![request]).await.unwrap();
    let messages: Vec<_> = answer.into_inner().filter_map(Result::ok).collect().await;
    let bytes = messages.concat();
    assert!(bytes.windows(9).any(|window| window == b"\x1a\x07\x12\x01v\x9a\x06\x01u"), "{bytes:?}");
}

#[tokio::test]
async fn ingest_sums_up_once_everything_is_durable() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let batches: Vec<_> = (0..500)
        .map(|i| {
            let topic = if i == 0 { "ingest" } else { "" };
            ingest(publish(topic, records(&format!("{i}-"), 3)))
        })
        .collect();
    let sum = client.ingest(tokio_stream::iter(batches)).await.unwrap().into_inner();
    assert_eq!((sum.batches, sum.records, sum.next.unwrap().offset), (500, 1500, 1500));
    let seen = read_all(&mut client, "ingest").await;
    let expected = (0..500).flat_map(|i| (0..3).map(move |j| format!("{i}-{j}")));
    assert!(seen.iter().map(crate::harness::Seen::text).eq(expected), "in the order sent");
}

#[tokio::test]
async fn exchange_acknowledges_every_number_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut requests = vec![open("exchange")];
    requests.extend((1..=1000).map(|n| numbered(n, publish("", records(&format!("{n}-"), 2)))));
    let answer = client.exchange(tokio_stream::iter(requests)).await.unwrap();
    let mut answers = answer.into_inner();
    let (mut numbers, mut messages) = (Vec::new(), 0);
    while let Some(answer) = within(30, "receipts", answers.message()).await.unwrap() {
        messages += 1;
        for numbered in answer.receipts {
            let receipt = numbered.receipt.unwrap();
            assert_eq!(receipt.first_offset, (numbered.number - 1) * 2);
            assert_eq!(next(&receipt).offset, numbered.number * 2);
            numbers.push(numbered.number);
        }
    }
    assert!(numbers.iter().copied().eq(1..=1000), "{numbers:?}");
    assert!(messages < 1000, "receipts are coalesced: {messages} messages");
    assert_eq!(read_all(&mut client, "exchange").await.len(), 2000);
}

#[tokio::test]
async fn exchange_delivers_besides_where_the_open_asks_for_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "both", records("old", 2)).await;
    let (requests, stream) = mpsc::channel(8);
    let subscribe = subscribe("", earliest());
    let open = Open { topic: "both".into(), subscribe: Some(subscribe), ..Open::default() };
    requests.send(ExchangeRequest { kind: Some(Kind::Open(open)) }).await.unwrap();
    let mut answers = client.exchange(ReceiverStream::new(stream)).await.unwrap().into_inner();
    requests.send(numbered(1, publish("both", records("new", 2)))).await.unwrap();
    let (mut values, mut acknowledged) = (Vec::new(), false);
    while values.len() < 4 || !acknowledged {
        let answer = within(30, "an answer", answers.message()).await.unwrap().unwrap();
        acknowledged |= !answer.receipts.is_empty();
        let batches = answer.delivery.into_iter().flat_map(|delivery| delivery.batches);
        values.extend(
            batches.flat_map(|batch| batch.records).map(|r| String::from_utf8(r.value.to_vec()).unwrap()),
        );
    }
    assert_eq!(values, ["old0", "old1", "new0", "new1"]);
}

#[tokio::test]
async fn a_subscriber_at_the_tail_gets_what_is_published_then() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "live", records("before", 3)).await;
    let mut reader = Reader::open(&mut client.clone(), subscribe("live", latest())).await.unwrap();
    reader.until(streamway::proto::v1::Notice::CaughtUp).await;
    for i in 0..50 {
        published(&mut client, "live", vec![record(format!("live{i}"))]).await;
    }
    let seen = reader.take(50).await;
    assert!(seen.iter().map(crate::harness::Seen::text).eq((0..50).map(|i| format!("live{i}"))));
    assert_eq!(seen[0].offset, 3);
}

#[tokio::test]
async fn the_tutorials_services_answer_as_the_tutorial_says() {
    let server = Server::start().await;
    let mut example = ExampleServiceClient::new(server.channel().await);
    let answer = example.process_request(Request { message: "hi".into() }).await.unwrap().into_inner();
    assert_eq!(answer.message, "Received message: hi");

    let named = |name: &str| MyRequest { name: name.into() };
    let mut mine = MyServiceClient::new(server.channel().await);
    let answers = mine.server_streaming_rpc_method(named("Ada")).await.unwrap().into_inner();
    let texts: Vec<_> = answers.map(|answer| answer.unwrap().message).collect().await;
    assert_eq!(texts, [1, 2, 3, 4].map(|i| format!("Response {i} for Ada")));

    let three = || tokio_stream::iter(["a", "b", "c"].map(named));
    let answer = mine.client_streaming_rpc_method(three()).await.unwrap().into_inner();
    assert_eq!(answer.message, "Received 3 requests: a, b, c");
    let answers = mine.bidirectional_streaming_rpc_method(three()).await.unwrap().into_inner();
    let texts: Vec<_> = answers.map(|answer| answer.unwrap().message).collect().await;
    assert_eq!(texts, ["a", "b", "c"].map(|name| format!("Response for {name}")));
}
