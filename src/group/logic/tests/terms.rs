//! Owners that follow each other: the log decides between them, and leases outlive a handover.

use super::cases::{A, B, deliveries, one, world};
use super::world::{GROUP, World, about};
use crate::group::logic::{
    Act, CommandId, Effect, Fence, Input, Now, Order, Outcome, Owner, Shard, Span, Tenure,
};
use crate::record::{Offset, TopicName};

#[test]
fn a_late_command_of_a_former_owner_has_no_effect() {
    let mut world = world(Order::None, 1);
    world.join(0, 10);
    world.publish(&[None]);
    let fence = world.fence(0);
    let ticket = world.send(fence, vec![(one(0), Act::Ack)], false);
    world.take_over(true);
    world.store(true, 1);
    world.fold(true);
    world.settle_down();
    assert!(!world.answers.contains_key(&ticket), "the former owner must not confirm it");
    assert!(!world.state().progress.is_settled(0));
    assert!(world.former.as_ref().unwrap().owner.has_ended());
    // The new owner has leased the record again, so that the old token is void.
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::LeaseLost)]);
}

#[test]
fn an_owner_that_begins_after_a_command_it_did_not_see_is_void() {
    let mut world = world(Order::None, 1);
    world.join(0, 10);
    world.publish(&[None]);
    world.send(world.fence(0), vec![(one(0), Act::Ack)], false);
    let stale = CommandId { term: world.truth.last().term, number: world.truth.last().number - 1 };
    let own = crate::group::logic::Command {
        id: CommandId { term: crate::group::logic::Term(stale.term.0 + 1), number: 1 },
        effect: Effect::Own { after: stale, owner: 0 },
    };
    let at = crate::record::Offset::new(99);
    assert_eq!(world.truth.apply(at, 1, &own), crate::group::logic::Verdict::Ignored);
    world.settle_down();
    assert!(world.state().progress.is_settled(0));
}

#[test]
fn a_token_of_the_last_owner_counts_until_the_record_is_leased_again() {
    let mut world = world(Order::Key, 1);
    world.join(0, 10);
    world.publish(&[A, B]);
    let fence = world.fence(0);
    world.workers[0].is_connected = false;
    world.take_over(false);
    let ticket = world.send(fence, vec![(Span { start: 0, end: 2 }, Act::Ack)], false);
    world.settle_down();
    assert_eq!(world.answers[&ticket], [(Span { start: 0, end: 2 }, Outcome::Settled)]);
}

/// P11: the next owner waits for a delayed record no longer than its delay, and less if its clock is ahead.
#[test]
fn a_delay_is_no_longer_where_the_clock_of_the_next_owner_is_behind() {
    for order in [Order::None, Order::Key] {
        let mut world = world(order, 1);
        world.join(0, 10);
        world.publish(&[A]);
        world.answered(world.fence(0), one(0), Act::Nack(Some(1000)));
        world.clock_behind = 600_000;
        world.take_over(false);
        // The worker keeps what it has failed to handle in mind.
        let before = world.held(0).len();
        world.advance(999);
        world.settle_down();
        assert_eq!(world.held(0).len(), before, "{order:?}");
        world.advance(1);
        world.settle_down();
        assert_eq!(world.held(0).len(), before + 1, "{order:?}");
    }
}

/// P11: a record that a former owner gave up is settled without any member.
#[test]
fn the_next_owner_goes_on_with_dead_letters_where_no_member_is() {
    let mut about = about(Order::None);
    about.settings.dead_letter_topic = TopicName::parse("dead").ok();
    let mut world = World::new(about, 1);
    world.join(0, 10);
    world.publish(&[None, None]);
    world.refuses_copies = true;
    assert_eq!(world.answered(world.fence(0), one(1), Act::Reject), [(one(1), Outcome::Settled)]);
    world.workers[0].is_connected = false;
    world.refuses_copies = false;
    world.take_over(false);
    assert!(world.state().progress.is_settled(1));
    assert!(!world.state().progress.is_settled(0));
}

/// P12, P13: an owner that cannot know whether another one has followed leases nothing.
#[test]
fn an_owner_of_a_fleet_leases_only_while_its_commands_are_found_valid() {
    let mut world = world(Order::None, 1);
    world.tenure = Some(Tenure { id: 7, renew_ms: 2000, right_ms: 4000 });
    world.take_over(false);
    world.join(0, 10);
    assert_eq!(world.current.owner.wakes_at(), Some(2000));
    world.advance(2000);
    assert_eq!(world.current.outbox.len(), 1, "it says that it is alive");
    world.advance(1999);
    world.publish(&[None]);
    assert_eq!(world.held(0), [0]);
    world.advance(1);
    world.publish(&[None]);
    assert_eq!(world.held(0), [0]);
    world.settle_down();
    assert_eq!(world.held(0), [0, 1]);
}

