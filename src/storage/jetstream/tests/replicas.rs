//! Tests of replicas that share a topic: positions, conditions and request ids of one replica are valid on the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{assert_stored_once, config, created, eventually, everything, open, put};
use crate::record::{Offset, Position, RequestId, Scope, UnixMicros, offsetless};
use crate::storage::conformance::{batch, flatten, name};
use crate::storage::jetstream::message::{Head, IdEntry, digest};
use crate::storage::jetstream::names::subject;
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Hold, Log, Start, TopicLog};

/// P3: records that one replica acknowledged are served by another at once, from the same position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_one_replica_works_at_once_on_another() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    created(&*a, "t").await;
    let (on_a, on_b) = (a.get(&name("t")).await.unwrap(), b.get(&name("t")).await.unwrap());
    assert_eq!(on_a.epoch(), on_b.epoch());
    for n in 0..100 {
        let (one, other) = if n % 2 == 0 { (&on_a, &on_b) } else { (&on_b, &on_a) };
        let Position { offset, .. } = put(&**one, n).await.unwrap().next;
        assert_eq!(other.resolve(Start::At(offset)).await.unwrap(), offset);
        assert!(other.resolve(Start::Latest).await.unwrap() >= offset);
        // A condition on the offset that the other replica has just acknowledged holds.
        let next = batch(&[1_000 + n], 0).expecting(Some(offset));
        let done = other.appender().append(vec![next], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    assert_eq!(everything(&*on_a).await.len(), 200);
    let beyond = on_b.tail().plus(1 << 20);
    let begun = Instant::now();
    assert!(matches!(on_b.resolve(Start::At(beyond)).await, Err(Error::BeyondTail { .. })));
    assert!(begun.elapsed() >= Duration::from_secs(5), "it may have come yet");
}

/// The refusal of a condition reports a tail that includes everything acknowledged before, even on a replica that has
/// not read it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_condition_is_told_of_an_end_that_is_not_old() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    created(&*a, "t").await;
    let (on_a, on_b) = (a.get(&name("t")).await.unwrap(), b.get(&name("t")).await.unwrap());
    put(&*on_b, 0).await.unwrap();
    for n in 1..200 {
        let conditional = async |expected| {
            let batch = batch(&[1_000 + n], 0).expecting(Some(expected));
            on_b.appender().append(vec![batch], Hold::default()).await.failure
        };
        // The first condition holds once b has read what a stored, and the second does not hold.
        let next = put(&*on_a, n).await.unwrap().next.offset;
        assert_eq!(conditional(next).await, None);
        let next = put(&*on_a, n).await.unwrap().next.offset;
        let refused = conditional(Offset::ZERO).await;
        let Some(Error::ExpectedOffset { tail, .. }) = refused else { panic!("{refused:?}") };
        assert!(tail >= next, "round {n}: told of {tail}, and {next} was acknowledged before");
    }
}

/// Reads `count` records, on one replica after the other, and waits for them as a subscriber does.
async fn read_moving(replicas: &[Arc<dyn TopicLog>], count: usize) -> Vec<(u64, u64)> {
    let (mut at, mut found, mut turn) = (Offset::ZERO, Vec::new(), 0);
    while found.len() < count {
        let topic = &replicas[turn % replicas.len()];
        turn += 1;
        at = topic.resolve(Start::At(at)).await.unwrap();
        for _ in 0..3 {
            topic.wait_beyond(at).await;
            let chunk = match topic.read_cached(at, 4_000) {
                Some(chunk) => chunk,
                None => topic.read(at, 4_000).await.unwrap(),
            };
            found.extend(flatten(&chunk.runs));
            at = chunk.next;
            if found.len() >= count {
                break;
            }
        }
    }
    found
}

/// P2, P3: a subscriber that moves among replicas that all publish sees each record once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_moved_among_replicas_sees_every_record_once() {
    const EACH: u64 = 300;
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let replicas = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    let reading = tokio::spawn({
        let replicas = replicas.clone();
        async move { read_moving(&replicas, 3 * EACH as usize).await }
    });
    let write = async |replica: u64| {
        let (mut appender, mut done) = (replicas[replica as usize].appender(), Vec::new());
        for n in 0..EACH {
            done.push(appender.append(vec![batch(&[replica << 32 | n], 50)], Hold::default()));
            if n % 10 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        join_all(done).await
    };
    let written = join_all((0..3).map(write)).await;
    assert!(written.iter().flatten().all(|done| done.failure.is_none()));
    let read = timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(read.is_sorted_by(|a, b| a.0 < b.0));
    for replica in 0..3 {
        let of: Vec<_> =
            read.iter().filter(|(_, p)| p >> 32 == replica).map(|(_, p)| p & 0xffff_ffff).collect();
        assert_eq!(of, (0..EACH).collect::<Vec<_>>());
    }
    // The receipts name the places that were read.
    let places: HashSet<_> = read.iter().copied().collect();
    for (replica, done) in written.iter().enumerate() {
        for (n, done) in done.iter().enumerate() {
            assert!(places.contains(&(done.receipts[0].first.get(), (replica as u64) << 32 | n as u64)));
        }
    }
}

