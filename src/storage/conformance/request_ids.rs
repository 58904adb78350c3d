//! Request ids: a batch is stored once under its id (P5).

use std::collections::HashMap;

use super::fixtures::{Engine, append, batch, create, name, read_all};
use crate::record::{Offset, Receipt, RequestId, Scope};
use crate::storage::{Ancestor, Error, Lineage, Log, StoredId, TopicLog};

/// P5: the same request id stores once and is answered the first receipt, also after reopening.
pub async fn request_ids_survive_reopening(engine: &Engine) {
    let put = async |log: &dyn Log, id: u64| {
        let topic = log.get(&name("ids")).await.unwrap();
        let batch = batch(&[id, id], 500).with_request_id(&format!("id-{id}")).unwrap();
        append(&*topic, vec![batch]).await.receipts[0]
    };
    let log = engine.open().await;
    create(&*log, "ids").await;
    let mut first = Vec::new();
    for id in 0..100 {
        first.push(put(&*log, id).await);
    }
    let duplicate = |id: u64| Receipt { duplicate: true, ..first[id as usize] };
    assert_eq!(put(&*log, 7).await, duplicate(7));
    log.close().await.unwrap();
    drop(log);
    let log = engine.open().await;
    for id in [0, 50, 99] {
        assert_eq!(put(&*log, id).await, duplicate(id));
    }
    let topic = log.get(&name("ids")).await.unwrap();
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 200);
    // The same id in another topic is another one.
    create(&*log, "ids2").await;
    let batch = batch(&[1], 0).with_request_id("id-7").unwrap();
    assert!(!append(&*log.get(&name("ids2")).await.unwrap(), vec![batch]).await.receipts[0].duplicate);
}

/// P5: another principal's id is another one, and other records under an id are refused.
pub async fn a_request_id_is_of_one_principal_and_one_content(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "principals").await;
    let of = |scope: u8, payload: u64| {
        let batch = batch(&[payload], 0).with_request_id("import-1").unwrap();
        batch.within(Scope::new([scope; 16]))
    };
    let mine = append(&*topic, vec![of(1, 1)]).await.receipts[0];
    let others = append(&*topic, vec![of(2, 2)]).await.receipts[0];
    let nobodys = append(&*topic, vec![of(0, 3)]).await.receipts[0];
    assert!(!mine.duplicate && !others.duplicate && !nobodys.duplicate);
    assert_eq!(append(&*topic, vec![of(2, 2)]).await.receipts, [Receipt { duplicate: true, ..others }]);
    let reused = Some(Error::RequestIdReused { first: mine.first });
    let refused = append(&*topic, vec![of(1, 4), batch(&[5], 0)]).await;
    assert_eq!((refused.receipts.len(), refused.failure), (0, reused));
    // In one append too: what is stored before it stays.
    let other = batch(&[6, 7], 0).with_request_id("import-2").unwrap();
    let again = batch(&[6], 0).with_request_id("import-2").unwrap();
    let done = append(&*topic, vec![other, again, batch(&[8], 0)]).await;
    assert_eq!(done.failure, Some(Error::RequestIdReused { first: done.receipts[0].first }));
    let stored = read_all(&*topic, Offset::ZERO).await.unwrap();
    assert_eq!(stored.iter().map(|(_, payload)| *payload).collect::<Vec<_>>(), [1, 2, 3, 6, 7]);
}

/// P5 against a model: principals that repeat their ids and each other's, with the same records and with
/// others, in one append and in later ones, across reopening.
pub async fn request_ids_follow_a_model(engine: &Engine) {
    let seed = std::env::var("TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("TESTS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut known: HashMap<(u8, u64), (u64, Receipt)> = HashMap::new();
    let mut stored = Vec::new();
    for round in 0..3_u64 {
        let log = engine.open().await;
        let topic = match log.get(&name("modelled")).await {
            Ok(topic) => topic,
            Err(_) => create(&*log, "modelled").await,
        };
        for _ in 0..60 {
            let asked: Vec<_> = (0..random.u64(1..5))
                .map(|_| {
                    let (scope, id) = (random.u8(..3), random.u64(..20 * (round + 1)));
                    (scope, id, 2 * id + u64::from(random.u8(..10) == 0))
                })
                .collect();
            let batches = asked.iter().map(|(scope, id, content)| {
                let batch = batch(&[*content], 0).with_request_id(&id.to_string()).unwrap();
                batch.within(Scope::new([*scope; 16]))
            });
            let done = append(&*topic, batches.collect()).await;
            let mut receipts = done.receipts.iter();
            let mut failure = None;
            for (scope, id, content) in asked {
                match known.get(&(scope, id)) {
                    Some((other, first)) if *other != content => {
                        failure = Some(Error::RequestIdReused { first: first.first });
                        break;
                    }
                    Some((_, first)) => {
                        assert_eq!(receipts.next(), Some(&Receipt { duplicate: true, ..*first }));
                    }
                    None => {
                        let receipt = *receipts.next().expect("it is stored");
                        assert!(!receipt.duplicate, "{scope}/{id}");
                        known.insert((scope, id), (content, receipt));
                        stored.push((receipt.first.get(), content));
                    }
                }
            }
            assert_eq!((receipts.next(), done.failure), (None, failure));
        }
        assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), stored);
        drop(topic);
        if round == 0 {
            log.close().await.unwrap();
        }
    }
}

