//! Replicas that publish to one topic at once, at different distances from NATS.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::proxy::Proxy;
use super::{config, created, everything, open, put};
use crate::config::Config;
use crate::record::{Offset, Receipt, UnixMicros, offsetless};
use crate::storage::conformance::{batch, name};
use crate::storage::jetstream::JetStreamLog;
use crate::storage::jetstream::bus::{Bus, Received};
use crate::storage::jetstream::flight::{Outcome, send};
use crate::storage::jetstream::handover::{self, Content, Why};
use crate::storage::jetstream::message::{Handed, Head, start_of};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Hold, Log, TopicLog};

/// A replica whose way to NATS is as bad as the proxy makes it.
async fn behind(nats: &Nats) -> (Proxy, Arc<JetStreamLog>) {
    let proxy = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    let mut config: Config = config(nats);
    config.nats.url = format!("nats://{}", proxy.at);
    let log = open(&config).await;
    (proxy, log)
}

async fn topic_of(log: &JetStreamLog) -> Arc<dyn TopicLog> {
    log.get(&name("t")).await.unwrap()
}

/// What each publish of one publisher was answered.
type Done = Vec<(u64, Result<Receipt, Error>)>;

/// Publishers that publish one batch after the other, until they are told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Done>>,
}

/// How long what passes the proxy is on its way.
const WAY: Duration = Duration::from_millis(20);

static PAYLOAD: AtomicU64 = AtomicU64::new(0);

fn payload() -> u64 {
    PAYLOAD.fetch_add(1, Ordering::Relaxed)
}

impl Busy {
    fn begin(topic: &Arc<dyn TopicLog>, publishers: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let publisher = |_| {
            let (topic, stop) = (topic.clone(), stop.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let payload = payload();
                    done.push((payload, put(&*topic, payload).await));
                }
                done
            })
        };
        Self { tasks: (0..publishers).map(publisher).collect(), stop }
    }

    /// All that was answered; nothing fails.
    async fn end(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Release);
        let done = timeout(Duration::from_secs(60), join_all(self.tasks)).await.expect("answers");
        let stored = done.into_iter().flat_map(Result::unwrap);
        stored.map(|(payload, done)| (done.unwrap().first.get(), payload)).collect()
    }
}

/// A replica that stores one message after the other, until another hands it a commit: that it gives back, as one does
/// that stops, and stores in the same moment, as what was on its way. Answers the sequence.
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
            // Longer than it takes to be told, and less than the other one takes to store it itself.
            sleep(WAY + WAY / 2).await;
        }
        match send(&log.nats, subject, request).await {
            Outcome::Stored(sequence) if is_last => return sequence,
            Outcome::Stored(sequence) | Outcome::Taken(sequence) => after = sequence,
            other => panic!("{other:?}"),
        }
    }
}

/// How many of the newest messages hold what others built.
async fn handed(log: &JetStreamLog) -> usize {
    let last = log.nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence;
    let mut count = 0;
    for sequence in last.saturating_sub(200).max(1)..=last {
        let message = log.nats.message("streamway-t", sequence).await.unwrap().unwrap();
        count += usize::from(!Head::parse(&message.headers).unwrap().handed.is_empty());
    }
    count
}

/// Every record that was acknowledged is there once, where its receipt says, and no other.
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
        // Not before the other one is busy.
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

/// A replica 5 ms from NATS beside one that is near and busy: alone a publish takes 11 ms or so, and
/// beside it no more than ten times as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_replica_is_not_starved_by_a_busy_near_one() {
    let nats = Nats::single("");
    let near = open(&config(&nats)).await;
    let (proxy, far) = behind(&nats).await;
    created(&*near, "t").await;
    let (at_near, at_far) = (topic_of(&near).await, topic_of(&far).await);
    for delay in [5000, 1000, 300] {
        proxy.delay(Duration::from_micros(delay));
        let (mut all, alone) = timed(&*at_far, 50).await;
        let busy = Busy::begin(&at_near, 8);
        sleep(Duration::from_millis(200)).await;
        let (stored, beside) = timed(&*at_far, 100).await;
        let handed = handed(&near).await;
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
        let places: HashSet<_> = everything(&*at_far).await.into_iter().collect();
        assert!(all.iter().all(|place| places.contains(place)));
    }
}

