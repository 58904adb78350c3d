//! What every engine must keep, as tests: the definition of the `Log` contract. Each engine's tests
//! run every case on a log they make.
//! Never: an engine's own formats, or dense offsets, which nobody is promised.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Appended, BoxFuture, Error, Health, Hold, Log, Retention, Start, TopicLog};
use crate::record::block::{Blocks, records_fields};
use crate::record::{Batch, BatchLimits, Offset, Receipt, Scope, TopicName, UnixMicros};

/// Opens the log under test: the first time a new one, later the same again. The one opened before
/// was closed or dropped.
pub struct Engine(Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Log>> + Send + Sync>);

impl Engine {
    pub fn new(open: impl Fn() -> BoxFuture<'static, Arc<dyn Log>> + Send + Sync + 'static) -> Self {
        Self(Box::new(open))
    }

    async fn open(&self) -> Arc<dyn Log> {
        (self.0)().await
    }
}

/// One test for each case; `$engine` makes the engine of one test, and what it returns beside it is
/// held while the test runs.
macro_rules! conformance_tests {
    ($engine:expr) => {
        $crate::storage::conformance::conformance_tests!(@each $engine,
            acknowledged_records_survive_reopening request_ids_survive_reopening
            a_request_id_is_of_one_principal_and_one_content request_ids_follow_a_model
            a_duplicate_is_answered_before_its_condition_is_looked_at
            a_refused_batch_refuses_all_later_ones_of_its_appender conditions_name_the_tail
            batches_of_many_appenders_keep_their_order_and_stay_whole trim_keeps_whole_batches
            a_trim_inside_the_first_batch_forgets_nothing limits_of_every_size_are_kept
            a_recreated_topic_is_another_one retention_by_records_bytes_and_age
            starts_are_found offsets_between_records_round_up blocks_keep_trace_and_time
            waiting_ends_with_a_record_or_the_topic topics_are_listed_and_updated
            a_hold_is_dropped_although_nobody_waits a_closed_log_refuses);
    };
    (@each $engine:expr, $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (engine, _held) = $engine.await;
            $crate::storage::conformance::$case(&engine).await;
        })*
    };
}
pub(crate) use conformance_tests;

/// Every case on one engine, one after the other: for engines that are costly to start.
pub async fn all(engine: &Engine) {
    macro_rules! run {
        ($($case:ident)*) => { $(println!(stringify!($case)); $case(engine).await;)* };
    }
    run!(acknowledged_records_survive_reopening request_ids_survive_reopening
        a_request_id_is_of_one_principal_and_one_content request_ids_follow_a_model
        a_duplicate_is_answered_before_its_condition_is_looked_at
        a_refused_batch_refuses_all_later_ones_of_its_appender conditions_name_the_tail
        batches_of_many_appenders_keep_their_order_and_stay_whole trim_keeps_whole_batches
        a_trim_inside_the_first_batch_forgets_nothing limits_of_every_size_are_kept
        a_recreated_topic_is_another_one retention_by_records_bytes_and_age
        starts_are_found offsets_between_records_round_up blocks_keep_trace_and_time
        waiting_ends_with_a_record_or_the_topic topics_are_listed_and_updated
        a_hold_is_dropped_although_nobody_waits a_closed_log_refuses);
}

/// A batch of one record a payload, each padded by `pad` bytes.
pub fn batch(payloads: &[u64], pad: usize) -> Batch {
    let records: Vec<Vec<u8>> = payloads
        .iter()
        .map(|payload| {
            let mut value = payload.to_le_bytes().to_vec();
            value.resize(8 + pad, 7);
            let mut record = Vec::new();
            prost::encoding::bytes::encode(2, &value, &mut record);
            record
        })
        .collect();
    Batch::check(records_fields(records.iter().map(Vec::as_slice)), BatchLimits::default()).unwrap()
}

/// Every record of these runs as (offset, payload).
pub fn flatten(runs: &[Bytes]) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    for run in runs {
        for block in Blocks::new(run) {
            let block = block.unwrap();
            for (i, record) in block.records().enumerate() {
                let start = if record[1] < 0x80 { 2 } else { 3 };
                let payload = u64::from_le_bytes(record[start..start + 8].try_into().unwrap());
                out.push((block.first.get() + i as u64, payload));
            }
        }
    }
    out
}

