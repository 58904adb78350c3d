//! Request ids: a batch is stored once under its id (P5).

use std::collections::HashMap;

use super::fixtures::{Engine, append, batch, create, name, read_all};
use crate::record::{Offset, Receipt, Scope};
use crate::storage::{Error, Log};

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
