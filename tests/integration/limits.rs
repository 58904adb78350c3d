//! Read limits: the call ends by itself with status OK and the position to resume from.

use std::time::Duration;

use streamway::proto::v1::{CreateTopicRequest, ReadLimit, SubscribeRequest, Topic};

use crate::harness::make::{at, earliest, published, record, records, subscribe};
use crate::harness::{Reader, Seen, Server, StreamClient};

const TOPIC: &str = "limits";

fn limited(limit: ReadLimit) -> SubscribeRequest {
    SubscribeRequest { limit: Some(limit), ..subscribe(TOPIC, earliest()) }
}

async fn read(client: &mut StreamClient, request: SubscribeRequest) -> (Vec<Seen>, u64) {
    let mut reader = Reader::open(client, request).await.unwrap();
    let seen = reader.rest().await.unwrap();
    (seen, reader.next.expect("a position").offset)
}

#[tokio::test]
async fn max_records_cuts_inside_a_batch_and_resumes_there() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for i in 0..5 {
        published(&mut client, TOPIC, records(&format!("{i}-"), 10)).await;
    }
    for n in [1, 9, 10, 11, 25, 50] {
        let (seen, next) =
            read(&mut client, limited(ReadLimit { max_records: n, ..ReadLimit::default() })).await;
        assert_eq!((seen.len() as u64, next), (n, n));
    }
    // Reading piece by piece yields every record once.
    let (mut all, mut request) = (Vec::new(), limited(ReadLimit { max_records: 7, ..ReadLimit::default() }));
    request.limit.as_mut().unwrap().stop_at_tail = true;
    loop {
        let mut reader = Reader::open(&mut client, request.clone()).await.unwrap();
        let piece = reader.rest().await.unwrap();
        if piece.is_empty() {
            break;
        }
        all.extend(piece);
        request.start = Some(at(&reader.next.unwrap()));
    }
    let expected = (0..5).flat_map(|i| (0..10).map(move |j| format!("{i}-{j}")));
    assert!(all.iter().map(Seen::text).eq(expected));
}

#[tokio::test]
async fn max_records_waits_for_records_that_are_not_there_yet() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, TOPIC, records("a", 2)).await;
    let request = limited(ReadLimit { max_records: 3, ..ReadLimit::default() });
    let mut reader = Reader::open(&mut client.clone(), request).await.unwrap();
    assert_eq!(reader.take(2).await.len(), 2);
    published(&mut client, TOPIC, records("b", 5)).await;
    let rest = reader.rest().await.unwrap();
    assert_eq!(rest.iter().map(Seen::text).collect::<Vec<_>>(), ["b0"]);
}

#[tokio::test]
async fn max_bytes_sends_at_least_one_record_and_about_that_much() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..10 {
        published(&mut client, TOPIC, vec![record(vec![1; 10_000]); 10]).await;
    }
    let (seen, next) = read(&mut client, limited(ReadLimit { max_bytes: 1, ..ReadLimit::default() })).await;
    assert_eq!((seen.len(), next), (1, 1));
    let (seen, next) =
        read(&mut client, limited(ReadLimit { max_bytes: 255_000, ..ReadLimit::default() })).await;
    assert!((20..=25).contains(&seen.len()), "{} records", seen.len());
    assert_eq!(next, seen.len() as u64);
}

#[tokio::test]
async fn stop_at_tail_is_the_tail_as_it_was_when_the_call_began() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let topic = Some(Topic { name: TOPIC.into(), ..Topic::default() });
    server.topics().await.create_topic(CreateTopicRequest { topic }).await.unwrap();
    let (empty, next) =
        read(&mut client, limited(ReadLimit { stop_at_tail: true, ..ReadLimit::default() })).await;
    assert_eq!((empty.len(), next), (0, 0));
    published(&mut client, TOPIC, records("a", 10)).await;
    let (seen, next) =
        read(&mut client, limited(ReadLimit { stop_at_tail: true, ..ReadLimit::default() })).await;
    assert_eq!((seen.len(), next), (10, 10));
}

#[tokio::test]
async fn until_time_stops_before_the_first_batch_stored_then() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut times = Vec::new();
    for i in 0..10 {
        let receipt = published(&mut client, TOPIC, records(&format!("{i}-"), 2)).await;
        times.push(receipt.publish_time.unwrap());
    }
    let first = times.iter().position(|time| *time == times[5]).unwrap() as u64;
    let (seen, next) =
        read(&mut client, limited(ReadLimit { until_time: Some(times[5]), ..ReadLimit::default() })).await;
    assert_eq!((seen.len() as u64, next), (first * 2, first * 2));
}

#[tokio::test]
async fn until_a_time_to_come_ends_then() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let time = published(&mut client, TOPIC, records("a", 2)).await.publish_time.unwrap();
    let until = prost_types::Timestamp { seconds: time.seconds + 2, nanos: time.nanos };
    let request = SubscribeRequest {
        heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..limited(ReadLimit { until_time: Some(until), ..ReadLimit::default() })
    };
    let begun = std::time::Instant::now();
    let (seen, next) = read(&mut client, request).await;
    assert_eq!((seen.len(), next), (2, 2));
    assert!(begun.elapsed() < Duration::from_secs(10));
}
