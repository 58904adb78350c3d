//! The client library against a server that is killed, drained, stopped and overtaxed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamway::client::{
    Client, Delivery, Error, Options, Origin, PublisherOptions, Record, RetryPolicy, Start, Subscriber,
    SubscriberOptions,
};
use streamway::proto::v1::ReadLimit;
use streamway::record::Offset;
use tonic::Code;

use crate::harness::faults::Fault;
use crate::harness::{Server, signal, within};

fn client(server: &Server) -> Client {
    Client::new(Options::new(server.url())).unwrap()
}

fn numbered(i: u64) -> Record {
    Record::new(i.to_string())
}

/// The numbers in a delivery, which must stand at these very offsets.
fn numbers(delivery: &Delivery) -> Vec<u64> {
    let records = delivery.records().map(|record| {
        let record = record.unwrap();
        let number: u64 = std::str::from_utf8(record.value).unwrap().parse().unwrap();
        assert_eq!(record.offset, Offset::new(number), "lost, repeated or out of order");
        number
    });
    records.collect()
}

/// Reads on until so many numbers have been seen, each once and in order.
async fn read_to(subscriber: &mut Subscriber, from: u64, to: u64) {
    let mut due = from;
    while due < to {
        let delivery = within(60, "a delivery", subscriber.next()).await.unwrap().unwrap();
        for number in numbers(&delivery) {
            assert_eq!(number, due, "lost, repeated or out of order");
            due += 1;
        }
    }
}

fn to_tail(topic: &str) -> SubscriberOptions {
    let limit = Some(ReadLimit { stop_at_tail: true, ..ReadLimit::default() });
    SubscriberOptions { limit, ..SubscriberOptions::from_earliest(topic) }
}

/// P1, P2, P3, P5: one publisher and one subscriber, through a kill and a drain under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_and_subscriber_survive_restarts_without_loss_or_repeats() {
    const RECORDS: u64 = 60_000;
    let mut server = Server::start().await;
    let client = client(&server);
    let stored = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&stored);
    let options = PublisherOptions {
        records_per_batch: 50,
        on_stored: Some(Arc::new(move |batch| {
            // Batches are told of in order, a repeated one as the first time.
            let before = seen.fetch_add(batch.records.into(), Ordering::SeqCst);
            assert_eq!(batch.receipt.first, Offset::new(before));
        })),
        ..PublisherOptions::default()
    };
    let publisher = client.publisher("numbers", options).unwrap();
    let publishing = tokio::spawn(async move {
        for i in 0..RECORDS {
            publisher.publish_nowait(&numbered(i)).await?;
        }
        publisher.close().await
    });
    let mut subscriber = client.subscribe(SubscriberOptions::from_earliest("numbers"));
    let reading = tokio::spawn(async move {
        read_to(&mut subscriber, 0, RECORDS).await;
        subscriber
    });
    let reach = async |n| {
        while stored.load(Ordering::SeqCst) < n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(60, "a quarter", reach(RECORDS / 4)).await;
    server.kill9().await;
    server.restart().await;
    within(60, "a half", reach(RECORDS / 2)).await;
    server.sigterm().await;
    server.restart().await;
    within(120, "publishing", publishing).await.unwrap().unwrap();
    let subscriber = within(120, "reading", reading).await.unwrap();
    assert_eq!(stored.load(Ordering::SeqCst), RECORDS);
    assert_eq!(subscriber.position().unwrap().offset, Offset::new(RECORDS));
}

#[tokio::test]
async fn every_record_gets_a_receipt_of_its_own_offset() {
    let server = Server::start().await;
    let publisher = client(&server).publisher("receipts", PublisherOptions::default()).unwrap();
    let mut receipts = Vec::new();
    for i in 0..2500 {
        receipts.push(publisher.publish(&numbered(i)).await.unwrap());
    }
    for (i, receipt) in (0..).zip(receipts) {
        assert_eq!(within(30, "a receipt", receipt).await.unwrap().first, Offset::new(i));
    }
    publisher.close().await.unwrap();
}

#[tokio::test]
async fn a_request_id_of_the_caller_stores_once_for_two_publishers() {
    let server = Server::start().await;
    let client = client(&server);
    let mut duplicates = Vec::new();
    for _ in 0..2 {
        let publisher = client.publisher("once", PublisherOptions::default()).unwrap();
        let receipt = publisher.publish_batch(&[numbered(0), numbered(1)], Some("import-1")).await.unwrap();
        let receipt = within(30, "a receipt", receipt).await.unwrap();
        assert_eq!(receipt.first, Offset::ZERO);
        duplicates.push(receipt.duplicate);
        publisher.close().await.unwrap();
    }
    assert_eq!(duplicates, [false, true]);
    let mut subscriber = client.subscribe(to_tail("once"));
    read_to(&mut subscriber, 0, 2).await;
    assert!(within(30, "the end", subscriber.next()).await.is_none());
}

