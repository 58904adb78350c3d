//! Tests of positions that name the same place, and of reads after trims, on replicas that know of the trim and on
//! replicas that do not.

use std::time::Duration;

use super::{config, created, eventually, open, put};
use crate::record::{Offset, UnixMicros, offsetless};
use crate::storage::conformance::{batch, name, read_all};
use crate::storage::jetstream::message::Head;
use crate::storage::jetstream::names::subject;
use crate::storage::jetstream::nats::IdleTimes;
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::{JetStreamLog, connect};
use crate::storage::{Error, Hold, Log, Reason, Retention, Start};

/// An offset is accepted if no record after it was trimmed, because it may be the `next` of a receipt; any other
/// trimmed offset is refused. That holds on every replica, including one that was restarted and did not see the records
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_trimmed_only_if_a_record_was_missed() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let on_b = b.get(&name("t")).await.unwrap();
    on_b.resolve(Start::Latest).await.unwrap();
    let (mut nexts, mut records) = (Vec::new(), Vec::new());
    for (n, sizes) in [&[1_usize, 3, 2][..], &[1], &[2, 2], &[3]].into_iter().enumerate() {
        let batches = sizes.iter().map(|count| batch(&vec![n as u64; *count], 0)).collect();
        let done = on_a.appender().append(batches, Hold::default()).await;
        assert_eq!(done.failure, None);
        nexts.push(done.receipts.last().unwrap().next.offset);
        records.extend(done.receipts.iter().zip(sizes).flat_map(|(receipt, count)| {
            (0..*count as u64).map(|n| receipt.first.plus(n)).collect::<Vec<_>>()
        }));
    }
    let tail = on_a.tail();
    assert_eq!(on_b.resolve(Start::At(tail)).await, Ok(tail));
    for next in &nexts {
        // Everything up to this offset is trimmed, and nothing after it.
        let earliest = a.trim(&name("t"), None, *next).await.unwrap();
        eventually("b knows of the trim", Duration::from_secs(10), async || on_b.earliest() == earliest)
            .await;
        let edges =
            nexts.iter().chain(&records).flat_map(|at| [at.get().saturating_sub(1), at.get(), at.get() + 1]);
        for at in edges.filter(|at| *at <= tail.get()).map(Offset::new) {
            let fresh = open(&config(&nats)).await;
            let is_missed = records.iter().any(|record| *record >= at && *record < earliest);
            // Each position is also resolved by a replica that has no earlier knowledge.
            let fresh = fresh.get(&name("t")).await.unwrap();
            for topic in [&on_a, &on_b, &fresh] {
                let found = topic.resolve(Start::At(at)).await;
                let Ok(from) = found else {
                    assert!(is_missed && matches!(found, Err(Error::Trimmed { .. })), "{at}: {found:?}");
                    continue;
                };
                assert!(!is_missed, "{at} after a trim before {next}");
                let left = read_all(&**topic, from).await.unwrap().len();
                assert_eq!(left, records.iter().filter(|record| **record >= at).count(), "{at}");
                assert_eq!(read_all(&**topic, at).await.unwrap().len(), left, "{at}");
            }
        }
    }
}

/// Checks that a newly started replica accepts the position after the last trimmed record, and refuses the position of
/// that record.
async fn assert_only_the_end_is_good(nats: &Nats, last: Offset) {
    for (at, is_good) in [(last.plus(1), true), (last, false)] {
        let fresh = open(&config(nats)).await;
        let topic = fresh.get(&name("t")).await.unwrap();
        let found = topic.resolve(Start::At(at)).await;
        if is_good {
            assert_eq!(read_all(&*topic, found.unwrap()).await, read_all(&*topic, topic.earliest()).await);
        } else {
            assert!(matches!(found, Err(Error::Trimmed { .. })), "{at}: {found:?}");
        }
    }
}