/// Everything from `from` to the tail.
pub async fn read_all(topic: &dyn TopicLog, from: Offset) -> Result<Vec<(u64, u64)>, Error> {
    let (mut at, mut out) = (from, Vec::new());
    loop {
        let chunk = topic.read(at, 50_000).await?;
        if chunk.runs.is_empty() {
            assert_eq!(chunk.next, topic.tail());
            return Ok(out);
        }
        let records = flatten(&chunk.runs);
        assert_eq!(records.len() as u64, chunk.records);
        assert!(records[0].0 >= at.get() && records.is_sorted_by(|a, b| a.0 < b.0), "{at}: {records:?}");
        assert!(chunk.next.get() > records.last().unwrap().0);
        out.extend(records);
        at = chunk.next;
    }
}

pub fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

async fn create(log: &dyn Log, text: &str) -> Arc<dyn TopicLog> {
    log.create(name(text), Retention::default()).await.unwrap()
}

async fn append(topic: &dyn TopicLog, batches: Vec<Batch>) -> Appended {
    topic.appender().append(batches, Hold::default()).await
}

/// Appends each batch alone; all are stored.
async fn append_each(topic: &dyn TopicLog, batches: Vec<Batch>) -> Vec<Receipt> {
    let (mut appender, mut receipts) = (topic.appender(), Vec::new());
    for batch in batches {
        let done = appender.append(vec![batch], Hold::default()).await;
        assert_eq!(done.failure, None);
        receipts.extend(done.receipts);
    }
    receipts
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..150 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 15 s: {what}");
}

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

pub async fn a_refused_batch_refuses_all_later_ones_of_its_appender(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "refused").await;
    let mut appender = topic.appender();
    let wrong = batch(&[2], 0).expecting(Some(Offset::new(70_000)));
    let done = appender.append(vec![batch(&[1], 0), wrong, batch(&[3], 0)], Hold::default()).await;
    assert_eq!(done.receipts.len(), 1);
    assert!(matches!(done.failure, Some(Error::ExpectedOffset { tail, .. }) if tail == topic.tail()));
    let later = appender.append(vec![batch(&[4], 0)], Hold::default()).await;
    assert_eq!((later.receipts.len(), later.failure), (0, Some(Error::EarlierFailed)));
    assert_eq!(append(&*topic, vec![batch(&[5], 0)]).await.failure, None);
    let payloads: Vec<_> =
        read_all(&*topic, Offset::ZERO).await.unwrap().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [1, 5]);
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

pub async fn trim_keeps_whole_batches(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "trimmed").await;
    let receipts =
        append_each(&*topic, (0..60).map(|i| batch(&[i * 3, i * 3 + 1, i * 3 + 2], 5_000)).collect()).await;
    let (inside, boundary) = (receipts[30].first.plus(1), receipts[30].first);
    assert_eq!(log.trim(&name("trimmed"), None, inside).await.unwrap(), boundary);
    let gone = topic.read(receipts[29].first.plus(2), 1000).await;
    assert!(matches!(gone, Err(Error::Trimmed { earliest, .. }) if earliest == boundary), "{gone:?}");
    let start = topic.resolve(Start::At(receipts[3].first)).await;
    assert!(matches!(start, Err(Error::Trimmed { .. })), "{start:?}");
    assert_eq!(topic.resolve(Start::Earliest).await.unwrap(), boundary);
    assert_eq!(read_all(&*topic, boundary).await.unwrap().len(), 90);
    // Trimming to what is trimmed already changes nothing.
    assert_eq!(log.trim(&name("trimmed"), None, Offset::ZERO).await.unwrap(), boundary);
    let beyond = log.trim(&name("trimmed"), None, topic.tail().plus(1)).await;
    assert!(matches!(beyond, Err(Error::BeyondTail { .. })), "{beyond:?}");
    let missing = log.trim(&name("trimmed-not"), None, Offset::ZERO).await;
    assert_eq!(missing, Err(Error::TopicNotFound));
    let tail = topic.tail();
    drop(topic);
    log.close().await.unwrap();
    drop(log);
    let log = engine.open().await;
    let topic = log.get(&name("trimmed")).await.unwrap();
    assert_eq!((topic.earliest(), topic.tail()), (boundary, tail));
    // All of it: the topic goes on where it was.
    assert_eq!(log.trim(&name("trimmed"), Some(topic.epoch()), tail).await.unwrap(), tail);
    assert_eq!(read_all(&*topic, tail).await.unwrap(), []);
    assert!(append(&*topic, vec![batch(&[7], 0)]).await.receipts[0].first >= tail);
    assert_eq!(read_all(&*topic, tail).await.unwrap().len(), 1);
}