pub async fn a_duplicate_is_answered_before_its_condition_is_looked_at(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "duplicates").await;
    let of = |at| batch(&[1, 2], 0).with_request_id("once").unwrap().expecting(Some(Offset::new(at)));
    let done = append(&*topic, vec![of(0), of(0), batch(&[3], 0)]).await;
    assert_eq!(done.failure, None);
    assert_eq!(done.receipts[1], Receipt { duplicate: true, ..done.receipts[0] });
    assert!(!done.receipts[2].duplicate && done.receipts[2].first >= done.receipts[0].next.offset);
    let again = append(&*topic, vec![of(99_999)]).await;
    assert_eq!(again.receipts, [done.receipts[1]]);
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 3);
}

/// P5: the ids of the window are listed with the batches that they were stored with, page by page, and a topic that is
/// restored with them knows them.
pub async fn request_ids_are_listed_and_restored(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "listed").await;
    let of = |id: u64| {
        let batch = batch(&[id, id], 100).with_request_id(&format!("id-{id}")).unwrap();
        batch.within(Scope::new([u8::try_from(id % 2).unwrap(); 16]))
    };
    let mut stored = Vec::new();
    for id in 0..9 {
        stored.push(append(&*topic, vec![of(id), batch(&[id], 10)]).await.receipts[0]);
    }
    let (end, before) = (topic.tail(), listed(&*topic).await);
    log.close().await.unwrap();
    drop((log, topic));
    let log = engine.open().await;
    let topic = log.get(&name("listed")).await.unwrap();
    let ids = listed(&*topic).await;
    assert_eq!(ids, before);
    let firsts: Vec<_> = ids.iter().map(|id| id.first).collect();
    assert_eq!(firsts, stored.iter().map(|receipt| receipt.first).collect::<Vec<_>>());
    assert!(ids.iter().zip(0..).all(|(id, n)| id.scope == Scope::new([n % 2; 16])));

    let lineage = Lineage::new(vec![Ancestor { epoch: topic.epoch(), cut: end }]).unwrap();
    let restored = log.restore(name("restored"), Offset::ZERO, lineage).await.unwrap();
    for ((id, n), receipt) in ids.iter().zip(0..).zip(&stored) {
        let stored_id = RequestId::stored(&id.id, id.scope).unwrap();
        let first = batch(&[n, n], 100).restored(receipt.first).with_stored_id(stored_id);
        let second = batch(&[n], 10).restored(receipt.first.plus(2));
        assert_eq!(append(&*restored, vec![first, second]).await.failure, None);
    }
    for (n, receipt) in (0..).zip(&stored) {
        let again = append(&*restored, vec![of(n)]).await.receipts[0];
        assert_eq!((again.first, again.duplicate), (receipt.first, true));
        let other = batch(&[n, 77], 100).with_request_id(&format!("id-{n}")).unwrap();
        let other = other.within(Scope::new([u8::try_from(n % 2).unwrap(); 16]));
        let refused = append(&*restored, vec![other]).await;
        assert_eq!(refused.failure, Some(Error::RequestIdReused { first: receipt.first }));
    }
}

/// Lists the request ids of a topic, four at a time.
async fn listed(topic: &dyn TopicLog) -> Vec<StoredId> {
    let mut ids = Vec::new();
    loop {
        let from = ids.last().map_or(Offset::ZERO, |last: &StoredId| last.first.plus(1));
        let page = topic.request_ids(from, 4).await.unwrap();
        let is_last = page.len() < 4;
        ids.extend(page);
        if is_last {
            return ids;
        }
    }
}
