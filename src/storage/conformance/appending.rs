//! Appending: what is acknowledged is durable, ordered and whole, or refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::fixtures::{Engine, append, batch, create, eventually, name, read_all};
use crate::record::Offset;
use crate::storage::{Error, Health, Hold};

/// P1, P2: what was acknowledged is there after reopening, in the order and at the offsets of the
/// receipts, from whatever offset one reads.
pub async fn acknowledged_records_survive_reopening(engine: &Engine) {
    let mut want = Vec::new();
    for round in 0..3_u64 {
        let log = engine.open().await;
        let topic = match log.get(&name("reopened")).await {
            Ok(topic) => topic,
            Err(_) => create(&*log, "reopened").await,
        };
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        let mut appender = topic.appender();
        for i in 0..100_u64 {
            let payload = round * 1_000_000 + i * 3;
            let batches = vec![batch(&[payload, payload + 1], 9000), batch(&[payload + 2], 0)];
            let done = appender.append(batches, Hold::default()).await;
            assert_eq!((done.receipts.len(), done.failure), (2, None));
            let firsts = [done.receipts[0].first.get(), done.receipts[1].first.get()];
            want.extend([(firsts[0], payload), (firsts[0] + 1, payload + 1), (firsts[1], payload + 2)]);
            assert!(done.receipts.iter().all(|r| r.next.epoch == topic.epoch() && !r.duplicate));
            // The tail covers what was acknowledged at once.
            assert!(topic.tail() >= done.receipts[1].next.offset);
        }
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
        for index in [1, 2, 51, 149] {
            let from = Offset::new(want[index].0);
            assert_eq!(read_all(&*topic, from).await.unwrap(), want[index..]);
        }
        drop((topic, appender));
        if round != 1 {
            log.close().await.unwrap();
        }
    }
}

pub async fn a_refused_batch_refuses_all_later_ones_of_its_appender(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "refused").await;
    for wrong in [70_000, 0] {
        let mut appender = topic.appender();
        let wrong = batch(&[2], 0).expecting(Some(Offset::new(wrong)));
        let done = appender.append(vec![batch(&[1], 0), wrong, batch(&[3], 0)], Hold::default()).await;
        assert_eq!(done.receipts.len(), 1);
        let failure = done.failure;
        assert!(
            matches!(failure, Some(Error::ExpectedOffset { tail, .. }) if tail == topic.tail()),
            "{failure:?}"
        );
        let later = appender.append(vec![batch(&[4], 0)], Hold::default()).await;
        assert_eq!((later.receipts.len(), later.failure), (0, Some(Error::EarlierFailed)));
    }
    assert_eq!(append(&*topic, vec![batch(&[5], 0)]).await.failure, None);
    let payloads: Vec<_> =
        read_all(&*topic, Offset::ZERO).await.unwrap().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [1, 1, 5]);
}

pub async fn conditions_name_the_tail(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "conditions").await;
    let mut expected = Offset::ZERO;
    for payload in 0..20 {
        let done = append(&*topic, vec![batch(&[payload; 3], 0).expecting(Some(expected))]).await;
        assert_eq!(done.failure, None, "{expected}");
        // Both what the receipt says and the tail name the next batch's place.
        expected = if payload % 2 == 0 { done.receipts[0].next.offset } else { topic.tail() };
        let stale = append(&*topic, vec![batch(&[99], 0).expecting(Some(done.receipts[0].first))]).await;
        assert!(
            matches!(stale.failure, Some(Error::ExpectedOffset { tail, .. }) if tail == topic.tail()),
            "{stale:?}"
        );
    }
    // Of many at once with the same condition one is stored.
    let expected = Some(topic.tail());
    let racing = join_all((0..20).map(|n| {
        let (topic, batch) = (topic.clone(), batch(&[n], 0).expecting(expected));
        async move { append(&*topic, vec![batch]).await }
    }));
    assert_eq!(racing.await.iter().filter(|done| done.failure.is_none()).count(), 1);
}

/// P2, P4.
pub async fn batches_of_many_appenders_keep_their_order_and_stay_whole(engine: &Engine) {
    const WRITERS: u64 = 8;
    const BATCHES: u64 = 60;
    let log = engine.open().await;
    let topic = create(&*log, "writers").await;
    let write = async |writer: u64| {
        let (mut appender, mut done) = (topic.appender(), Vec::new());
        for n in 0..BATCHES / 2 {
            let of = |n: u64| batch(&[0, 1, 2].map(|i| writer << 32 | n << 8 | i), 200 * n as usize % 700);
            // Several in flight at once.
            done.push(appender.append(vec![of(2 * n), of(2 * n + 1)], Hold::default()));
        }
        join_all(done).await
    };
    let all = join_all((0..WRITERS).map(write)).await;
    assert!(all.iter().flatten().all(|done| done.failure.is_none() && done.receipts.len() == 2));
    let mut next: HashMap<u64, u64> = HashMap::new();
    let stored = read_all(&*topic, Offset::ZERO).await.unwrap();
    assert_eq!(stored.len() as u64, WRITERS * BATCHES * 3);
    for whole in stored.chunks(3) {
        let (first, payload) = whole[0];
        let number = next.entry(payload >> 32).or_default();
        assert_eq!(payload & 0xffff_ffff, *number << 8, "the order of one appender");
        assert_eq!(whole[1..], [(first + 1, payload + 1), (first + 2, payload + 2)], "a whole batch");
        *number += 1;
    }
}

pub async fn a_hold_is_dropped_although_nobody_waits(engine: &Engine) {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let log = engine.open().await;
    let topic = create(&*log, "held").await;
    let dropped = Arc::new(AtomicBool::new(false));
    let mut appender = topic.appender();
    drop(appender.append(vec![batch(&[1], 0)], Hold::of(Flag(dropped.clone()))));
    eventually("the hold is dropped", async || dropped.load(Ordering::SeqCst)).await;
    // Dropping the future cancelled nothing.
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 1);
}

pub async fn a_closed_log_refuses(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "closed").await;
    assert_eq!(*log.health().borrow(), Health::Serving);
    let appended = topic.appender().append(vec![batch(&[1], 0)], Hold::default());
    log.close().await.unwrap();
    assert_eq!(appended.await.failure, None, "accepted before the close");
    assert_eq!(append(&*topic, vec![batch(&[2], 0)]).await.failure, Some(Error::Closing));
    log.close().await.unwrap();
}