/// The first batch of a topic that was never trimmed: to keep it is to forget nothing.
pub async fn a_trim_inside_the_first_batch_forgets_nothing(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "untrimmed").await;
    let trim = async |before: Offset| log.trim(&name("untrimmed"), None, before).await;
    assert_eq!(trim(Offset::ZERO).await, Ok(Offset::ZERO), "an empty topic");
    let receipts = append_each(&*topic, vec![batch(&[0, 1, 2], 0), batch(&[3], 0)]).await;
    let first = receipts[0].first;
    for before in 0..3 {
        assert_eq!(trim(first.plus(before)).await, Ok(first), "before {before}");
        assert_eq!(read_all(&*topic, first).await.unwrap().len(), 4);
        assert_eq!(topic.resolve(Start::Earliest).await, Ok(first));
    }
    // Between two batches lies the later one.
    assert_eq!(trim(receipts[0].next.offset).await, Ok(receipts[1].first));
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
    // Inside the newest one, which is now the oldest.
    assert_eq!(trim(receipts[1].first).await, Ok(receipts[1].first));
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
    drop(topic);
    log.close().await.unwrap();
    drop(log);
    let log = engine.open().await;
    let topic = log.get(&name("untrimmed")).await.unwrap();
    assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap().len(), 1);
}

/// Limits of every size are kept and told alike, and only those that are over forget anything.
pub async fn limits_of_every_size_are_kept(engine: &Engine) {
    const YEAR: u64 = 365 * 24 * 3600;
    let log = engine.open().await;
    let ages = [
        // What 63 and 64 bits of nanoseconds hold, and what a protobuf duration does.
        Duration::from_secs(100),
        Duration::from_secs(99 * YEAR),
        Duration::from_secs(101 * YEAR),
        Duration::from_nanos(i64::MAX as u64),
        Duration::from_nanos(i64::MAX as u64 + 1),
        Duration::from_nanos(u64::MAX),
        Duration::from_secs(18_446_744_074),
        Duration::from_secs(585 * YEAR),
        Duration::from_secs(1000 * YEAR),
        Retention::AGE_MAX,
        Duration::MAX,
    ];
    let counts = [0, 1 << 60, i64::MAX as u64 - 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    let ages = ages.map(|age| Retention { max_age: Some(age), ..Retention::default() });
    let bytes = counts.map(|count| Retention { max_bytes: Some(count), ..Retention::default() });
    let records = counts.map(|count| Retention { max_records: Some(count), ..Retention::default() });
    let topic = create(&*log, "limits").await;
    append_each(&*topic, (0..3).map(|n| batch(&[n], 0)).collect()).await;
    for (n, wanted) in ages.into_iter().chain(bytes).chain(records).enumerate() {
        let kept = wanted.normalized();
        let info = log.update(&name("limits"), wanted).await.unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
        assert_eq!(info.retention, kept, "{wanted:?}");
        let text = format!("limits-{n}");
        let made = log.create(name(&text), wanted).await.unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
        append_each(&*made, (0..3).map(|n| batch(&[n], 0)).collect()).await;
        assert_eq!(log.list(&text, None, 1).await.unwrap()[0].retention, kept, "{wanted:?}");
    }
    // An age of no time is never over; one of a nanosecond is over at once, as after reopening.
    let shortest = Retention { max_age: Some(Duration::from_nanos(1)), ..Retention::default() };
    log.create(name("limit-shortest"), shortest).await.unwrap();
    log.close().await.unwrap();
    drop((log, topic));
    let log = engine.open().await;
    for info in log.list("limits", None, 1000).await.unwrap() {
        let topic = log.get(&info.name).await.unwrap();
        assert_eq!(
            read_all(&*topic, topic.earliest()).await.unwrap().len(),
            3,
            "{}: {:?}",
            info.name,
            info.retention
        );
    }
    let kept = log.get(&name("limit-shortest")).await.unwrap().info().retention;
    assert_eq!(kept, Retention { max_age: Some(Duration::from_micros(1)), ..Retention::default() });
}

pub async fn a_recreated_topic_is_another_one(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "recreated").await;
    append_each(&*topic, vec![batch(&[1], 0), batch(&[2], 0)]).await;
    let exists = log.create(name("recreated"), Retention::default()).await;
    assert_eq!(exists.err(), Some(Error::TopicExists));
    log.delete(&name("recreated"), Some(topic.epoch())).await.unwrap();
    assert!(topic.is_deleted());
    assert_eq!(topic.read(Offset::ZERO, 1000).await.err(), Some(Error::TopicNotFound));
    assert_eq!(append(&*topic, vec![batch(&[3], 0)]).await.failure, Some(Error::TopicNotFound));
    assert_eq!(log.get(&name("recreated")).await.err(), Some(Error::TopicNotFound));
    assert_eq!(log.delete(&name("recreated"), None).await, Err(Error::TopicNotFound));
    let again = create(&*log, "recreated").await;
    assert_ne!(again.epoch(), topic.epoch());
    assert_eq!((again.earliest(), again.tail()), (Offset::ZERO, Offset::ZERO));
    assert_eq!(append(&*topic, vec![batch(&[3], 0)]).await.failure, Some(Error::TopicNotFound));
    let changed = Error::EpochChanged { current: again.epoch() };
    assert_eq!(log.delete(&name("recreated"), Some(topic.epoch())).await, Err(changed.clone()));
    assert_eq!(log.trim(&name("recreated"), Some(topic.epoch()), Offset::ZERO).await, Err(changed));
    let current = again.epoch();
    drop((log, topic, again));
    let log = engine.open().await;
    assert_eq!(log.get(&name("recreated")).await.unwrap().epoch(), current);
}