/// P5: a request id sent through several replicas at once is stored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_stored_once_whatever_the_replica() {
    let nats = Nats::single("");
    let logs = join_all((0..3).map(|_| async { open(&config(&nats)).await })).await;
    created(&*logs[0], "t").await;
    let topics = join_all(logs.iter().map(async |log| log.get(&name("t")).await.unwrap())).await;
    for round in 0..30_u64 {
        let answers = join_all(topics.iter().map(async |topic| {
            let batch = batch(&[round], 0).with_request_id(&format!("id-{round}")).unwrap();
            topic.appender().append(vec![batch], Hold::default()).await
        }));
        let receipts: Vec<_> = answers.await.into_iter().map(|done| done.receipts[0]).collect();
        assert_stored_once(&receipts);
    }
    assert_eq!(everything(&*topics[0]).await.len(), 30);
}

/// Publishes a batch under an id. Returns true if the id was known.
async fn is_known(topic: &dyn TopicLog, id: u64) -> bool {
    let batch = batch(&[id], 0).with_request_id(&format!("id-{id}")).unwrap();
    let done = topic.appender().append(vec![batch], Hold::default()).await;
    assert_eq!(done.failure, None);
    done.receipts[0].duplicate
}

/// P5: a replica that still reads the older ids while newer ones are stored keeps the newest ids, and no more than its
/// limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_seen_while_the_older_ones_are_read_are_kept() {
    const MAX: u64 = 50;
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.request_ids_max = MAX as usize;
    let (a, b) = (open(&config).await, open(&config).await);
    created(&*a, "t").await;
    let (on_a, on_b) = (a.get(&name("t")).await.unwrap(), b.get(&name("t")).await.unwrap());
    for id in 0..600 {
        assert!(!is_known(&*on_a, id).await);
    }
    on_b.resolve(Start::Latest).await.unwrap();
    let later = async {
        for id in 600..620 {
            assert!(!is_known(&*on_a, id).await);
        }
    };
    // The first publish on b makes it read the ids of 600 messages, 200 at a time.
    let (first, ()) = tokio::join!(is_known(&*on_b, 599), later);
    assert!(first);
    eventually("b saw them stored", Duration::from_secs(10), async || on_b.tail() == on_a.tail()).await;
    for id in (620 - MAX..620).rev() {
        assert!(is_known(&*on_b, id).await, "{id}, which is one of the newest, is known");
    }
    assert!(!is_known(&*on_b, 0).await, "one beyond the limit is not");
}

/// P5: an id is remembered for the window, whatever the clock of a replica says, both by replicas that saw it stored
/// and by one that starts later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_clock_is_wrong_forgets_no_request_id() {
    let nats = Nats::single("");
    for (n, (seconds, others)) in [(660, 0), (-660, 0), (0, 660), (86_400, -86_400)].into_iter().enumerate() {
        let topic = format!("t-{n}");
        let logs = join_all((0..2).map(|_| async { open(&config(&nats)).await })).await;
        logs[0].nats.clock.jump(seconds);
        logs[1].nats.clock.jump(others);
        created(&*logs[0], &topic).await;
        let topics = join_all(logs.iter().map(async |log| log.get(&name(&topic)).await.unwrap())).await;
        for id in 0..20 {
            let (one, other) = (&topics[id as usize % 2], &topics[1 - id as usize % 2]);
            assert!(!is_known(&**one, id).await);
            assert!(is_known(&**other, id).await, "{seconds}, {others}: {id} is known to the other one");
        }
        for seconds in [0, 660, -660] {
            let log = open(&config(&nats)).await;
            log.nats.clock.jump(seconds);
            let topic = log.get(&name(&topic)).await.unwrap();
            for id in 0..20 {
                assert!(is_known(&*topic, id).await, "{id} is known to one that starts {seconds} s off");
            }
        }
    }
}