/// Records that expire are not trimmed by any replica. The replica that stored the newest message writes down its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_behind_what_expired_is_good_on_a_replica_that_did_not_see_it() {
    let nats = Nats::single("");
    let config = config(&nats);
    let mut connected = connect::connect(&config, &Reason::default()).await.unwrap();
    connected.idle_times = IdleTimes { quiet: Duration::from_millis(300), ..IdleTimes::default() };
    let log = JetStreamLog::over(connected, config.topics_max);
    let retention = Retention { max_age: Some(Duration::from_secs(1)), ..Retention::default() };
    let topic = log.create(name("t"), retention).await.unwrap();
    // In the second round, the log that stored the records closes before it was quiet for long enough.
    for is_stopped in [false, true] {
        let topic = log.get(&name("t")).await.unwrap();
        let done = topic.appender().append(vec![batch(&[1, 2, 3], 0)], Hold::default()).await;
        let next = done.receipts[0].next.offset;
        if is_stopped {
            log.close().await.unwrap();
        }
        let witness = open(&config).await;
        eventually("all expired", Duration::from_secs(20), async || {
            witness.nats.info("streamway-t").await.unwrap().unwrap().state.messages == 0
        })
        .await;
        eventually("it is written down", Duration::from_secs(20), async || {
            let fresh = open(&config).await;
            fresh.get(&name("t")).await.unwrap().resolve(Start::At(next)).await.is_ok()
        })
        .await;
        assert_only_the_end_is_good(&nats, Offset::new(next.get() - 1)).await;
        // A condition on that offset holds too.
        if is_stopped {
            let on_fresh = witness.get(&name("t")).await.unwrap();
            let next = batch(&[4], 0).expecting(Some(next));
            let done = on_fresh.appender().append(vec![next], Hold::default()).await;
            assert_eq!(done.failure, None);
        }
    }
    drop(topic);
}

/// NATS applies retention without a notification. The next message contains the end of the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_message_says_where_the_trimmed_one_ended() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    for n in 0..4 {
        let done = topic.appender().append(vec![batch(&[n, n, n], 0)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    for first in 2..=4 {
        log.nats.purge("streamway-t", first).await.unwrap();
        assert_only_the_end_is_good(&nats, Offset::new(((first - 2) << 10) + 2)).await;
    }
}

/// Messages of an earlier version do not contain that end. A trim by this version writes it down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_of_older_messages_leaves_their_ends_known() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    for after in 0..3 {
        let (mut payload, time) = (Vec::new(), UnixMicros::now());
        offsetless::encode(time, &batch(&[after, after], 0), &mut payload);
        let (crc, before) = (crc32c::crc32c(&payload), 2 * after);
        let head = Head { nonce: after, time, before, records: 2, crc, ..Head::default() };
        let (subject, headers) = (subject(&name("t"), topic.epoch()), head.headers(after));
        log.nats.client.publish_with_headers(subject, headers, payload.into()).await.unwrap();
    }
    eventually("they are stored", Duration::from_secs(10), async || {
        topic.resolve(Start::Latest).await == Ok(Offset::new(3 << 10))
    })
    .await;
    for before in [1 << 10, 3 << 10] {
        log.trim(&name("t"), None, Offset::new(before)).await.unwrap();
        assert_only_the_end_is_good(&nats, Offset::new(before - 1024 + 1)).await;
    }
}

/// After the answer to a trim on one replica, another replica does not read the trimmed records, and no start resolves
/// to one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_after_a_trim_by_another_replica_begins_behind_it() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let on_b = b.get(&name("t")).await.unwrap();
    on_b.resolve(Start::Latest).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..30 {
        receipts.push(put(&*on_a, n).await.unwrap());
    }
    eventually("b has read them", Duration::from_secs(10), async || on_b.tail() == on_a.tail()).await;
    for n in 1..30 {
        let first = receipts[n].first;
        assert_eq!(a.trim(&name("t"), None, first).await, Ok(first));
        let trimmed = on_b.resolve(Start::At(receipts[n - 1].first)).await;
        assert!(matches!(trimmed, Err(Error::Trimmed { earliest, .. }) if earliest == first), "{trimmed:?}");
        assert_eq!(on_b.resolve(Start::At(first)).await, Ok(first));
    }
}

/// A replica that does not follow the topic sends no regular requests, but is still notified of a trim and a deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_replicas_hear_of_changes_at_once() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let mut receipts = Vec::new();
    for n in 0..3 {
        receipts.push(put(&*on_a, n).await.unwrap());
    }
    let on_b = b.get(&name("t")).await.unwrap();
    assert!(!b.topics()[&name("t")].queue().followed);
    a.trim(&name("t"), None, receipts[1].first).await.unwrap();
    let heard = async || on_b.earliest() == receipts[1].first;
    eventually("b hears of the trim", Duration::from_secs(10), heard).await;
    let retention = Retention { max_records: Some(1_000), ..Retention::default() };
    a.update(&name("t"), retention).await.unwrap();
    let heard = async || on_b.info().retention == retention;
    eventually("b hears of the retention", Duration::from_secs(10), heard).await;
    a.delete(&name("t"), None).await.unwrap();
    eventually("b hears of the delete", Duration::from_secs(10), async || on_b.is_deleted()).await;
}
