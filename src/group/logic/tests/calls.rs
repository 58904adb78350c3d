//! Calls that get one lease.

use super::cases::{A, B, deliveries, one, world};
use super::world::{GROUP, World};
use crate::group::logic::{Act, Fence, Input, Order, Outcome, SessionId};

#[test]
fn a_call_gets_one_lease_which_lives_by_its_own_deadline() {
    let mut world = world(Order::None, 2);
    world.publish(&[None; 5]);
    world.lease_once(0, 2);
    assert_eq!(world.held(0), [0, 1]);
    let owner = |world: &World| {
        let owner = &world.current.owner;
        (owner.member_count(GROUP), owner.members(GROUP).count(), owner.load(GROUP).leased)
    };
    assert_eq!(owner(&world), (0, 0, 2), "it is no member");
    let fence = world.fence(0);
    // Its credit came back, and gets it nothing more.
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
    assert_eq!(world.held(0), [0, 1]);
    world.advance(29_999);
    world.settle_down();
    world.join(1, 10);
    assert_eq!(world.held(1), [2, 3, 4]);
    world.advance(1);
    world.settle_down();
    assert_eq!((world.held(1), deliveries(&world, 1)), (vec![2, 3, 4, 1], 1));
    assert_eq!(owner(&world), (1, 1, 4));
}

#[test]
fn a_call_that_is_cancelled_gives_back_what_it_got_uncounted() {
    let mut world = world(Order::Key, 2);
    world.lease_once(0, 2);
    world.publish(&[A, A, A]);
    assert_eq!(world.held(0), [0, 1]);
    world.cut(0);
    world.settle_down();
    world.join(1, 3);
    assert_eq!((world.held(1), deliveries(&world, 0)), (vec![0, 1, 2], 0));
    world.lease_once(0, 2);
    world.cut(0);
    world.publish(&[B]);
    assert_eq!(world.held(0), [0_u64; 0], "nobody waits any more");
}

#[test]
fn a_call_that_does_not_wait_gets_what_the_topic_holds_already() {
    let mut world = world(Order::Key, 2);
    // Its read takes several rounds: the first records are of a key that is set aside for long.
    world.publish(&[A; 30]);
    world.join(1, 1);
    world.publish(&[B]);
    world.lease_once(0, 5);
    world.stop_waiting(0);
    assert_eq!((world.held(0), world.empty.len()), (vec![30], 0));
    world.lease_once(0, 5);
    world.stop_waiting(0);
    assert_eq!((world.held(0).len(), world.empty.len()), (0, 1));
    world.publish(&[B]);
    let fence = Fence::new(world.truth.last().term, 2);
    world.answered(fence, one(30), Act::Ack);
    assert_eq!(world.held(0), [0_u64; 0], "it is gone");
}

#[test]
fn the_lease_of_a_call_outlives_a_handover_until_its_deadline() {
    let mut world = world(Order::None, 2);
    world.publish(&[None; 2]);
    world.lease_once(0, 2);
    let fence = world.fence(0);
    for _ in 0..2 {
        world.advance(10_000);
        world.hand_over();
        world.take_over(false);
    }
    world.join(1, 10);
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
    world.advance(9_999);
    world.settle_down();
    assert_eq!(world.held(1), [0_u64; 0]);
    world.advance(1);
    world.settle_down();
    assert_eq!((world.held(1), deliveries(&world, 1)), (vec![1], 1));
}

#[test]
fn a_call_waits_for_what_is_being_read() {
    use crate::group::logic::{Output, ReadItem};
    let mut world = world(Order::None, 1);
    let (now, session, stream) = (world.at(), SessionId(9), 9);
    let owner = &mut world.current.owner;
    let mut outputs = |input| {
        owner.handle(now, input);
        owner.take_outputs()
    };
    outputs(Input::LeaseOnce { group: GROUP, session, stream, records: 5, bytes: 1000 });
    assert_eq!(outputs(Input::StopWaiting { session, stream }), [], "the tail is not known");
    let read = outputs(Input::Tail { group: GROUP, tail: 1 });
    assert_eq!(read, [Output::Read { group: GROUP, from: 0 }]);
    let items = vec![ReadItem { offset: 0, size: 100, key: None }];
    let leased = outputs(Input::Records { group: GROUP, from: 0, next: 1, tail: 1, items });
    assert!(matches!(&leased[..], [Output::Lease(grant)] if grant.records == 1), "{leased:?}");
    outputs(Input::LeaseOnce { group: GROUP, session: SessionId(10), stream: 10, records: 5, bytes: 1000 });
    let empty = outputs(Input::StopWaiting { session: SessionId(10), stream: 10 });
    assert_eq!(empty, [Output::Empty { stream: 10 }], "everything was read");
}
