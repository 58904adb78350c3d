//! Single cases, each with its reason.

use super::world::{GROUP, World, about};
use crate::group::logic::{
    Act, CommandId, Effect, Fence, Input, Now, Order, Outcome, Owner, SessionId, Shard, Span, Tenure, Ticket,
};
use crate::record::Offset;

const A: Option<u8> = Some(0);
const B: Option<u8> = Some(1);

fn world(order: Order, workers: usize) -> World {
    World::new(about(order), workers)
}

fn one(offset: u64) -> Span {
    Span { start: offset, end: offset + 1 }
}

impl World {
    fn held(&self, worker: usize) -> Vec<u64> {
        self.workers[worker].held.iter().flat_map(|(_, offsets)| offsets.clone()).collect()
    }

    fn fence(&self, worker: usize) -> Fence {
        self.workers[worker].held.last().expect("it holds a lease").0
    }

    /// Settles and waits for the answer.
    fn answered(&mut self, fence: Fence, span: Span, act: Act) -> Vec<(Span, Outcome)> {
        let ticket = self.send(fence, vec![(span, act)], false);
        self.settle_down();
        self.answers.remove(&ticket).expect("an answer")
    }

    fn done(&self, ticket: Ticket) -> bool {
        self.done.contains(&ticket)
    }
}

#[test]
fn the_member_with_the_smallest_share_in_use_gets_the_next_record() {
    let mut world = world(Order::None, 2);
    world.join(0, 10);
    world.join(1, 1000);
    for _ in 0..20 {
        world.publish(&[None]);
    }
    assert!(world.held(0).len() <= 2, "{:?} {:?}", world.held(0), world.held(1));
    assert_eq!(world.held(0).len() + world.held(1).len(), 20);
}

#[test]
fn credit_is_never_exceeded_and_comes_back_when_a_settlement_is_received() {
    let mut world = world(Order::None, 1);
    world.join(0, 5);
    world.publish(&[None; 20]);
    assert_eq!(world.held(0), [0, 1, 2, 3, 4]);
    let fence = world.fence(0);
    world.send(fence, vec![(Span { start: 0, end: 3 }, Act::Ack)], false);
    // The settlement is not durable, and the credit is back.
    assert!(world.answers.is_empty());
    assert_eq!(world.held(0).len(), 8);
}

/// A member that is paused has all its credit, and would get its record again and again.
#[test]
fn a_member_that_lets_a_deadline_pass_comes_after_the_others() {
    for order in [Order::None, Order::Key, Order::Total] {
        let mut world = world(order, 2);
        world.join(0, 10);
        world.publish(&[A]);
        world.join(1, 10);
        assert_eq!((world.held(0), world.held(1)), (vec![0], vec![]));
        world.advance(world.state().about.settings.ack_deadline_ms);
        world.settle_down();
        assert_eq!(world.held(1), [0], "{order:?}");
        // Alone, it gets what there is all the same; and once it is heard of, as before.
        let fence = world.fence(1);
        world.answered(fence, one(0), Act::Ack);
        world.leave(1);
        world.settle_down();
        world.publish(&[B]);
        let fence = world.fence(0);
        assert_eq!(world.answered(fence, one(1), Act::Ack), [(one(1), Outcome::Settled)], "{order:?}");
        world.join(1, 10);
        world.publish(&[A]);
        assert!(world.held(0).ends_with(&[2]), "{order:?}");
    }
}

#[test]
fn keys_do_not_wait_for_each_other() {
    let mut world = world(Order::Key, 2);
    world.join(0, 1);
    world.publish(&[A, A, B, B]);
    world.join(1, 10);
    assert_eq!((world.held(0), world.held(1)), (vec![0], vec![2, 3]));
    let fence = world.fence(1);
    world.answered(fence, Span { start: 2, end: 4 }, Act::Ack);
    assert_eq!(world.held(0), [0], "its key is held by the first one, which has no credit left");
}

#[test]
fn an_ack_does_not_pass_an_earlier_record_of_its_key() {
    let mut world = world(Order::Key, 1);
    world.join(0, 10);
    world.publish(&[A, B, A]);
    let fence = world.fence(0);
    assert_eq!(world.answered(fence, one(2), Act::Ack), [(one(2), Outcome::OutOfKeyOrder)]);
    let all = Span { start: 0, end: 3 };
    assert_eq!(world.answered(fence, all, Act::Ack), [(all, Outcome::Settled)]);
}

