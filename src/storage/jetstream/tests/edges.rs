//! What NATS takes the zero, the first and the largest value of each of our requests for, and what the
//! engine makes of it.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;

use super::{config, created, open, put};
use crate::record::Offset;
use crate::storage::conformance::{name, read_all};
use crate::storage::jetstream::flight::{Outcome, send};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Log, Retention};

/// A server that answers one of these otherwise needs another engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_takes_edge_values_as_the_engine_believes() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let stream = log.nats.context.get_stream_no_info("streamway-t").await.unwrap();
    let subject = log.topics()[&name("t")].subject.clone();
    let expecting = async |last: &str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", last);
        send(&log.nats, &subject, async_nats::Request::new().headers(headers)).await
    };
    // "To follow 0" is a condition.
    assert!(matches!(expecting("0").await, Outcome::Stored(1)));
    assert!(matches!(expecting("0").await, Outcome::Taken(1)));
    assert!(matches!(expecting("18446744073709551615").await, Outcome::Taken(1)));
    for n in 2..=6 {
        assert!(matches!(expecting(&(n - 1).to_string()).await, Outcome::Stored(sequence) if sequence == n));
    }
    let bounds = async || {
        let state = log.nats.info("streamway-t").await.unwrap().unwrap().state;
        (state.messages, state.first_sequence, state.last_sequence)
    };
    // Messages: none beyond the newest; 0 is no sequence.
    for (sequence, is_there) in [(1, true), (6, true), (7, false), (u64::MAX, false)] {
        let found = log.nats.message("streamway-t", sequence).await.unwrap();
        assert_eq!(found.is_some(), is_there, "message {sequence}");
    }
    assert!(log.nats.message("streamway-t", 0).await.is_err());
    // Consumers: from the first one on, none before it and none beyond the next.
    for (start, delivered) in [(1, 0), (6, 5), (7, 6), (u64::MAX, 6)] {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: start };
        let consumer = log.nats.consumer("streamway-t", policy, false).await.unwrap();
        assert_eq!(consumer.cached_info().delivered.stream_sequence, delivered, "from {start}");
    }
    let none = DeliverPolicy::ByStartSequence { start_sequence: 0 };
    assert!(log.nats.consumer("streamway-t", none, false).await.is_err());
    // Purges: 0 and 1 would be everything, so they are not sent.
    for sequence in [0, 1] {
        log.nats.purge("streamway-t", sequence).await.unwrap();
        assert_eq!(bounds().await, (6, 1, 6), "before {sequence}");
    }
    for (sequence, left) in [(2, (5, 2, 6)), (2, (5, 2, 6)), (6, (1, 6, 6)), (7, (0, 7, 6)), (7, (0, 7, 6))] {
        log.nats.purge("streamway-t", sequence).await.unwrap();
        assert_eq!(bounds().await, left, "before {sequence}");
    }
    assert!(matches!(expecting("6").await, Outcome::Stored(7)));
    stream.purge().sequence(1).await.unwrap();
    assert_eq!(bounds().await, (0, 8, 7), "NATS's own meaning of 1");
    drop(topic);
}

/// Reads of no bytes and of more than NATS can count give what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_any_size_is_answered() {
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.cache_bytes = 1;
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    for n in 0..20 {
        put(&*topic, n).await.unwrap();
    }
    for bytes in [0, 1, i64::MAX as usize, i64::MAX as usize + 1, usize::MAX] {
        let read = tokio::time::timeout(Duration::from_secs(10), topic.read(Offset::ZERO, bytes));
        assert!(read.await.expect("it is answered").unwrap().records > 0, "{bytes} bytes");
    }
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 20);
}

/// A size that NATS has no room to reserve is refused for what it is, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_that_nats_cannot_reserve_is_refused() {
    let nats = Nats::single_with_store("64MB");
    let log = open(&config(&nats)).await;
    let of = |bytes| Retention { max_bytes: Some(bytes), ..Retention::default() };
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    for bytes in [1 << 30, (1 << 60) - 1] {
        let made = log.create(name("u"), of(bytes)).await.err();
        assert!(matches!(&made, Some(Error::NoRoom { bytes: told, .. }) if *told == bytes), "{made:?}");
        let updated = log.update(&name("t"), of(bytes)).await.err();
        assert!(matches!(&updated, Some(Error::NoRoom { .. })), "{updated:?}");
        assert!(updated.unwrap().to_string().contains("max_file_store"));
    }
    // What no store can hold is no limit.
    log.update(&name("t"), of(1 << 60)).await.unwrap();
    log.create(name("u"), of(1 << 20)).await.unwrap();
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 1);
}