/// Two replicas that begin the same term at once: only the one whose command was stored first owns the shard.
#[test]
fn of_two_that_begin_a_term_the_log_chooses_one() {
    let (now, mut shard) = (Now::default(), Shard::new());
    let owner = |id| Owner::begin(Shard::new(), now, Some(Tenure { id, renew_ms: 2000, right_ms: 4000 }));
    let (mut first, mut second) = (owner(1), owner(2));
    let own = |owner: &Owner| owner.unfolded().next().expect("it begins").clone();
    for (at, command) in [own(&first), own(&second)].iter().enumerate() {
        let at = Offset::new(at as u64);
        shard.apply(at, 10, command);
        first.fold(now, at, 10, command);
        second.fold(now, at, 10, command);
    }
    assert!(first.is_owning() && !first.has_ended());
    assert!(second.has_ended() && !second.is_owning());
    assert_eq!(shard.last(), first.shard().last());
}

/// A world whose owner handed over while the first worker held the records 0 and 1.
fn handed_over(order: Order, records: &[Option<u8>]) -> (World, Fence) {
    let mut world = world(order, 2);
    world.join(0, 2);
    world.publish(records);
    let fence = world.fence(0);
    world.hand_over();
    world.workers[0].is_connected = false;
    world.take_over(false);
    (world, fence)
}

#[test]
fn what_was_handed_over_is_left_to_its_session_for_the_grace_and_then_free_uncounted() {
    let (mut world, fence) = handed_over(Order::None, &[None; 4]);
    world.join(1, 10);
    assert_eq!(world.held(1), [2, 3], "the records of the first one are left alone");
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
    world.advance(9_999);
    world.settle_down();
    assert_eq!(world.held(1), [2, 3]);
    world.advance(1);
    world.settle_down();
    assert_eq!((world.held(1), deliveries(&world, 1)), (vec![2, 3, 1], 0));
    assert_eq!(world.answered(fence, one(1), Act::Ack), [(one(1), Outcome::LeaseLost)]);
}

#[test]
fn a_session_that_comes_back_after_a_handover_goes_on_with_its_leases() {
    for order in [Order::None, Order::Key, Order::Total] {
        let (mut world, fence) = handed_over(order, &[A, A, A]);
        world.advance(9_000);
        world.rejoin(0, 2);
        let listed = world.listed.last().unwrap();
        assert_eq!((listed.fence, listed.left_ms), (fence, 21_000));
        assert_eq!(listed.spans, [Span { start: 0, end: 2 }]);
        world.join(1, 10);
        world.advance(20_000);
        world.settle_down();
        let free = if order == Order::None { vec![2] } else { vec![] };
        assert_eq!((world.held(0), world.held(1)), (vec![0, 1], free));
        let ticket = world.ticket();
        world.tell(Input::Extend { ticket, group: GROUP, fence, millis: 30_000 });
        world.advance(29_000);
        world.settle_down();
        assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
        assert_eq!(world.answered(fence, one(1), Act::Nack(Some(1000))), [(one(1), Outcome::Settled)]);
        assert_eq!(deliveries(&world, 1), 1, "it was handled in vain");
    }
}

#[test]
fn a_lease_that_came_back_ends_at_its_deadline_and_is_given_back_by_its_token() {
    let (mut world, fence) = handed_over(Order::Key, &[A, A]);
    assert_eq!(world.answered(fence, one(1), Act::Return), [(one(1), Outcome::Settled)]);
    assert_eq!(deliveries(&world, 1), 0);
    world.rejoin(0, 2);
    world.advance(29_999);
    world.settle_down();
    assert_eq!(deliveries(&world, 0), 0);
    world.advance(1);
    world.settle_down();
    assert_eq!((deliveries(&world, 0), deliveries(&world, 1)), (1, 0));
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::LeaseLost)]);
}

#[test]
fn leases_outlive_any_number_of_handovers() {
    let (mut world, fence) = handed_over(Order::Key, &[A, B]);
    for comes_back in [true, false, true] {
        world.advance(5_000);
        if comes_back {
            world.rejoin(0, 2);
        }
        world.hand_over();
        world.workers[0].is_connected = false;
        world.take_over(false);
    }
    world.join(1, 10);
    assert_eq!(world.held(1), [0_u64; 0]);
    world.rejoin(0, 2);
    assert_eq!(world.listed.last().map(|lease| lease.left_ms), Some(15_000));
    let both = Span { start: 0, end: 2 };
    assert_eq!(world.answered(fence, both, Act::Ack), [(both, Outcome::Settled)]);
}

#[test]
fn a_cut_or_a_leave_after_a_handover_is_like_any_other() {
    let (mut world, _) = handed_over(Order::None, &[None; 2]);
    world.rejoin(0, 2);
    world.cut(0);
    world.advance(10_001);
    world.settle_down();
    assert_eq!((deliveries(&world, 0), deliveries(&world, 1)), (1, 1));
    let (mut world, _) = handed_over(Order::Total, &[None; 2]);
    world.join(1, 2);
    world.rejoin(0, 2);
    world.leave(0);
    world.settle_down();
    assert_eq!((world.held(1), deliveries(&world, 0)), (vec![0, 1], 0));
}