#[test]
fn a_nack_takes_back_the_later_records_of_the_key_uncounted() {
    let mut world = world(Order::Key, 1);
    world.join(0, 10);
    world.publish(&[A, B, A]);
    let fence = world.fence(0);
    world.answered(fence, one(0), Act::Nack(Some(1000)));
    assert_eq!(world.held(0).iter().filter(|&&offset| offset == 2).count(), 0);
    let deliveries = |world: &World, offset| world.state().marks.get(offset).unwrap().deliveries;
    assert_eq!((deliveries(&world, 0), deliveries(&world, 2)), (1, 0));
    world.advance(1000);
    let fence = world.fence(0);
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
}

#[test]
fn nothing_is_confirmed_before_it_is_folded() {
    let mut world = world(Order::None, 1);
    world.join(0, 10);
    world.publish(&[None]);
    let ticket = world.send(world.fence(0), vec![(one(0), Act::Ack)], false);
    world.store(false, 1);
    assert!(!world.answers.contains_key(&ticket));
    world.fold(false);
    assert_eq!(world.answers[&ticket], [(one(0), Outcome::Settled)]);
}

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

fn deliveries(world: &World, offset: u64) -> u32 {
    world.state().marks.get(offset).map_or(0, |mark| mark.deliveries)
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

#[test]
fn a_session_is_taken_up_again_within_its_grace_and_ends_after_it() {
    let mut world = world(Order::None, 2);
    world.join(0, 2);
    world.publish(&[None; 2]);
    let fence = world.fence(0);
    world.cut(0);
    world.advance(9_000);
    world.rejoin(0, 2);
    assert_eq!(world.held(0), [0, 1]);
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::Settled)]);
    world.cut(0);
    world.join(1, 10);
    world.advance(10_001);
    world.settle_down();
    assert_eq!(world.held(1), [1]);
    assert_eq!(world.state().marks.get(1).unwrap().deliveries, 1);
}

#[test]
fn leaving_gives_back_at_once_and_counts_no_delivery() {
    let mut world = world(Order::Total, 2);
    world.join(0, 2);
    world.publish(&[None; 3]);
    world.join(1, 5);
    assert!(world.held(1).is_empty(), "the first one holds the order");
    world.leave(0);
    world.settle_down();
    assert_eq!(world.held(1), [0, 1, 2]);
    assert_eq!(world.state().marks.get(0).unwrap().deliveries, 0);
}

#[test]
fn an_extension_moves_the_deadline_up_to_the_longest_lease() {
    let mut world = world(Order::None, 1);
    world.join(0, 1);
    world.publish(&[None]);
    let fence = world.fence(0);
    for _ in 0..40 {
        world.advance(29_000);
        let ticket = world.ticket();
        world.tell(Input::Extend { ticket, group: GROUP, fence, millis: 30_000 });
    }
    assert_eq!(world.fence(0), fence, "it still holds the lease");
    let ticket = world.ticket();
    world.tell(Input::Extend { ticket, group: GROUP, fence, millis: u64::MAX });
    world.advance(3_600_000);
    world.settle_down();
    assert_ne!(world.fence(0), fence);
}

