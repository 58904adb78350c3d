//! Administration of topics.

use std::time::Duration;

use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, ListTopicsRequest, Retention, Topic,
    TrimTopicRequest, UpdateTopicRequest,
};
use tonic::Code;

use crate::harness::make::{earliest, next, published, records, subscribe};
use crate::harness::{Reader, Server, TopicClient, read_all, refused};

fn topic(name: &str) -> Topic {
    Topic { name: name.into(), ..Topic::default() }
}

async fn create(topics: &mut TopicClient, topic: Topic) -> Result<Topic, tonic::Status> {
    let request = CreateTopicRequest { topic: Some(topic) };
    Ok(topics.create_topic(request).await?.into_inner().topic.expect("the topic"))
}

async fn get(topics: &mut TopicClient, name: &str) -> Result<Topic, tonic::Status> {
    let request = GetTopicRequest { name: name.into() };
    Ok(topics.get_topic(request).await?.into_inner().topic.expect("the topic"))
}

#[tokio::test]
async fn a_topic_is_created_described_and_kept_over_a_restart() {
    let mut server = Server::start().await;
    let mut topics = server.topics().await;
    let max_age = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let retention = Some(Retention { max_age, max_bytes: 1 << 30, max_records: 1000 });
    let made = create(&mut topics, Topic { retention, ..topic("orders") }).await.unwrap();
    assert_eq!((made.name.as_str(), made.retention, made.tail), ("orders", retention, 0));
    assert!(made.create_time.is_some() && made.epoch.len() == 16 && made.last_publish_time.is_none());
    let status = create(&mut topics, topic("orders")).await.unwrap_err();
    refused(&status, Code::AlreadyExists, "TOPIC_ALREADY_EXISTS");

    let receipt = published(&mut server.client().await, "orders", records("a", 5)).await;
    let now = get(&mut topics, "orders").await.unwrap();
    assert_eq!((now.earliest_offset, now.tail, now.last_publish_time), (0, 5, receipt.publish_time));
    assert!(now.stored_bytes > 0);
    for _ in 0..2 {
        server.kill9().await;
        server.restart().await;
        let kept = get(&mut server.topics().await, "orders").await.unwrap();
        // The journal and the segments frame batches differently, so bytes are reported approximately.
        assert!(kept.stored_bytes > 0);
        assert_eq!(Topic { stored_bytes: now.stored_bytes, ..kept }, now);
    }
}