/// P2: the batches of one call keep their order while they are handed over, though the replica they are
/// handed to, its way to NATS and theirs break down again and again.
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

/// The replica that others hand their batches to is closed, and another takes its place: nobody fails.
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

/// P5: a request id that is sent through two replicas at once is stored once, though one of them hands over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_stored_once_though_it_is_handed_over() {
    let nats = Nats::single("");
    let near = open(&config(&nats)).await;
    let (proxy, far) = behind(&nats).await;
    proxy.delay(Duration::from_millis(1));
    created(&*near, "t").await;
    let topics = [topic_of(&near).await, topic_of(&far).await];
    let busy = Busy::begin(&topics[0], 8);
    let (mut all, mut was_handed) = (Vec::new(), 0);
    for round in 0..150 {
        let payload = payload();
        let send = async |topic: &Arc<dyn TopicLog>, pause| {
            sleep(Duration::from_micros(pause)).await;
            let batch = batch(&[payload], 0).with_request_id(&format!("id-{round}")).unwrap();
            // Twice in one call, too.
            let done = topic.appender().append(vec![batch.clone(), batch], Hold::default()).await;
            assert_eq!(done.failure, None);
            done.receipts
        };
        let answers = join_all([send(&topics[1], 0), send(&topics[0], fastrand::u64(0..20_000))]).await;
        let receipts = answers.concat();
        assert_eq!(receipts.iter().filter(|receipt| !receipt.duplicate).count(), 1, "{receipts:?}");
        assert!(receipts.iter().all(|r| (r.first, r.next, r.time) == {
            (receipts[0].first, receipts[0].next, receipts[0].time)
        }));
        all.push((receipts[0].first.get(), payload));
        if round % 50 == 49 {
            was_handed += handed(&near).await;
        }
    }
    assert!(was_handed > 0);
    all.extend(busy.end().await);
    check(&*topics[1], all).await;
}

/// Compare and set through both replicas, beside publishers without a condition: each that succeeds was
/// at the place it named, and the far one is answered each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_beside_what_is_handed_over() {
    let nats = Nats::single("");
    let near = open(&config(&nats)).await;
    let (proxy, far) = behind(&nats).await;
    proxy.delay(Duration::from_millis(1));
    created(&*near, "t").await;
    let topics = [topic_of(&near).await, topic_of(&far).await];
    let busy = [Busy::begin(&topics[0], 4), Busy::begin(&topics[1], 4)];
    let conditional = async |topic: &Arc<dyn TopicLog>| {
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
    };
    let mut all = join_all(topics.iter().map(conditional)).await.concat();
    for busy in busy {
        all.extend(busy.end().await);
    }
    check(&*topics[1], all).await;
}

/// What 24 publishers store through three near replicas, of what the same 24 store through one.
/// Run by hand, for the figure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn share_of_one_replica_that_three_store_together() {
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(|log| topic_of(log))).await;
    for _ in 0..6 {
        let alone = Busy::begin(&topics[0], 24);
        sleep(Duration::from_secs(2)).await;
        let alone = alone.end().await.len();
        let before = logs[0].nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence;
        let together: Vec<_> = topics.iter().map(|topic| Busy::begin(topic, 8)).collect();
        sleep(Duration::from_secs(2)).await;
        let handed = handed(&logs[0]).await;
        let mut each = Vec::new();
        for busy in together {
            each.push(busy.end().await.len());
        }
        let commits = logs[0].nats.info("streamway-t").await.unwrap().unwrap().state.last_sequence - before;
        let sum: usize = each.iter().sum();
        let share = sum as f64 / alone as f64;
        println!(
            "alone {alone}, together {sum} {each:?}: {share:.2}; {commits} commits, {handed} of 200 with others'"
        );
    }
}