#[test]
fn a_lookahead_that_is_used_up_stops_the_reading() {
    let mut about = about(Order::Key);
    about.settings.lookahead_max = 14;
    let mut world = World::new(about, 1);
    world.join(0, 1);
    world.publish(&[A; 100]);
    world.publish(&[B]);
    assert_eq!(world.held(0), [0]);
    let mut seen = Vec::new();
    while let Some(&offset) = world.held(0).first() {
        seen.push(offset);
        let fence = world.fence(0);
        world.workers[0].held.clear();
        world.answered(fence, one(offset), Act::Ack);
    }
    // The other key's record comes once there is room to read it.
    assert_eq!(seen.iter().position(|offset| *offset == 100), Some(85));
    seen.retain(|offset| *offset != 100);
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_deleted_group_and_a_second_one_with_the_same_id_are_refused() {
    let mut world = world(Order::None, 1);
    let (first, again, gone) = (world.ticket(), world.ticket(), world.ticket());
    world.tell(Input::Create { ticket: first, group: GROUP, about: about(Order::None), start: 0 });
    world.tell(Input::Remove { ticket: again, group: GROUP });
    world.settle_down();
    world.tell(Input::Join { ticket: gone, group: GROUP, session: SessionId(1), stream: 1 });
    assert!(!world.done(first) && world.done(again) && !world.done(gone));
    assert!(world.truth.group(GROUP).is_none());
}

/// The last owner may have leased the record again and ended without a trace of it.
#[test]
fn a_token_of_an_owner_before_the_last_one_counts_no_more() {
    let mut world = world(Order::None, 1);
    world.join(0, 10);
    world.publish(&[None]);
    let fence = world.fence(0);
    world.take_over(false);
    world.workers[0].is_connected = false;
    world.take_over(false);
    assert_eq!(world.answered(fence, one(0), Act::Ack), [(one(0), Outcome::LeaseLost)]);
}

#[test]
fn a_token_of_the_last_owner_settles_only_what_it_was_given_for() {
    let mut world = world(Order::Key, 2);
    world.join(0, 1);
    world.publish(&[A, B, A]);
    world.join(1, 1);
    assert_eq!((world.held(0), world.held(1)), (vec![0], vec![1]));
    let fence = world.fence(0);
    world.workers.iter_mut().for_each(|worker| worker.is_connected = false);
    world.take_over(false);
    let outcomes = world.answered(fence, Span { start: 0, end: 3 }, Act::Ack);
    assert_eq!(outcomes, [(one(0), Outcome::Settled), (Span { start: 1, end: 3 }, Outcome::LeaseLost)]);
}

#[test]
fn a_poison_record_is_dead_lettered_and_its_key_goes_on() {
    let mut about = about(Order::Key);
    about.settings.deliveries_max = 2;
    about.settings.dead_letter_topic = crate::record::TopicName::parse("dead").ok();
    let mut world = World::new(about, 1);
    world.join(0, 10);
    world.publish(&[A, A]);
    for _ in 0..2 {
        assert!(world.held(0).contains(&0));
        let fence = world.fence(0);
        world.answered(fence, one(0), Act::Nack(None));
    }
    assert_eq!(world.state().dead_lettered, 1);
    assert!(world.state().progress.is_settled(0) && world.held(0).contains(&1));
}

/// A million records behind one stuck key take at most 32 MB.
#[test]
fn a_blocked_record_takes_at_most_32_bytes_of_entries() {
    use crate::group::logic::{Progress, Spans};
    let (mut known, mut progress) = (Spans::default(), Progress::at(0));
    let records = 200_000_u64;
    for at in 0..records {
        known.insert(one(2 * at));
        progress.settle(one(2 * at + 1));
    }
    // Every second record is blocked: a node of a lane, an entry among the known ones, and one among the open ones.
    let bytes = 16 * records as usize + known.bytes() + progress.open().bytes();
    assert!(bytes <= 32 * records as usize, "{bytes}");
}

#[test]
fn a_repeat_a_hole_and_another_term_have_no_effect() {
    use crate::group::logic::Verdict::{Ignored, Valid};
    use crate::group::logic::{Command, Shard, Term};
    let mut shard = Shard::new();
    let mut apply = |term, number, effect| {
        let command = Command { id: CommandId { term: Term(term), number }, effect };
        shard.apply(crate::record::Offset::new(0), 1, &command)
    };
    assert_eq!(apply(1, 1, Effect::Own { after: CommandId::default(), owner: 0 }), Valid);
    assert_eq!(apply(1, 3, Effect::Renew), Ignored, "after a hole");
    assert_eq!(apply(1, 2, Effect::Renew), Valid);
    assert_eq!(apply(1, 2, Effect::Renew), Ignored, "a repeat");
    assert_eq!(apply(1, 3, Effect::Renew), Valid, "sent again");
    assert_eq!(apply(2, 1, Effect::Renew), Ignored, "a term that nobody began");
    assert_eq!(apply(1, 4, Effect::Handover { leases: Vec::new() }), Valid);
    assert_eq!(apply(1, 5, Effect::Renew), Ignored, "after the end of its term");
    let after = CommandId { term: Term(1), number: 4 };
    assert_eq!(apply(2, 1, Effect::Own { after, owner: 0 }), Valid);
    assert_eq!(apply(1, 5, Effect::Renew), Ignored, "of a former term");
}

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

#[test]
fn a_lease_has_at_most_a_mebibyte_or_one_record() {
    use crate::group::logic::{Output, ReadItem};
    let mut world = world(Order::None, 1);
    let (now, session, stream) = (world.at(), SessionId(9), 9);
    let owner = &mut world.current.owner;
    let mut outputs = |input| {
        owner.handle(now, input);
        owner.take_outputs()
    };
    outputs(Input::Join { ticket: Ticket(999), group: GROUP, session, stream });
    outputs(Input::Credit { session, stream, records: 100, bytes: 7 << 20 });
    outputs(Input::Tail { group: GROUP, tail: 7 });
    // The fifth one is larger than a lease, and the last one than the credit that is left.
    let sizes = [600 << 10, 400 << 10, 400 << 10, 100, 2 << 20, 1000, 5 << 20];
    let items = (0..).zip(sizes).map(|(offset, size)| ReadItem { offset, size, key: None }).collect();
    let leased = outputs(Input::Records { group: GROUP, from: 0, next: 7, tail: 7, items });
    let counts: Vec<u64> = leased
        .iter()
        .filter_map(|output| match output {
            Output::Lease(grant) => Some(grant.records),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [2, 2, 1, 1], "{leased:?}");
}

/// What one read of a member's messages brings is one command and one lease.
#[test]
fn single_acks_that_come_together_are_stored_together() {
    use crate::group::logic::{Output, Settlement};
    for order in [Order::None, Order::Key] {
        let mut world = world(order, 1);
        world.join(0, 1000);
        world.publish(&[A; 2000]);
        let held = world.workers[0].held.clone();
        assert_eq!(held.iter().map(|(_, offsets)| offsets.len()).sum::<usize>(), 1000);
        let now = world.at();
        let owner = &mut world.current.owner;
        let mut ticket = 10_000;
        let offsets = held.iter().flat_map(|(fence, offsets)| offsets.iter().map(|at| (*fence, *at)));
        // Without an order, handlers end in any: the odd ones first.
        let mut acks: Vec<_> = offsets.collect();
        if order == Order::None {
            acks.sort_by_key(|(_, at)| (at % 2 == 0, *at));
        }
        for (fence, at) in acks {
            ticket += 1;
            let (ticket, acts) = (Ticket(ticket), vec![(one(at), Act::Ack)]);
            owner.handle(now, Input::Settle(Settlement { ticket, group: GROUP, fence, held: vec![], acts }));
        }
        let outputs = owner.take_outputs();
        let appended: Vec<_> = outputs.iter().filter(|output| matches!(output, Output::Append(_))).collect();
        let spans = vec![Span { start: 0, end: 1000 }];
        let effect = Effect::Settled { group: GROUP, how: super::super::Done::Acked, records: 1000, spans };
        assert!(
            matches!(appended[..], [Output::Append(command)] if command.effect == effect),
            "{appended:?}"
        );
        let leased = outputs.iter().filter(|output| matches!(output, Output::Lease(_))).count();
        // In an order, the next records come once these are durable.
        assert_eq!(leased, usize::from(order == Order::None), "the credit comes back at once");
    }
}

#[test]
fn a_settlement_of_what_its_token_never_held_has_a_bounded_answer() {
    use crate::group::logic::{Output, Settlement};
    let mut world = world(Order::None, 2);
    world.join(0, 5_000);
    world.publish(&[None; 2_500]);
    let held = std::mem::take(&mut world.workers[0].held);
    for (fence, offsets) in held {
        let acts: Vec<_> = offsets.iter().filter(|at| **at % 2 == 0).map(|at| (one(*at), Act::Ack)).collect();
        world.send(fence, acts, false);
    }
    world.settle_down();
    let whole = Span { start: 0, end: u64::MAX };
    let (now, fence) = (world.at(), Fence::new(world.truth.last().term, 1 << 39));
    let (owner, acts) = (&mut world.current.owner, vec![(whole, Act::Ack); 10]);
    let ticket = Ticket(99_999);
    owner.handle(now, Input::Settle(Settlement { ticket, group: GROUP, fence, held: vec![], acts }));
    let outputs = owner.take_outputs();
    let [Output::Settled { outcomes, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert!((4096..5000).contains(&outcomes.len()), "{}", outcomes.len());
    assert_eq!(outcomes.last().unwrap(), &(whole, Outcome::LeaseLost));
}

#[test]
fn a_call_that_gives_a_record_back_is_told_what_else_it_lost() {
    let mut world = world(Order::Total, 2);
    world.lease_once(0, 4);
    world.lease_once(1, 4);
    world.publish(&[None; 4]);
    let fence = world.fence(0);
    assert_eq!(world.answered(fence, one(0), Act::Return), [(one(0), Outcome::Settled)]);
    assert_eq!((world.held(0), world.held(1), &world.failure), (vec![0], vec![0, 1, 2, 3], &None));
}