#[tokio::test]
async fn topics_are_listed_by_name_a_page_at_a_time() {
    let server = Server::start().await;
    let mut topics = server.topics().await;
    let names: Vec<String> = (0..25).map(|i| format!("t-{i:02}")).collect();
    for name in names.iter().rev() {
        create(&mut topics, topic(name)).await.unwrap();
    }
    create(&mut topics, topic("other")).await.unwrap();
    let (mut found, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = ListTopicsRequest { page_size: 10, page_token, prefix: "t-".into() };
        let page = topics.list_topics(request).await.unwrap().into_inner();
        assert!(page.topics.len() <= 10);
        found.extend(page.topics.into_iter().map(|topic| topic.name));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((found, pages), (names, 3));
    let all = topics.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!((all.topics.len(), all.next_page_token.as_str()), (26, ""));
}

#[tokio::test]
async fn update_changes_the_fields_of_the_mask() {
    let server = Server::start().await;
    let mut topics = server.topics().await;
    let before = Retention { max_age: None, max_bytes: 1000, max_records: 1000 };
    create(&mut topics, Topic { retention: Some(before), ..topic("u") }).await.unwrap();
    let after = Retention { max_age: None, max_bytes: 2000, max_records: 2000 };
    let mut update = async |paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let topic = Some(Topic { retention: Some(after), ..topic("u") });
        topics.update_topic(UpdateTopicRequest { topic, update_mask }).await
    };
    let changed = update(&["retention.max_bytes"]).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(changed.retention, Some(Retention { max_bytes: 2000, ..before }));
    let changed = update(&["retention"]).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(changed.retention, Some(after));
    assert!(changed.update_time.is_some());
    for wrong in ["epoch", "nonsense", "retention.nonsense"] {
        refused(&update(&[wrong]).await.unwrap_err(), Code::InvalidArgument, "INVALID_FIELD");
    }
    let status = update(&["x".repeat(1 << 16).as_str()]).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    assert!(status.message().len() < 200, "an error repeats little of what it was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_different_fields_at_once_all_count() {
    let server = Server::start().await;
    create(&mut server.topics().await, topic("u")).await.unwrap();
    let mut retention = Retention { max_age: None, max_bytes: 0, max_records: 0 };
    for round in 1..=10 {
        retention = Retention { max_bytes: 1000 + round, max_records: 1000 + round, ..retention };
        let update = async |path: &str| {
            let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
            let topic = Some(Topic { retention: Some(retention), ..topic("u") });
            server.topics().await.update_topic(UpdateTopicRequest { topic, update_mask }).await.unwrap();
        };
        tokio::join!(update("retention.max_bytes"), update("retention.max_records"));
        let found = get(&mut server.topics().await, "u").await.unwrap();
        assert_eq!(found.retention, Some(retention));
    }
}

#[tokio::test]
async fn trim_forgets_whole_batches_and_says_where_the_topic_begins() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    for i in 0..10 {
        published(&mut client, "t", records(&format!("{i}-"), 10)).await;
    }
    let trim = |before_offset| TrimTopicRequest { name: "t".into(), before_offset, epoch: String::new() };
    let kept = server.topics().await.trim_topic(trim(55)).await.unwrap().into_inner().earliest_offset;
    assert_eq!(kept, 50, "the batch that holds offset 55 is kept whole");
    let status = server.topics().await.trim_topic(trim(101)).await.unwrap_err();
    refused(&status, Code::OutOfRange, "OFFSET_BEYOND_TAIL");
    // A trim never moves backwards.
    let again = server.topics().await.trim_topic(trim(10)).await.unwrap().into_inner();
    assert_eq!(again.earliest_offset, 50);
    server.kill9().await;
    server.restart().await;
    let seen = read_all(&mut server.client().await, "t").await;
    assert_eq!((seen[0].offset, seen.len()), (50, 50));
    let all = server.topics().await.trim_topic(trim(100)).await.unwrap().into_inner();
    assert_eq!(all.earliest_offset, 100);
    assert_eq!(read_all(&mut server.client().await, "t").await, []);
    let receipt = published(&mut server.client().await, "t", records("on", 1)).await;
    assert_eq!(receipt.first_offset, 100, "offsets are never used again");
}

#[tokio::test]
async fn deleting_ends_subscriptions_and_recreating_starts_anew() {
    let server = Server::start().await;
    let (mut client, mut topics) = (server.client().await, server.topics().await);
    let old = next(&published(&mut client, "d", records("a", 3)).await);
    let mut reader = Reader::open(&mut client.clone(), subscribe("d", earliest())).await.unwrap();
    reader.take(3).await;
    let delete = |epoch: &str| DeleteTopicRequest { name: "d".into(), epoch: epoch.into() };
    let status = topics.delete_topic(delete("0123456789abcdef")).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
    topics.delete_topic(delete(&old.epoch)).await.unwrap();
    refused(&reader.rest().await.unwrap_err(), Code::NotFound, "TOPIC_NOT_FOUND");
    refused(&get(&mut topics, "d").await.unwrap_err(), Code::NotFound, "TOPIC_NOT_FOUND");
    let status = topics.delete_topic(delete("")).await.unwrap_err();
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");

    let new = published(&mut client, "d", records("b", 1)).await;
    assert_eq!((new.first_offset, next(&new).epoch == old.epoch), (0, false));
    let trim = TrimTopicRequest { name: "d".into(), before_offset: 1, epoch: old.epoch };
    let status = topics.trim_topic(trim).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
    assert_eq!(read_all(&mut client, "d").await.len(), 1);
}

#[tokio::test]
async fn there_are_at_most_as_many_topics_as_configured() {
    let server = Server::with(&["--topics-max", "3"]).await;
    let mut topics = server.topics().await;
    for name in ["a", "b", "c"] {
        create(&mut topics, topic(name)).await.unwrap();
    }
    let status = create(&mut topics, topic("d")).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "TOPIC_LIMIT");
    let publish = crate::harness::make::publish("e", records("x", 1));
    let status = server.client().await.publish(publish).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "TOPIC_LIMIT");
    let delete = DeleteTopicRequest { name: "a".into(), epoch: String::new() };
    topics.delete_topic(delete).await.unwrap();
    create(&mut topics, topic("d")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), get(&mut topics, "d")).await.unwrap().unwrap();
}
