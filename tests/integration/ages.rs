//! Maximum age of connections and streams (P3): GOAWAY first, then a grace period, then MAX_AGE with the position to
//! resume from; the client library resumes by itself.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use streamway::client::{Client, Options, PublisherOptions, Record, SubscriberOptions};
use streamway::proto::example::MyRequest;
use streamway::proto::example::my_service_client::MyServiceClient;
use streamway::proto::v1::Notice;
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::harness::frames::{Frames, Peer};
use crate::harness::make::{latest, published, records, subscribe};
use crate::harness::{Reader, Server, refused, within};

/// Code of a GOAWAY without an error.
const NO_ERROR: u32 = 0;

async fn aging() -> Server {
    Server::with(&["--connection-age-max", "2s", "--connection-age-grace", "2s"]).await
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_its_calls_where_to_resume() {
    let server = aging().await;
    let mut peer = Peer::connect(server.listen()).await;
    peer.send(Frames::default()).await;
    let mut client = server.client().await;
    let begun = Instant::now();
    published(&mut client, "old", records("x", 3)).await;
    let mut reader = Reader::open(&mut client, subscribe("old", latest())).await.unwrap();
    reader.until(Notice::CaughtUp).await;
    assert_eq!(within(10, "GOAWAY", peer.goaway()).await, Some(NO_ERROR));
    let status = reader.rest().await.expect_err("its connection is too old");
    println!("told after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(3), "only after the grace: {:?}", begun.elapsed());
    refused(&status, Code::Unavailable, "STREAM_MAX_AGE");
    assert_eq!(reader.notices.last(), Some(&Notice::MaxAge), "told in-band first");
    assert_eq!(reader.next.expect("where to resume").offset, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_library_goes_on_from_connection_to_connection() {
    let server = aging().await;
    let client = Client::new(Options::new(server.url())).unwrap();
    let publisher = client.publisher("old", PublisherOptions::default()).unwrap();
    let mut subscriber = client.subscribe(SubscriberOptions::from_earliest("old"));
    let (begun, mut number) = (Instant::now(), 0_u64);
    // Publishes and reads one record after the other for about three maximum ages, grace included.
    while begun.elapsed() < Duration::from_secs(10) {
        publisher.publish(&Record::new(number.to_string())).await.unwrap().await.unwrap();
        let mut seen = Vec::new();
        while seen.is_empty() {
            let delivery = within(10, "a delivery", subscriber.next()).await.unwrap().unwrap();
            seen.extend(delivery.records().map(|read| read.unwrap().offset.get()));
        }
        assert_eq!(seen, [number], "lost, repeated or out of order");
        number += 1;
    }
    println!("{number} records over several connections");
}

/// Whoever keeps its side of the tutorial's or of reflection's stream open is told too, and not cut off.
#[tokio::test]
async fn the_streams_of_the_other_services_end_with_their_connection() {
    let server = aging().await;
    let mut tutorial = MyServiceClient::new(server.channel().await);
    let asked = stream::iter([MyRequest::default()]).chain(stream::pending());
    let mut answers = tutorial.bidirectional_streaming_rpc_method(asked).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let list = MessageRequest::ListServices(String::new());
    let list = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let asked = stream::iter([list]).chain(stream::pending());
    let mut files = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    let status = within(20, "the tutorial's end", answers.message()).await.unwrap_err();
    refused(&status, Code::Unavailable, "STREAM_MAX_AGE");
    while within(20, "reflection's end", files.message()).await.expect("it ends well").is_some() {}
}
