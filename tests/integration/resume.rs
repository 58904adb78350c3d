//! A position leads exactly on, across restarts; one of an earlier incarnation fails loudly (P3).

use streamway::proto::v1::DeleteTopicRequest;
use tonic::Code;

use crate::harness::make::{at, earliest, next, published, records, subscribe, to_tail};
use crate::harness::{Reader, Seen, Server, refused};

#[tokio::test]
async fn a_subscriber_continues_where_it_stopped_after_a_stop_and_a_kill() {
    let mut server = Server::start().await;
    let mut all = Vec::new();
    let mut start = earliest();
    for round in 0..6 {
        let mut client = server.client().await;
        let batches = 5;
        for i in 0..batches {
            published(&mut client, "resume", records(&format!("{round}/{i}/"), 7)).await;
        }
        let mut reader = Reader::open(&mut client, subscribe("resume", start)).await.unwrap();
        // Leaves some unread, so that each round begins inside history.
        while all.len() < (round + 1) * batches * 7 - 10 {
            all.extend(reader.records().await.unwrap().unwrap());
        }
        start = at(&reader.next.unwrap());
        if round % 2 == 0 {
            server.kill9().await;
        } else {
            server.sigterm().await;
        }
        server.restart().await;
    }
    let mut reader =
        Reader::open(&mut server.client().await, to_tail(subscribe("resume", start))).await.unwrap();
    all.extend(reader.rest().await.unwrap());
    let expected = (0..6).flat_map(|r| (0..5).flat_map(move |i| (0..7).map(move |j| format!("{r}/{i}/{j}"))));
    assert!(all.iter().map(Seen::text).eq(expected), "nothing lost, repeated or out of order");
}

#[tokio::test]
async fn a_position_of_an_earlier_epoch_fails_also_after_a_restart() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let old = next(&published(&mut client, "again", records("old", 3)).await);
    let delete = DeleteTopicRequest { name: "again".into(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(delete).await.unwrap();
    let status = Reader::open(&mut client, subscribe("again", at(&old))).await;
    refused(&status.err().expect("deleted"), Code::NotFound, "TOPIC_NOT_FOUND");

    let new = next(&published(&mut client, "again", records("new", 5)).await);
    assert_ne!(new.epoch, old.epoch);
    for _ in 0..2 {
        let mut client = server.client().await;
        let status = Reader::open(&mut client, subscribe("again", at(&old))).await;
        refused(&status.err().expect("another epoch"), Code::FailedPrecondition, "EPOCH_CHANGED");
        let mut reader = Reader::open(&mut client, to_tail(subscribe("again", earliest()))).await.unwrap();
        let texts: Vec<_> = reader.rest().await.unwrap().iter().map(Seen::text).collect();
        assert_eq!(texts, ["new0", "new1", "new2", "new3", "new4"]);
        server.kill9().await;
        server.restart().await;
    }
}

/// The tail a client was told is never taken back.
#[tokio::test]
async fn a_position_at_the_tail_waits_for_new_records() {
    let mut server = Server::start().await;
    let position = next(&published(&mut server.client().await, "tail", records("a", 4)).await);
    server.kill9().await;
    server.restart().await;
    let mut client = server.client().await;
    let mut reader = Reader::open(&mut client.clone(), subscribe("tail", at(&position))).await.unwrap();
    published(&mut client, "tail", records("b", 2)).await;
    let seen = reader.take(2).await;
    assert_eq!(
        seen.iter().map(|s| (s.offset, s.text())).collect::<Vec<_>>(),
        [(4, "b0".to_owned()), (5, "b1".to_owned())]
    );
}