/// P5: ids are forgotten once the window is over, by the steady clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_forgotten_once_the_window_is_over() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    assert!(!is_known(&*topic, 1).await);
    log.nats.clock.pass(Duration::from_secs(550));
    assert!(is_known(&*topic, 1).await && !is_known(&*topic, 2).await);
    log.nats.clock.pass(Duration::from_secs(60));
    assert!(!is_known(&*topic, 1).await && is_known(&*topic, 2).await);
}

/// P5: an id that an earlier version stored counts as a duplicate for every principal, as it did in that version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_an_earlier_program_stored_are_known() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let (mut payload, time) = (Vec::new(), UnixMicros::now());
    offsetless::encode(time, &batch(&[1], 0), &mut payload);
    let id = IdEntry { index: 0, count: 1, digest: digest(&RequestId::parse("id-1").unwrap()), mark: None };
    let crc = crc32c::crc32c(&payload);
    let head = Head { nonce: 7, time, before: 0, records: 1, crc, ids: vec![id], ..Head::default() };
    let subject = subject(&name("t"), topic.epoch());
    log.nats.client.publish_with_headers(subject, head.headers(0), payload.into()).await.unwrap();
    eventually("it is stored", Duration::from_secs(10), async || {
        topic.resolve(Start::Latest).await.is_ok_and(|tail| tail > Offset::ZERO)
    })
    .await;
    for scope in [Scope::NONE, Scope::new([3; 16])] {
        let other = batch(&[2, 3], 0).with_request_id("id-1").unwrap().within(scope);
        let done = topic.appender().append(vec![other], Hold::default()).await;
        assert!(done.receipts[0].duplicate && done.receipts[0].first == Offset::ZERO, "{done:?}");
    }
    assert_eq!(everything(&*topic).await.len(), 1);
}

/// One replica trims, deletes and creates a topic again, and the others notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_does_to_a_topic_others_notice() {
    let nats = Nats::single("");
    let (a, b) = (open(&config(&nats)).await, open(&config(&nats)).await);
    let on_a = created(&*a, "t").await;
    let on_b = b.get(&name("t")).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..20 {
        receipts.push(put(&*on_a, n).await.unwrap());
    }
    let tail = on_b.resolve(Start::Latest).await.unwrap();
    assert_eq!(tail, on_a.tail());
    a.trim(&name("t"), None, receipts[10].first).await.unwrap();
    eventually("b knows of the trim", Duration::from_secs(10), async || {
        on_b.earliest() == receipts[10].first
    })
    .await;
    let waiting = tokio::spawn({
        let on_b = on_b.clone();
        async move { on_b.wait_beyond(tail).await }
    });
    a.delete(&name("t"), None).await.unwrap();
    timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(on_b.is_deleted());
    let again = created(&*a, "t").await;
    assert_eq!(put(&*on_b, 1).await, Err(Error::TopicNotFound));
    let on_b = b.get(&name("t")).await.unwrap();
    assert_eq!(on_b.epoch(), again.epoch());
    put(&*on_b, 1).await.unwrap();
    assert_eq!(everything(&*again).await.len(), 1);
}

/// P5: all topics together remember no more ids than the limit, and each topic remembers its newest ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_topics_together_keep_to_the_limit_of_request_ids() {
    const MAX: usize = 96;
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.request_ids_max = MAX;
    let log = open(&config).await;
    let mut topics = Vec::new();
    for n in 0..4 {
        topics.push(created(&*log, &format!("t{n}")).await);
    }
    for id in 0..200 {
        assert!(!is_known(&*topics[0], id).await);
    }
    assert_eq!(log.nats.ids.held(), MAX, "one topic may have all");
    let held = async || log.nats.ids.held() <= MAX;
    for id in 200..240 {
        for topic in &topics[1..] {
            assert!(!is_known(&**topic, id).await);
            assert!(is_known(&**topic, id).await, "the newest is known");
            assert!(log.nats.ids.held() <= MAX + MAX / 8, "{}", log.nats.ids.held());
        }
        if id % 4 == 0 {
            eventually("the busy topic gives up some", Duration::from_secs(10), held).await;
        }
    }
    // The busy topic has dropped the ids above its share, so the others have theirs.
    for (topic, newest) in topics.iter().zip([199, 239, 239, 239]) {
        for id in (newest - 9..=newest).rev() {
            assert!(is_known(&**topic, id).await, "{id} of {}", topic.name());
        }
    }
}
