//! Tests of replicas that publish to one topic at the same time, at different distances from NATS.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::proxy::Proxy;
use super::{assert_stored_once, config, created, eventually, everything, open, put};
use crate::config::{Config, HANDED_OVER_BYTES_MAX};
use crate::record::{Offset, Receipt, UnixMicros, offsetless};
use crate::storage::conformance::{batch, name};
use crate::storage::jetstream::bus::{Bus, Received};
use crate::storage::jetstream::flight::{Outcome, send};
use crate::storage::jetstream::handover::{self, Content, Why};
use crate::storage::jetstream::message::{Handed, Head, start_of};
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::{JetStreamLog, connect};
use crate::storage::{Error, Hold, Log, Reason, Retention, TopicLog};

/// Opens a replica that reaches NATS through a proxy.
async fn behind(nats: &Nats) -> (Proxy, Arc<JetStreamLog>) {
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    let mut config: Config = config(nats);
    config.nats.url = format!("nats://{}", proxy.at);
    let log = open(&config).await;
    (proxy, log)
}

/// Two replicas of the topic `t`. One of them has a delay to NATS in each direction.
struct Pair {
    proxy: Proxy,
    near: Arc<JetStreamLog>,
    far: Arc<JetStreamLog>,
    at_near: Arc<dyn TopicLog>,
    at_far: Arc<dyn TopicLog>,
    _nats: Nats,
}

impl Pair {
    async fn new(delay: Duration) -> Self {
        let nats = Nats::single("");
        let near = open(&config(&nats)).await;
        let (proxy, far) = behind(&nats).await;
        proxy.delay(delay);
        created(&*near, "t").await;
        let (at_near, at_far) = (topic_of(&near).await, topic_of(&far).await);
        Self { proxy, near, far, at_near, at_far, _nats: nats }
    }

    /// Checks that every acknowledged record is stored once, at the place in its receipt, and that no other is stored.
    async fn check(&self, acknowledged: Vec<(u64, u64)>) {
        check(&*self.at_far, acknowledged).await;
    }
}

async fn topic_of(log: &JetStreamLog) -> Arc<dyn TopicLog> {
    log.get(&name("t")).await.unwrap()
}

/// Result of each publish of one publisher.
type Done = Vec<(u64, Result<Receipt, Error>)>;

/// Publishers that publish one batch after the other until they are stopped.
struct Busy {
    stop: Arc<AtomicBool>,
    stored: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Done>>,
}

const MS: Duration = Duration::from_millis(1);

/// Delay of the proxy in each direction.
const WAY: Duration = Duration::from_millis(20);

static PAYLOAD: AtomicU64 = AtomicU64::new(0);

fn payload() -> u64 {
    PAYLOAD.fetch_add(1, Ordering::Relaxed)
}

impl Busy {
    fn begin(topic: &Arc<dyn TopicLog>, publishers: usize) -> Self {
        let (stop, stored) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let publisher = |_| {
            let (topic, stop, stored) = (topic.clone(), stop.clone(), stored.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let payload = payload();
                    done.push((payload, put(&*topic, payload).await));
                    stored.fetch_add(1, Ordering::Relaxed);
                }
                done
            })
        };
        Self { tasks: (0..publishers).map(publisher).collect(), stop, stored }
    }

    /// Stops the publishers, and returns the place of each record. No publish may fail.
    async fn end(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Release);
        let done = timeout(Duration::from_secs(60), join_all(self.tasks)).await.expect("answers");
        let stored = done.into_iter().flat_map(Result::unwrap);
        stored.map(|(payload, done)| (done.unwrap().first.get(), payload)).collect()
    }
}

