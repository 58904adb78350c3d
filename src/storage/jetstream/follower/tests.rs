//! Decisions of a follower about commits of several replicas, taken one by one. NATS only provides the topic.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Follower;
use crate::record::{Offset, UnixMicros};
use crate::storage::append::{Append, Reply};
use crate::storage::conformance::{batch, name};
use crate::storage::jetstream::JetStreamLog;
use crate::storage::jetstream::build::{Basis, Built, build};
use crate::storage::jetstream::bus::Address;
use crate::storage::jetstream::commit::{Commit, Seen};
use crate::storage::jetstream::handover::{self, Content, Parcel, Why};
use crate::storage::jetstream::message::{Handed, Head, start_of};
use crate::storage::jetstream::queue::Queued;
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::tests::{config, open};
use crate::storage::window::Window;
use crate::storage::{Hold, Log, Retention};

/// Followers of new topics with these retentions. Each has read up to message 7, and knows all marks after that.
async fn followers(log: &JetStreamLog, retentions: &[Retention]) -> Vec<Follower> {
    let mut followers = Vec::new();
    for (n, retention) in retentions.iter().enumerate() {
        let name = name(&format!("t{n}"));
        log.create(name.clone(), *retention).await.unwrap();
        let mut follower = Follower::new(log.topics()[&name].clone());
        follower.marks.begin(7);
        follower.seen = Some(Seen { sequence: 7, next: start_of(8), ..Seen::default() });
        followers.push(follower);
    }
    followers
}

async fn follower(log: &JetStreamLog) -> Follower {
    followers(log, &[Retention::default()]).await.remove(0)
}

/// A commit that `from` built on the message `base`, as it arrives.
fn parcel(from: Address, nonce: u64, base: u64) -> Parcel {
    let head = Head { nonce, records: 1, ..Head::default() };
    let letter = handover::letter(from, &head, base, vec![0; 10].into());
    let Some(Content::Handed(parcel)) = handover::read(letter) else { panic!("no commit") };
    parcel
}

/// A message that holds a commit of this follower.
fn holding(from: Address, nonce: u64) -> Head {
    Head { handed: vec![Handed { from, nonce, index: 0 }], by: Some(Address::random()), ..Head::default() }
}

fn commit(follower: &Follower) -> Commit {
    let (reply, _answer) = Reply::new(Arc::default(), Hold::default());
    let queue = VecDeque::from([Queued::new(0, Append { batches: vec![batch(&[1], 10)], reply })]);
    let now = UnixMicros::now();
    let basis = Basis {
        epoch: follower.topic.state.epoch,
        seen: follower.seen.unwrap(),
        certain: 0,
        window: &Window::new(Duration::from_secs(600), 100, now),
        wall: now,
        steady: now,
        bytes_max: 1 << 20,
        by: Some(follower.bus.address),
        for_other: true,
        cut: Offset::ZERO,
        held: &[],
        held_first: false,
    };
    let Built::Commit(commit) = build(&queue, &basis) else { panic!("behind") };
    commit
}

fn held(follower: &Follower) -> Vec<u64> {
    follower.held.all().iter().map(|parcel| parcel.head.nonce).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_which_a_copy_is_stored_is_neither_held_nor_takes_the_place_of_a_newer_one() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let mut follower = follower(&log).await;
    let from = Address::random();
    assert_eq!((follower.hold(parcel(from, 1, 7)), held(&follower)), (Ok(()), vec![1]));
    follower.marks.note(8, &holding(from, 1));
    follower.sift_held();
    assert_eq!(held(&follower), [0; 0], "it is stored");
    // A larger copy of it was on its way.
    assert_eq!((follower.hold(parcel(from, 2, 7)), held(&follower)), (Ok(()), Vec::new()));
    assert_eq!((follower.hold(parcel(from, 3, 8)), held(&follower)), (Ok(()), vec![3]));
    assert_eq!((follower.hold(parcel(from, 2, 7)), held(&follower)), (Ok(()), vec![3]));
    assert_eq!(
        follower.hold(parcel(Address::random(), 4, 4)),
        Err(Why::Stale),
        "marks after it are not known"
    );
}

/// The first copy of a commit that is stored voids all others, however it was stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_remembered_only_until_one_of_them_is_stored() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let mut follower = follower(&log).await;
    let us = follower.bus.address;
    let by_us = Head { by: Some(us), ..Head::default() };
    for (head, left) in [(by_us, 0), (holding(us, 99), 0), (holding(Address::random(), 1), 2)] {
        follower.open = vec![commit(&follower), commit(&follower)];
        follower.decide(8, &head);
        assert_eq!(follower.open.len(), left, "{head:?}");
    }
}

/// Ages are measured by a clock that does not jump.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_of_the_wall_clock_makes_no_commit_old() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let mut follower = follower(&log).await;
    assert_eq!(follower.hold(parcel(Address::random(), 1, 7)), Ok(()));
    // It has read on since.
    follower.seen = Some(Seen { sequence: 9, next: start_of(10), ..Seen::default() });
    for seconds in [86_400, -172_800] {
        follower.topic.nats.clock.jump(seconds);
        assert_eq!(follower.hold(parcel(Address::random(), 2, 7)), Ok(()));
    }
}

/// Retention may remove a message before it is read. Then nobody would learn the outcome of what was handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_in_a_topic_that_keeps_little() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let message = log.nats.stream_config.message_bytes_max as u64;
    let none = Retention::default();
    let cases = [
        (none, false),
        (Retention { max_bytes: Some(4 * message), ..none }, false),
        (Retention { max_bytes: Some(4 * message - 1), ..none }, true),
        (Retention { max_records: Some(4096), ..none }, false),
        (Retention { max_records: Some(4095), ..none }, true),
        (Retention { max_age: Some(Duration::from_secs(1)), ..none }, false),
        (Retention { max_age: Some(Duration::from_millis(999)), ..none }, true),
    ];
    let followers = followers(&log, &cases.map(|(retention, _)| retention)).await;
    for (mut follower, (retention, keeps_little)) in followers.into_iter().zip(cases) {
        let (rival, now) = (Address::random(), Instant::now());
        follower.contest.stored_by(Some(rival), now);
        follower.contest.lost();
        follower.contest.lost();
        assert_eq!(follower.peer(), Some(rival).filter(|_| !keeps_little), "{retention:?}");
    }
}