/// Offsets of what is kept are read, as they are not dense.
pub async fn retention_by_records_bytes_and_age(engine: &Engine) {
    let log = engine.open().await;
    let records = Retention { max_records: Some(100), ..Retention::default() };
    let bytes = Retention { max_bytes: Some(500_000), ..Retention::default() };
    let age = Retention { max_age: Some(Duration::from_millis(500)), ..Retention::default() };
    for (text, retention) in [("by-records", records), ("by-bytes", bytes), ("by-age", age)] {
        let topic = log.create(name(text), retention).await.unwrap();
        assert_eq!(topic.info().retention, retention);
        append_each(&*topic, (0..100).map(|i| batch(&[i * 3, i * 3 + 1, i * 3 + 2], 7_000)).collect()).await;
    }
    let kept = async |text: &str| {
        let topic = log.get(&name(text)).await.unwrap();
        match read_all(&*topic, topic.earliest()).await {
            Ok(kept) => kept.len(),
            // Trimmed while it was read.
            Err(_) => usize::MAX,
        }
    };
    eventually("100 records", async || kept("by-records").await == 102).await;
    eventually("500 kB", async || (30..=90).contains(&kept("by-bytes").await)).await;
    eventually("nothing", async || kept("by-age").await == 0).await;
    let topic = log.get(&name("by-age")).await.unwrap();
    assert_eq!(topic.earliest(), topic.tail());
}

pub async fn starts_are_found(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "starts").await;
    assert_eq!(topic.resolve(Start::Last(5)).await.unwrap(), topic.tail());
    assert_eq!(topic.resolve(Start::Time(UnixMicros(0))).await.unwrap(), topic.tail());
    let receipts = append_each(&*topic, (0..120).map(|i| batch(&[i * 2, i * 2 + 1], 4_000)).collect()).await;
    let times: Vec<_> = receipts.iter().map(|receipt| receipt.time).collect();
    assert!(times.is_sorted());
    for at in [0, 1, 17, 60, 118, 119] {
        let want = times.iter().position(|time| *time >= times[at]).unwrap();
        let found = topic.resolve(Start::Time(times[at])).await.unwrap();
        assert_eq!(found, receipts[want].first, "{at}");
    }
    assert_eq!(topic.resolve(Start::Time(UnixMicros(0))).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Time(UnixMicros(u64::MAX))).await.unwrap(), topic.tail());
    assert_eq!(topic.resolve(Start::Earliest).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Latest).await.unwrap(), topic.tail());
    for last in [1_usize, 2, 5, 100, 239, 240] {
        let from = topic.resolve(Start::Last(last as u64)).await.unwrap();
        assert_eq!(read_all(&*topic, from).await.unwrap().len(), last);
    }
    assert_eq!(topic.resolve(Start::Last(1_000_000)).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Last(0)).await.unwrap(), topic.tail());
    let beyond = topic.resolve(Start::At(topic.tail().plus(1))).await;
    assert!(matches!(beyond, Err(Error::BeyondTail { tail, .. }) if tail == topic.tail()), "{beyond:?}");
}