/// Simulates a replica that stores one message after the other until another replica hands it a commit. It returns that
/// commit, like a replica that stops, and also stores it, as if it had been in flight. Returns the sequence of the
/// message.
async fn store_and_give_back(log: &JetStreamLog, subject: &str) -> u64 {
    let mut bus = Bus::new(log.nats.client.clone());
    bus.open();
    let mut after = log.nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence;
    loop {
        let received = timeout(Duration::from_millis(2), bus.next()).await;
        let time = UnixMicros::now();
        let (mut bytes, mut handed, mut back) = (Vec::new(), Vec::new(), None);
        let records = match received {
            Ok(Received::Letter(letter)) => {
                let Some(Content::Handed(parcel)) = handover::read(letter) else { panic!("no commit") };
                let (from, nonce) = (parcel.from, parcel.head.nonce);
                offsetless::restamp(&parcel.payload, time, &mut bytes).unwrap();
                handed.push(Handed { from, nonce, index: 0 });
                back = Some(handover::back(from, nonce, Why::Stopping));
                parcel.head.records
            }
            _ => {
                offsetless::encode(time, &batch(&[payload()], 10), &mut bytes);
                1
            }
        };
        let crc = crc32c::crc32c(&bytes);
        let (nonce, by) = (fastrand::u64(..), Some(bus.address));
        let head = Head { nonce, time, before: after, records, crc, by, handed, ..Head::default() };
        let request = async_nats::Request::new().headers(head.headers(after)).payload(bytes.into());
        let is_last = back.is_some();
        if let Some(back) = back {
            bus.send(back);
            bus.sent().await;
            // This is longer than the notification takes, and shorter than the other replica takes to store the commit
            // itself.
            sleep(WAY + WAY / 2).await;
        }
        match send(&log.nats, subject, request).await {
            Outcome::Stored(sequence) if is_last => return sequence,
            Outcome::Stored(sequence) | Outcome::Taken(sequence) => after = sequence,
            other => panic!("{other:?}"),
        }
    }
}

/// Counts the messages among the newest 200 that hold commits of other replicas.
async fn handed(log: &JetStreamLog) -> usize {
    let last = log.nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence;
    let mut count = 0;
    for sequence in last.saturating_sub(200).max(1)..=last {
        let message = log.nats.message("streamway-t", sequence).await.unwrap().unwrap();
        count += usize::from(!Head::parse(&message.headers).unwrap().handed.is_empty());
    }
    count
}

/// Checks that every acknowledged record is stored once, at the place in its receipt, and that no other is stored.
async fn check(topic: &dyn TopicLog, mut acknowledged: Vec<(u64, u64)>) {
    acknowledged.sort_unstable();
    assert_eq!(everything(topic).await, acknowledged);
}

async fn timed(topic: &dyn TopicLog, count: usize) -> (Vec<(u64, u64)>, Vec<Duration>) {
    let (mut stored, mut took) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (payload, begun) = (payload(), Instant::now());
        let receipt = timeout(Duration::from_secs(20), put(topic, payload)).await.expect("an answer");
        took.push(begun.elapsed());
        stored.push((receipt.unwrap().first.get(), payload));
    }
    took.sort_unstable();
    (stored, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_while_it_is_on_its_way_is_stored_once() {
    let nats = Nats::single("");
    let near = open(&config(&nats)).await;
    let (proxy, far) = behind(&nats).await;
    let topic = created(&*far, "t").await;
    put(&*topic, payload()).await.unwrap();
    let subject = far.topics()[&name("t")].subject.clone();
    proxy.delay(WAY);
    let wanted = payload();
    let rival = store_and_give_back(&near, &subject);
    let publishing = async {
        // The publish starts once the other replica is busy.
        topic.wait_beyond(start_of(10)).await;
        put(&*topic, wanted).await.unwrap()
    };
    let both = async { tokio::join!(rival, publishing) };
    let (sequence, receipt) = timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(receipt.first, start_of(sequence));
    let last = put(&*topic, payload()).await.unwrap();
    let stored = everything(&*topic).await;
    assert_eq!(stored.last().unwrap().0, last.first.get());
    assert_eq!(stored.iter().filter(|(_, payload)| *payload == wanted).count(), 1);
}

/// A replica that is 5 ms from NATS publishes at the same time as one that is near and busy. Without the other replica,
/// a publish takes about 11 ms; with it, at most ten times as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_replica_is_not_starved_by_a_busy_near_one() {
    let pair = Pair::new(Duration::ZERO).await;
    for delay in [5000, 1000, 300] {
        pair.proxy.delay(Duration::from_micros(delay));
        let (mut all, alone) = timed(&*pair.at_far, 50).await;
        let busy = Busy::begin(&pair.at_near, 8);
        sleep(Duration::from_millis(200)).await;
        let (stored, beside) = timed(&*pair.at_far, 100).await;
        let handed = handed(&pair.near).await;
        all.extend(stored);
        let near = busy.end().await;
        println!(
            "{delay} us: alone {:?} {:?}, beside {:?} {:?}, near {}, handed {handed}",
            alone[25],
            alone[49],
            beside[50],
            beside[98],
            near.len()
        );
        assert!(beside[50] <= 10 * alone[25], "{:?}, alone {:?}", beside[50], alone[25]);
        all.extend(near);
        let places: HashSet<_> = everything(&*pair.at_far).await.into_iter().collect();
        assert!(all.iter().all(|place| places.contains(place)));
    }
}

