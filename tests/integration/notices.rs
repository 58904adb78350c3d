//! The notice CAUGHT_UP, and heartbeats.

use std::time::{Duration, Instant};

use streamway::proto::v1::{Notice, SubscribeRequest};

use crate::harness::make::{earliest, latest, published, records, subscribe};
use crate::harness::{Reader, Server};

#[tokio::test]
async fn caught_up_comes_once_where_history_ends() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "notices", records("old", 25)).await;
    let mut reader = Reader::open(&mut client.clone(), subscribe("notices", earliest())).await.unwrap();
    let history = reader.until(Notice::CaughtUp).await;
    assert_eq!(history.len(), 25);
    for _ in 0..5 {
        published(&mut client, "notices", records("new", 5)).await;
        reader.take(5).await;
    }
    assert_eq!(reader.notices, [Notice::CaughtUp]);
}

#[tokio::test]
async fn caught_up_comes_at_once_on_an_empty_topic() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut reader = Reader::open(&mut client, subscribe("empty", latest())).await.unwrap();
    let message = reader.message().await.unwrap().expect("a message");
    assert_eq!((message.notice(), message.batches.len(), message.tail), (Notice::CaughtUp, 0, 0));
}

#[tokio::test]
async fn a_silent_topic_is_heard_of_by_heartbeats_with_the_place_to_resume() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "beats", records("a", 3)).await;
    let heartbeat_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let request = SubscribeRequest { heartbeat_interval, ..subscribe("beats", earliest()) };
    let mut reader = Reader::open(&mut client, request).await.unwrap();
    reader.until(Notice::CaughtUp).await;
    for _ in 0..3 {
        let begun = Instant::now();
        let beat = reader.message().await.unwrap().expect("a heartbeat");
        assert_eq!((beat.batches.len(), beat.notice(), beat.tail), (0, Notice::Unspecified, 3));
        assert_eq!(beat.next.unwrap().offset, 3);
        // 1 s ± 10 %, plus the delay of a busy machine.
        let took = begun.elapsed();
        assert!((Duration::from_millis(800)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }
}