/// A position after a record is the place of the next one, whatever its offset.
pub async fn offsets_between_records_round_up(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "between").await;
    let receipts = append_each(&*topic, (0..10).map(|i| batch(&[i * 2, i * 2 + 1], 0)).collect()).await;
    for (at, receipt) in receipts.iter().enumerate() {
        let from = topic.resolve(Start::At(receipt.next.offset)).await.unwrap();
        let rest = read_all(&*topic, from).await.unwrap();
        assert_eq!(rest.iter().map(|(_, payload)| *payload).collect::<Vec<_>>(), {
            ((at as u64 + 1) * 2..20).collect::<Vec<_>>()
        });
        assert_eq!(read_all(&*topic, receipt.next.offset).await.unwrap(), rest);
        if let Some(chunk) = topic.read_cached(receipt.next.offset, 1) {
            assert_eq!(flatten(&chunk.runs)[0], rest[0]);
        }
    }
}

pub async fn blocks_keep_trace_and_time(engine: &Engine) {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let log = engine.open().await;
    let topic = create(&*log, "traced").await;
    let before = UnixMicros::now();
    let receipts =
        append(&*topic, vec![batch(&[1, 2], 0).with_traceparent(TRACE), batch(&[3], 0)]).await.receipts;
    let chunk = topic.read(Offset::ZERO, 1 << 20).await.unwrap();
    let runs: Vec<u8> = chunk.runs.iter().flat_map(|run| run.iter().copied()).collect();
    let blocks: Vec<_> = Blocks::new(&runs).map(Result::unwrap).collect();
    assert_eq!(
        blocks.iter().map(|block| block.first).collect::<Vec<_>>(),
        [receipts[0].first, receipts[1].first]
    );
    assert_eq!((blocks[0].traceparent(), blocks[1].traceparent()), (TRACE.as_bytes(), &b""[..]));
    assert_eq!(blocks[0].time(), receipts[0].time);
    assert!((before..=UnixMicros::now()).contains(&blocks[0].time()));
}

pub async fn waiting_ends_with_a_record_or_the_topic(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "waiting").await;
    for deleted in [false, true] {
        let tail = topic.tail();
        let waiting = tokio::spawn({
            let topic = topic.clone();
            async move { topic.wait_beyond(tail).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        if deleted {
            log.delete(&name("waiting"), None).await.unwrap();
        } else {
            append(&*topic, vec![batch(&[1], 0)]).await;
        }
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(topic.is_deleted() == deleted && (deleted || topic.tail() > tail));
    }
}

pub async fn topics_are_listed_and_updated(engine: &Engine) {
    let log = engine.open().await;
    for text in ["list.b", "list.a", "list.c.d", "list_a", "list.a-1"] {
        create(&*log, text).await;
    }
    let page = async |prefix: &str, after: Option<&str>, limit| {
        let topics = log.list(prefix, after, limit).await.unwrap();
        topics.into_iter().map(|info| info.name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page("list.", None, 10).await, ["list.a", "list.a-1", "list.b", "list.c.d"]);
    assert_eq!(page("list.", Some("list.a"), 2).await, ["list.a-1", "list.b"]);
    assert_eq!(page("list.", Some("list.c.d"), 2).await, Vec::<String>::new());
    let topic = log.get(&name("list.b")).await.unwrap();
    append(&*topic, vec![batch(&[1, 2], 0)]).await;
    let retention = Retention { max_age: Some(Duration::from_secs(3600)), ..Retention::default() };
    let info = log.update(&name("list.b"), retention).await.unwrap();
    assert_eq!((info.retention, info.epoch), (retention, topic.epoch()));
    let listed = log.list("list.b", None, 1).await.unwrap().remove(0);
    assert_eq!((listed.retention, listed.tail, listed.earliest), (retention, topic.tail(), Offset::ZERO));
    assert!(listed.stored_bytes > 0 && listed.last_publish.is_some());
    assert!(listed.updated >= listed.created);
    assert_eq!(log.update(&name("list.z"), retention).await.err(), Some(Error::TopicNotFound));
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