/// P2: the batches of one call keep their order while they are handed over, even if the receiving replica, its
/// connection to NATS and their own connection fail repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_is_stored_once_and_in_order_whatever_breaks() {
    let nats = Nats::single("");
    let (near_proxy, near) = behind(&nats).await;
    let (far_proxy, far) = behind(&nats).await;
    far_proxy.delay(Duration::from_millis(2));
    created(&*near, "t").await;
    let (at_near, at_far) = (topic_of(&near).await, topic_of(&far).await);
    let busy = Busy::begin(&at_near, 4);
    let (mut all, mut was_handed) = (Vec::new(), 0);
    for round in 0..6 {
        let mut appender = at_far.appender();
        let mut call = Vec::new();
        for n in 0..120 {
            let payload = payload();
            call.push((payload, appender.append(vec![batch(&[payload], 50)], Hold::default())));
            sleep(Duration::from_millis(2)).await;
            if n == 60 {
                was_handed += handed(&near).await;
                match round % 3 {
                    0 => near_proxy.cut(),
                    1 => far_proxy.cut(),
                    _ => near_proxy.freeze_for(Duration::from_secs(1)),
                }
            }
        }
        let mut places = Vec::new();
        for (payload, done) in call {
            let done = timeout(Duration::from_secs(30), done).await.expect("an answer");
            assert_eq!(done.failure, None);
            places.push((done.receipts[0].first.get(), payload));
        }
        assert!(places.is_sorted(), "in the order they were appended");
        all.extend(places);
    }
    all.extend(busy.end().await);
    assert!(was_handed > 0);
    check(&*at_far, all).await;
}

/// The replica that receives the batches of others is closed, and another takes its place. No publish fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_fails_when_the_replica_that_appends_is_closed() {
    let nats = Nats::single("");
    let (proxy, far) = behind(&nats).await;
    proxy.delay(Duration::from_millis(2));
    let mut near = open(&config(&nats)).await;
    created(&*near, "t").await;
    let at_far = topic_of(&far).await;
    let handing = Busy::begin(&at_far, 4);
    let mut all = Vec::new();
    for _ in 0..4 {
        let next = open(&config(&nats)).await;
        let busy = Busy::begin(&topic_of(&near).await, 8);
        let began = Instant::now();
        while handed(&near).await == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "nothing is handed over");
        }
        // Its own publishers are answered first, as in a drain.
        all.extend(busy.end().await);
        near.close().await.unwrap();
        near = next;
    }
    all.extend(handing.end().await);
    check(&*at_far, all).await;
}