#[tokio::test]
async fn a_refused_batch_ends_the_publisher_with_the_servers_reason() {
    let server = Server::with(&["--batch-records-max", "10"]).await;
    let options = PublisherOptions { records_per_batch: 11, ..PublisherOptions::default() };
    let publisher = client(&server).publisher("refused", options).unwrap();
    let records: Vec<Record> = (0..11).map(numbered).collect();
    let receipt = publisher.publish_batch(&records, None).await.unwrap();
    let error = within(30, "the refusal", receipt).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, Some("BATCH_TOO_LARGE")), "{error}");
    let later = publisher.publish_nowait(&numbered(0)).await.unwrap_err();
    assert_eq!(later.reason(), Some("BATCH_TOO_LARGE"));
}

/// A server may accept less than a publisher gathers: fewer records, or fewer bytes. Every record is stored once and in
/// order, and has the receipt of its own place.
#[tokio::test]
async fn batches_that_a_server_refuses_are_split() {
    for limits in [["--batch-records-max", "10"], ["--batch-bytes-max", "200B"]] {
        let server = Server::with(&limits).await;
        let client = client(&server);
        let publisher = client.publisher("split", PublisherOptions::default()).unwrap();
        let mut receipts = Vec::new();
        for number in 0..2500 {
            receipts.push(publisher.publish(&numbered(number)).await.unwrap());
        }
        for (number, receipt) in (0..).zip(receipts) {
            let receipt = within(60, "a receipt", receipt).await.unwrap();
            assert_eq!((receipt.first, receipt.duplicate), (Offset::new(number), false), "{limits:?}");
        }
        publisher.close().await.unwrap();
        let mut subscriber = client.subscribe(to_tail("split"));
        read_to(&mut subscriber, 0, 2500).await;
        assert!(within(30, "the end", subscriber.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_final_error_is_returned_once() {
    let server = Server::start().await;
    let client = client(&server);
    let publisher = client.publisher("short", PublisherOptions::default()).unwrap();
    publisher.publish_nowait(&numbered(0)).await.unwrap();
    publisher.close().await.unwrap();
    let mut subscriber = client.subscribe(SubscriberOptions::new("short", Start::Offset(Offset::new(99))));
    let error = within(30, "the error", subscriber.next()).await.unwrap().unwrap_err();
    assert_eq!((error.origin(), error.reason()), (Origin::Server, Some("OFFSET_BEYOND_TAIL")), "{error}");
    assert!(subscriber.next().await.is_none());
}

#[tokio::test]
async fn a_topic_deleted_and_created_again_is_not_taken_for_the_old_one() {
    let mut server = Server::start().await;
    let client = client(&server);
    let publish = async |n| {
        let publisher = client.publisher("again", PublisherOptions::default()).unwrap();
        for i in 0..n {
            publisher.publish_nowait(&numbered(i)).await.unwrap();
        }
        publisher.close().await.unwrap();
    };
    publish(5).await;
    let mut subscriber = client.subscribe(SubscriberOptions::from_earliest("again"));
    read_to(&mut subscriber, 0, 5).await;
    // Its connection breaks first, so that it learns of the change only by resuming.
    server.kill9().await;
    server.restart().await;
    client.topics().delete("again", "").await.unwrap();
    publish(9).await;
    let error: Error = loop {
        match within(30, "the error", subscriber.next()).await.unwrap() {
            Ok(delivery) => assert!(delivery.is_empty(), "records of the new topic"),
            Err(error) => break error,
        }
    };
    // Where it resumed before the delete, the delete itself is what it is told.
    assert!(matches!(error.reason(), Some("EPOCH_CHANGED" | "TOPIC_NOT_FOUND")), "{error}");
}

/// A server that is alive for TCP but says nothing: heartbeats are missing.
#[tokio::test]
async fn a_silent_server_is_noticed() {
    let server = Server::start().await;
    let client = client(&server);
    let publisher = client.publisher("silent", PublisherOptions::default()).unwrap();
    publisher.publish_nowait(&numbered(0)).await.unwrap();
    publisher.flush().await.unwrap();
    let mut subscriber = client.subscribe(SubscriberOptions {
        heartbeat_interval: Duration::from_secs(1),
        retry: RetryPolicy { give_up_after: Duration::from_secs(1), ..RetryPolicy::default() },
        ..SubscriberOptions::from_earliest("silent")
    });
    read_to(&mut subscriber, 0, 1).await;
    signal(server.pid(), "STOP");
    let error = loop {
        if let Err(error) = within(30, "the silence is noticed", subscriber.next()).await.unwrap() {
            break error;
        }
    };
    signal(server.pid(), "CONT");
    assert_eq!(error.origin(), Origin::Transport);
    assert!(error.to_string().contains("has sent nothing in time"), "{error}");
}

/// A disk that hangs leaves the connection alive: nothing but what is not done tells of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_disk_hangs_is_given_up() {
    let server = Server::start().await;
    let retry = RetryPolicy { give_up_after: Duration::from_secs(2), ..RetryPolicy::default() };
    let options = PublisherOptions { retry, ..PublisherOptions::default() };
    let publisher = client(&server).publisher("hung", options).unwrap();
    publisher.publish_nowait(&numbered(0)).await.unwrap();
    publisher.flush().await.unwrap();
    let hung = Fault::inject(server.pid(), "fdatasync:delay_enter=60000000").await;
    publisher.publish_nowait(&numbered(1)).await.unwrap();
    let error = within(30, "the publisher gives up", publisher.flush()).await.unwrap_err();
    assert_eq!(error.origin(), Origin::Transport);
    assert!(error.to_string().contains("has acknowledged nothing for 2s"), "{error}");
    let impatient =
        Client::new(Options { answer_timeout: Duration::from_secs(1), ..Options::new(server.url()) });
    let created = impatient.unwrap().topics().create("new", None).await;
    assert!(created.unwrap_err().to_string().contains("has not answered for 1s"));
    drop(hung);
}

/// Heartbeats alone are no progress where there are records to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_read_its_disk_is_given_up() {
    let small = ["--storage-journal-bytes", "1MiB", "--storage-segment-bytes", "1MiB"];
    let server = Server::with(&[&small[..], &["--storage-cache-bytes", "64KiB"]].concat()).await;
    let publisher = client(&server).publisher("hung", PublisherOptions::default()).unwrap();
    // The oldest of 8 MiB is read from the disk.
    for _ in 0..8 << 10 {
        publisher.publish_nowait(&Record::new(vec![b'x'; 1 << 10])).await.unwrap();
    }
    publisher.close().await.unwrap();
    let hung = Fault::inject(server.pid(), "pread64:delay_enter=60000000").await;
    let mut subscriber = client(&server).subscribe(SubscriberOptions {
        heartbeat_interval: Duration::from_secs(1),
        retry: RetryPolicy { give_up_after: Duration::from_secs(3), ..RetryPolicy::default() },
        ..SubscriberOptions::from_earliest("hung")
    });
    let error = loop {
        match within(30, "a heartbeat, or the end", subscriber.next()).await.unwrap() {
            Ok(delivery) => assert!(delivery.is_empty(), "{delivery:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("has delivered no record for 3s although there are some"), "{error}");
    drop(hung);
}

/// An address that does not answer hands over to the next, even for one who would not wait.
#[tokio::test]
async fn the_first_server_that_answers_is_used() {
    let server = Server::start().await;
    let servers = vec!["http://127.0.0.1:1".to_owned(), server.url()];
    let client = || Client::new(Options { servers: servers.clone(), ..Options::new("") }).unwrap();
    let retry = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
    let publisher =
        client().publisher("t", PublisherOptions { retry, ..PublisherOptions::default() }).unwrap();
    publisher.publish_nowait(&numbered(0)).await.unwrap();
    publisher.close().await.unwrap();
    assert_eq!(client().topics().get("t").await.unwrap().tail, 1);
    let mut subscriber = client().subscribe(SubscriberOptions { retry, ..to_tail("t") });
    read_to(&mut subscriber, 0, 1).await;
}

/// While the server is down nothing is lost, and memory stays bounded: the caller waits.
#[tokio::test]
async fn a_publisher_waits_when_its_window_is_full() {
    let mut server = Server::start().await;
    let options = PublisherOptions { records_per_batch: 1, window: 16, ..PublisherOptions::default() };
    let publisher = client(&server).publisher("window", options).unwrap();
    publisher.publish_nowait(&numbered(0)).await.unwrap();
    publisher.flush().await.unwrap();
    server.kill9().await;
    for i in 1..=16 {
        publisher.publish_nowait(&numbered(i)).await.unwrap();
    }
    let record = numbered(17);
    let mut waiting = Box::pin(publisher.publish_nowait(&record));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    server.restart().await;
    within(60, "room again", waiting).await.unwrap();
    within(60, "a flush", publisher.flush()).await.unwrap();
    let mut subscriber = client(&server).subscribe(to_tail("window"));
    read_to(&mut subscriber, 0, 18).await;
    assert!(within(30, "the end", subscriber.next()).await.is_none());
}

/// The benchmark's path: one record a publish, no request ids.
#[tokio::test]
async fn raw_publishes_are_one_record_each() {
    let server = Server::start().await;
    let options = PublisherOptions { records_per_batch: 1, idempotent: false, ..PublisherOptions::default() };
    let publisher = client(&server).publisher("raw", options).unwrap();
    for i in 0..500 {
        publisher.publish_nowait(&numbered(i)).await.unwrap();
    }
    publisher.close().await.unwrap();
    let mut subscriber = client(&server).subscribe(to_tail("raw"));
    let (mut batches, mut due) = (0, 0);
    while let Some(delivery) = within(30, "a delivery", subscriber.next()).await {
        let delivery = delivery.unwrap();
        batches += delivery.batches().count();
        due += numbers(&delivery).len();
    }
    assert_eq!((batches, due), (500, 500));
}
