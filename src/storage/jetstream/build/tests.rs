//! Tests of commits with batches of one replica and of others, which are built, stored and settled without NATS.

use super::{Address, Basis, Built, Commit, Parcel, Seen, build};
use crate::record::{Batch, Epoch, Offset, RequestId, Scope, UnixMicros};
use crate::storage::append::{Append, Reply};
use crate::storage::conformance::batch;
use crate::storage::jetstream::commit::Place;
use crate::storage::jetstream::handover::{self, Content};
use crate::storage::jetstream::message::{Message, digest, start_of};
use crate::storage::jetstream::queue::Queued;
use crate::storage::window::{self, Owner, Window};
use crate::storage::{Appended, Hold};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot::Receiver;

fn waiting(serial: u64, batches: Vec<Batch>) -> (Queued, Receiver<Appended>) {
    let (reply, answer) = Reply::new(Arc::default(), Hold::default());
    (Queued::new(serial, Append { batches, reply }), answer)
}

fn window() -> Window {
    Window::new(Duration::from_secs(600), 100, UnixMicros::now())
}

fn remember(window: &mut Window, id: &str) {
    let (time, at) = (UnixMicros::now(), UnixMicros::now());
    let key = window.key(0, Scope::NONE, &digest(&RequestId::parse(id).unwrap()));
    let (first, owner) = (Offset::ZERO, Owner::of(Scope::NONE));
    let content = batch(&[1], 10).content();
    window.insert(key, window::Stored { first, span: 1, content, owner, time, at }, at);
}

fn built(
    queue: &VecDeque<Queued>,
    sequence: u64,
    held: &[Parcel],
    for_other: bool,
    window: &Window,
) -> Commit {
    let next = Offset::new(sequence << 10);
    // The wall clock of this replica is a day ahead, and that of the one that stored the newest message even more. Ages are
    // measured by the steady clock.
    let wall = UnixMicros(UnixMicros::now().0 + 86_400_000_000);
    let time = UnixMicros(wall.0 + 1_000_000_000);
    let seen = Seen { sequence, next, records: 0, time };
    let basis = Basis {
        epoch: Epoch::new(1),
        seen,
        certain: 0,
        window,
        bytes_max: 1 << 20,
        wall,
        steady: UnixMicros::now(),
        by: Some(Address::random()),
        for_other,
        cut: Offset::ZERO,
        held,
        held_first: true,
    };
    let Built::Commit(commit) = build(queue, &basis) else { panic!("behind") };
    assert!(commit.is_empty() || commit.head.time > time, "no two messages have the same time");
    commit
}

/// Parses a commit as the replica that receives it does.
fn handed(commit: &Commit, from: Address) -> Parcel {
    let mut letter = handover::letter(from, &commit.head, commit.after.sequence, commit.payload.clone());
    letter.who = from;
    let Some(Content::Handed(parcel)) = handover::read(letter) else { panic!("not a commit") };
    parcel
}

/// A commit of one replica is stored by another before that one's own batches. The first replica then answers its
/// appends from the stored message.
#[test]
fn a_group_is_stored_within_anothers() {
    let id = |n: u64, id: &str| batch(&[n], 10).with_request_id(id).unwrap();
    let (first, answer) = waiting(7, vec![id(1, "a"), id(2, "b"), id(1, "a"), batch(&[3, 4], 0)]);
    let mut queue = VecDeque::from([first]);
    let far = built(&queue, 4, &[], true, &window());
    let from = Address::random();
    let parcel = handed(&far, from);
    let (own, own_answer) = waiting(0, vec![batch(&[9], 10)]);
    let mut own = VecDeque::from([own]);
    let near = built(&own, 8, &[parcel], false, &window());
    assert_eq!((near.head.records, near.head.ids.len(), near.head.handed[0].index), (5, 2, 0));
    let stored = Message::read(9, Some(&near.headers(0)), &near.payload).unwrap();
    assert_eq!((stored.head.handed[0].from, stored.head.handed[0].nonce), (from, far.head.nonce));
    let place = Place { base: start_of(9), end: stored.next, time: stored.head.time };
    far.settle(place, &mut queue, None);
    let place = near.place();
    near.settle(place, &mut own, None);
    let receipts = answer.blocking_recv().unwrap().receipts;
    let told = |n: usize| (receipts[n].first.get() - (8 << 10), receipts[n].duplicate);
    assert_eq!([told(0), told(1), told(2), told(3)], [(0, false), (1, false), (0, true), (2, false)]);
    assert!(receipts.iter().all(|receipt| receipt.time == stored.head.time));
    // Only after the last batch of the message are there unused offsets.
    let own = own_answer.blocking_recv().unwrap().receipts;
    let nexts: Vec<_> = receipts.iter().chain(&own).map(|receipt| receipt.next.offset.get()).collect();
    assert_eq!(nexts, [(8 << 10) + 1, (8 << 10) + 2, (8 << 10) + 1, (8 << 10) + 4, 9 << 10]);
    assert!(queue.is_empty());
}

#[test]
fn a_group_that_cannot_be_stored_as_it_is_is_given_back() {
    let (append, _answer) = waiting(0, vec![batch(&[1], 10).with_request_id("a").unwrap()]);
    let far = built(&VecDeque::from([append]), 4, &[], true, &window());
    let refused = |parcel: Parcel, window: &Window| {
        let near = built(&VecDeque::new(), 8, &[parcel], false, window);
        assert!(near.is_empty() || near.stale.is_empty());
        near.stale.len()
    };
    let from = Address::random();
    assert_eq!(refused(handed(&far, from), &window()), 0);
    // The batch that it repeats was stored in the meantime.
    let mut known = window();
    remember(&mut known, "a");
    assert_eq!(refused(handed(&far, from), &known), 1);
    // The clock of its replica does not matter.
    for micros in [-86_400_000_000, 86_400_000_000] {
        let mut skewed = handed(&far, from);
        skewed.head.time = UnixMicros(skewed.head.time.0.saturating_add_signed(micros));
        assert_eq!(refused(skewed, &window()), 0);
    }
    // The commit was damaged on its way.
    let mut damaged = handed(&far, from);
    damaged.head.crc ^= 1;
    assert_eq!(refused(damaged, &window()), 1);
}

/// A condition is checked only by the replica that received it.
#[test]
fn a_condition_is_not_handed_over() {
    let conditional = batch(&[2], 0).expecting(Some(Offset::new(4 << 10)));
    let (first, _one) = waiting(0, vec![batch(&[1], 0), conditional.clone()]);
    let far = built(&VecDeque::from([first]), 4, &[], true, &window());
    assert_eq!(far.head.records, 1);
    let (first, _two) = waiting(0, vec![conditional]);
    let far = built(&VecDeque::from([first]), 4, &[], true, &window());
    assert!(far.is_empty() && far.settles_nothing());
}

/// An append that needs no write does not wait for one whose commit may lose its place repeatedly.
#[test]
fn a_duplicate_is_answered_without_what_waits_behind_it() {
    let mut known = window();
    remember(&mut known, "a");
    let (first, mut answer) = waiting(0, vec![batch(&[1], 10).with_request_id("a").unwrap()]);
    let (second, _other) = waiting(1, vec![batch(&[2], 10)]);
    let mut queue = VecDeque::from([first, second]);
    let commit = built(&queue, 4, &[], false, &known);
    assert!(commit.is_empty());
    let place = commit.place();
    commit.settle(place, &mut queue, None);
    assert!(answer.try_recv().unwrap().receipts[0].duplicate);
    assert_eq!(built(&queue, 4, &[], false, &known).head.records, 1);
}