/// P5: a request id that is sent through two replicas at once is stored once, even if one of them hands its batch over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_stored_once_though_it_is_handed_over() {
    let pair = Pair::new(MS).await;
    let busy = Busy::begin(&pair.at_near, 8);
    let (mut all, mut was_handed) = (Vec::new(), 0);
    for round in 0..150 {
        let payload = payload();
        let send = async |topic: &Arc<dyn TopicLog>, pause| {
            sleep(Duration::from_micros(pause)).await;
            let batch = batch(&[payload], 0).with_request_id(&format!("id-{round}")).unwrap();
            // Each id is also sent twice in one call.
            let done = topic.appender().append(vec![batch.clone(), batch], Hold::default()).await;
            assert_eq!(done.failure, None);
            done.receipts
        };
        let answers = join_all([send(&pair.at_far, 0), send(&pair.at_near, fastrand::u64(0..20_000))]).await;
        let receipts = answers.concat();
        assert_stored_once(&receipts);
        all.push((receipts[0].first.get(), payload));
        if round % 50 == 49 {
            was_handed += handed(&pair.near).await;
        }
    }
    assert!(was_handed > 0);
    all.extend(busy.end().await);
    pair.check(all).await;
}

/// Publishes 100 batches, each on the condition that it is next. Returns their places. A batch may fail only because of
/// its condition.
async fn compare_and_set(topic: &Arc<dyn TopicLog>) -> Vec<(u64, u64)> {
    let (mut expected, mut stored, mut appender) = (Offset::ZERO, Vec::new(), topic.appender());
    for _ in 0..100 {
        let payload = payload();
        let batch = batch(&[payload], 10).expecting(Some(expected));
        let done = timeout(Duration::from_secs(20), appender.append(vec![batch], Hold::default()));
        let done = done.await.expect("an answer");
        match done.failure {
            None => {
                assert!(done.receipts[0].first >= expected);
                stored.push((done.receipts[0].first.get(), payload));
                expected = done.receipts[0].next.offset;
            }
            Some(Error::ExpectedOffset { tail, .. }) => {
                assert!(tail > expected);
                (expected, appender) = (tail, topic.appender());
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    stored
}

/// Conditional publishes go through both replicas, together with unconditional ones. Each that succeeds is stored at
/// the place that it named, and the far replica always gets an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_beside_what_is_handed_over() {
    let pair = Pair::new(MS).await;
    let topics = [&pair.at_near, &pair.at_far];
    let busy = topics.map(|topic| Busy::begin(topic, 4));
    let mut all = join_all(topics.map(compare_and_set)).await.concat();
    for busy in busy {
        all.extend(busy.end().await);
    }
    pair.check(all).await;
}

/// P5 does not depend on wall clocks: batches are handed over and stored once, whatever the clocks of both replicas
/// say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_handed_over_whatever_the_clocks_say() {
    for seconds in [-86_400, 86_400] {
        let pair = Pair::new(MS).await;
        pair.far.nats.clock.jump(seconds);
        let busy = Busy::begin(&pair.at_near, 8);
        let (mut all, mut was_handed) = (Vec::new(), 0);
        eventually("batches are handed over", Duration::from_secs(20), async || {
            all.extend(timed(&*pair.at_far, 20).await.0);
            was_handed += handed(&pair.near).await;
            was_handed > 0
        })
        .await;
        all.extend(busy.end().await);
        pair.check(all).await;
    }
}

/// The commits that a replica holds for others have a budget. If it is used up, the replica accepts none, and accepts
/// them again once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_others_have_a_budget() {
    let pair = Pair::new(MS).await;
    // The far replica accepts nothing, so only it hands batches over.
    let all = u32::try_from(HANDED_OVER_BYTES_MAX).unwrap();
    let _nothing = pair.far.nats.handed_over.clone().try_acquire_many_owned(all).unwrap();
    let budget = pair.near.nats.handed_over.clone();
    let all_of_it = budget.clone().try_acquire_many_owned(all).unwrap();
    let (near, far) = (Busy::begin(&pair.at_near, 8), Busy::begin(&pair.at_far, 2));
    let stored = || near.stored.load(Ordering::Relaxed);
    eventually("much is stored", Duration::from_secs(30), async || stored() >= 500).await;
    assert_eq!(handed(&pair.near).await, 0);
    drop(all_of_it);
    eventually("batches are handed over", Duration::from_secs(20), async || handed(&pair.near).await > 0)
        .await;
    let mut all = far.end().await;
    all.extend(near.end().await);
    pair.check(all).await;
    assert_eq!(budget.available_permits(), HANDED_OVER_BYTES_MAX);
}

