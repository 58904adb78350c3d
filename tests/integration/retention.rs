//! Retention by age, bytes and count deletes the oldest whole batches, and never a newer one.

use std::time::Duration;

use streamway::proto::v1::{
    CreateTopicRequest, GetTopicRequest, Notice, OutOfRangePolicy, Retention, Topic, subscribe_request::Start,
};

use crate::harness::make::{or_else, published, record, subscribe, to_tail};
use crate::harness::{Reader, Seen, Server, TopicClient, read_all, within};

/// The smallest segments allowed, so that there are whole ones to delete.
const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
/// 100 of them make about 10 MB.
const BATCH_BYTES: usize = 100_000;

async fn filled(retention: Retention) -> Server {
    let server = Server::with(&SMALL).await;
    let topic = Topic { name: "r".into(), retention: Some(retention), ..Topic::default() };
    server.topics().await.create_topic(CreateTopicRequest { topic: Some(topic) }).await.unwrap();
    let mut client = server.client().await;
    for i in 0..100 {
        let mut value = vec![b'x'; BATCH_BYTES];
        value[0] = i;
        published(&mut client, "r", vec![record(value)]).await;
    }
    server
}

async fn topic(topics: &mut TopicClient) -> Topic {
    let get = GetTopicRequest { name: "r".into() };
    topics.get_topic(get).await.unwrap().into_inner().topic.unwrap()
}

/// Records left after background retention has started and finished.
async fn left(server: &Server) -> Vec<Seen> {
    within(60, "retention", forgets(server)).await;
    read_all(&mut server.client().await, "r").await
}

async fn forgets(server: &Server) {
    let mut topics = server.topics().await;
    loop {
        let topic = topic(&mut topics).await;
        let settled = topic.retention.unwrap();
        let bytes_ok = settled.max_bytes == 0 || topic.stored_bytes <= settled.max_bytes + (2 << 20);
        let count_ok =
            settled.max_records == 0 || topic.tail - topic.earliest_offset <= settled.max_records + 20;
        if topic.earliest_offset > 0 && bytes_ok && count_ok {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn assert_newest_are_whole(seen: &[Seen]) {
    let first = 100 - seen.len() as u64;
    for (seen, offset) in seen.iter().zip(first..) {
        assert_eq!((seen.offset, u64::from(seen.record.value[0])), (offset, offset));
        assert_eq!(seen.record.value.len(), BATCH_BYTES);
    }
}

#[tokio::test]
async fn by_bytes() {
    let retention = Retention { max_age: None, max_bytes: 3_000_000, max_records: 0 };
    let seen = left(&filled(retention).await).await;
    assert_newest_are_whole(&seen);
    assert!((29..=55).contains(&seen.len()), "{} of 100 kept, about 30 fit", seen.len());
}

#[tokio::test]
async fn by_count_and_a_slow_reader_is_told_of_the_gap() {
    let retention = Retention { max_age: None, max_bytes: 0, max_records: 40 };
    let server = filled(retention).await;
    let seen = left(&server).await;
    assert_newest_are_whole(&seen);
    assert!((40..=60).contains(&seen.len()), "{} of 100 kept, 40 asked for", seen.len());
    let request = or_else(to_tail(subscribe("r", Start::Offset(0))), OutOfRangePolicy::Earliest);
    let mut reader = Reader::open(&mut server.client().await, request).await.unwrap();
    assert_eq!(reader.rest().await.unwrap(), seen);
    assert_eq!(reader.notices.first(), Some(&Notice::Gap));
}

#[tokio::test]
async fn by_age_also_after_a_restart() {
    let max_age = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut server = filled(Retention { max_age, max_bytes: 0, max_records: 0 }).await;
    server.kill9().await;
    server.restart().await;
    // Soon everything is older than a second; only records in the newest segment may remain.
    let forgotten = async {
        // Not by reading, which concurrent deletion would interrupt.
        while topic(&mut server.topics().await).await.earliest_offset < 75 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(60, "retention by age", forgotten).await;
    let receipt = published(&mut server.client().await, "r", vec![record("on")]).await;
    assert_eq!(receipt.first_offset, 100);
}
