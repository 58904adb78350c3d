//! Tests of positions behind records that were trimmed or expired, and of reads after trims, on replicas that know of the
//! trim and on replicas that do not.

use std::time::Duration;

use super::{config, created, eventually, open, put};
use crate::record::Offset;
use crate::storage::conformance::{batch, name, read_all};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Hold, Log, Retention, Start};

/// A position that a receipt gave is accepted unless a record after it was trimmed. An offset that lies between two
/// records names the later one until the message before it is trimmed. That holds on every replica, including one that
/// was started afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_a_receipt_is_trimmed_only_if_a_record_was_missed() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let on_b = b.get(&name("t")).await.unwrap();
    on_b.resolve(Start::Latest).await.unwrap();
    let (mut nexts, mut ends, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for (n, sizes) in [&[1_usize, 3, 2][..], &[1], &[2, 2], &[3]].into_iter().enumerate() {
        let of = |(id, count): (usize, &usize)| {
            batch(&vec![n as u64; *count], 0).with_request_id(&format!("{n}/{id}")).unwrap()
        };
        let batches: Vec<_> = sizes.iter().enumerate().map(of).collect();
        let done = on_a.appender().append(batches.clone(), Hold::default()).await;
        assert_eq!(done.failure, None);
        let again = on_b.appender().append(batches, Hold::default()).await.receipts;
        assert!(again.iter().zip(&done.receipts).all(|(again, first)| again.next == first.next), "{again:?}");
        nexts.extend(done.receipts.iter().map(|receipt| receipt.next.offset));
        ends.push(on_a.tail());
        records.extend(done.receipts.iter().zip(sizes).flat_map(|(receipt, count)| {
            (0..*count as u64).map(|n| receipt.first.plus(n)).collect::<Vec<_>>()
        }));
    }
    let tail = on_a.tail();
    assert_eq!(on_b.resolve(Start::At(tail)).await, Ok(tail));
    for end in &ends {
        assert!(nexts.contains(end), "{end}: {nexts:?}");
        // Everything up to this offset is trimmed, and nothing after it.
        let earliest = a.trim(&name("t"), None, *end).await.unwrap();
        eventually("b knows of the trim", Duration::from_secs(10), async || on_b.earliest() == earliest)
            .await;
        let edges =
            nexts.iter().chain(&records).flat_map(|at| [at.get().saturating_sub(1), at.get(), at.get() + 1]);
        for at in edges.filter(|at| *at <= tail.get()).map(Offset::new) {
            let is_missed = records.iter().any(|record| *record >= at && *record < earliest);
            assert!(!nexts.contains(&at) || is_missed == (at < earliest), "{at}");
            // Each position is also resolved by a replica that has no earlier knowledge.
            let fresh = open(&config(&nats)).await;
            let fresh = fresh.get(&name("t")).await.unwrap();
            for topic in [&on_a, &on_b, &fresh] {
                let found = topic.resolve(Start::At(at)).await;
                let Ok(from) = found else {
                    assert!(at < earliest && matches!(found, Err(Error::Trimmed { .. })), "{at}: {found:?}");
                    continue;
                };
                assert!(at >= earliest, "{at} after a trim before {end}");
                let left = read_all(&**topic, from).await.unwrap().len();
                assert_eq!(left, records.iter().filter(|record| **record >= at).count(), "{at}");
                assert_eq!(read_all(&**topic, at).await.unwrap().len(), left, "{at}");
            }
        }
    }
}

/// Records may expire although no replica does anything, and after the replica that stored them is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_behind_what_expired_is_good_on_a_replica_that_did_not_see_it() {
    let nats = Nats::single("");
    let config = config(&nats);
    let log = open(&config).await;
    let retention = Retention { max_age: Some(Duration::from_secs(1)), ..Retention::default() };
    let topic = log.create(name("t"), retention).await.unwrap();
    let batches = vec![batch(&[1, 2, 3], 0), batch(&[4], 0)];
    let receipts = topic.appender().append(batches, Hold::default()).await.receipts;
    // It is not closed.
    drop((topic, log));
    let fresh = open(&config).await;
    eventually("all expired", Duration::from_secs(20), async || {
        fresh.nats.info("streamway-t").await.unwrap().unwrap().state.messages == 0
    })
    .await;
    let topic = fresh.get(&name("t")).await.unwrap();
    let [inside, next] = [0, 1].map(|n| receipts[n].next.offset);
    let missed = topic.resolve(Start::At(inside)).await;
    assert!(matches!(missed, Err(Error::Trimmed { .. })), "{missed:?}");
    assert_eq!(topic.resolve(Start::At(next)).await, Ok(next));
    // A condition on that offset holds too.
    let done = topic.appender().append(vec![batch(&[5], 0).expecting(Some(next))], Hold::default()).await;
    assert_eq!((done.failure, done.receipts[0].first), (None, next));
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