/// A replica of a version without hand-over publishes at the same time as two newer ones. Each stores its batches, and
/// nothing is lost or repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_an_earlier_version_and_newer_ones_store_what_they_are_given() {
    let nats = Nats::single("");
    let config = config(&nats);
    let mut earlier = connect::connect(&config, &Reason::default()).await.unwrap();
    earlier.hands_over = false;
    let earlier = JetStreamLog::over(earlier, config.topics_max);
    let logs = [earlier, open(&config).await, open(&config).await];
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(|log| topic_of(log))).await;
    let busy: Vec<_> = topics.iter().map(|topic| Busy::begin(topic, 4)).collect();
    let stored_by = |n: usize| busy[n].stored.load(Ordering::Relaxed);
    eventually("each stores", Duration::from_secs(30), async || (0..3).all(|n| stored_by(n) >= 100)).await;
    let mut all = Vec::new();
    for busy in busy {
        all.extend(busy.end().await);
    }
    check(&*topics[0], all).await;
}

/// A topic keeps less than one message. Publishes are answered as with one replica, although the stored records are
/// already gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_publishes_to_a_topic_that_keeps_nothing() {
    let nats = Nats::single("");
    let logs = join_all((0..2).map(|_| async { open(&config(&nats)).await })).await;
    let retention = Retention { max_bytes: Some(1), ..Retention::default() };
    logs[0].create(name("t"), retention).await.unwrap();
    let topics = join_all(logs.iter().map(|log| topic_of(log))).await;
    let mut last = None;
    for n in 0..10 {
        let receipt = put(&*topics[n % 2], n as u64).await.unwrap();
        assert!(Some(receipt.first) > last, "{receipt:?}");
        last = Some(receipt.first);
    }
    let mut firsts = HashSet::new();
    for _ in 0..5 {
        for receipt in join_all(topics.iter().map(|topic| put(&**topic, payload()))).await {
            assert!(firsts.insert(receipt.unwrap().first));
        }
    }
}

/// Measures the throughput of 24 publishers through three near replicas, relative to the same publishers through one
/// replica. It is run by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn share_of_one_replica_that_three_store_together() {
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(|log| topic_of(log))).await;
    let newest = async || logs[0].nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence;
    for _ in 0..8 {
        let begun = newest().await;
        let alone = Busy::begin(&topics[0], 24);
        sleep(Duration::from_secs(1)).await;
        let alone = alone.end().await.len();
        let between = newest().await;
        let together: Vec<_> = topics.iter().map(|topic| Busy::begin(topic, 8)).collect();
        sleep(Duration::from_secs(1)).await;
        let handed = handed(&logs[0]).await;
        let mut each = Vec::new();
        for busy in together {
            each.push(busy.end().await.len());
        }
        let (first, second) = (between - begun, newest().await - between);
        let sum: usize = each.iter().sum();
        let share = sum as f64 / alone as f64;
        println!(
            "alone {alone} in {first} commits, together {sum} {each:?} in {second}: {share:.2}; {handed} of 200 \
             commits hold others' batches"
        );
    }
}
