//! Single cases, each with its reason.

use super::world::{GROUP, World, about};
use crate::group::logic::{Act, CommandId, Effect, Fence, Input, Order, Outcome, SessionId, Span, Ticket};

pub(super) const A: Option<u8> = Some(0);
pub(super) const B: Option<u8> = Some(1);

pub(super) fn world(order: Order, workers: usize) -> World {
    World::new(about(order), workers)
}

pub(super) fn one(offset: u64) -> Span {
    Span { start: offset, end: offset + 1 }
}

pub(super) fn deliveries(world: &World, offset: u64) -> u32 {
    world.state().marks.get(offset).map_or(0, |mark| mark.deliveries)
}

impl World {
    pub(super) fn held(&self, worker: usize) -> Vec<u64> {
        self.workers[worker].held.iter().flat_map(|(_, offsets)| offsets.clone()).collect()
    }

    pub(super) fn fence(&self, worker: usize) -> Fence {
        self.workers[worker].held.last().expect("it holds a lease").0
    }

    /// Settles and waits for the answer.
    pub(super) fn answered(&mut self, fence: Fence, span: Span, act: Act) -> Vec<(Span, Outcome)> {
        let ticket = self.send(fence, vec![(span, act)], false);
        self.settle_down();
        self.answers.remove(&ticket).expect("an answer")
    }

    pub(super) fn done(&self, ticket: Ticket) -> bool {
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

#[test]
fn a_lease_that_is_settled_leaves_no_alarm() {
    let mut world = world(Order::None, 1);
    world.join(0, 2);
    world.publish(&[None; 4]);
    let fence = world.fence(0);
    let ticket = world.ticket();
    world.tell(Input::Extend { ticket, group: GROUP, fence, millis: 60_000 });
    assert_eq!(world.current.owner.wakes_at(), Some(30_000), "the first alarm looks at the deadline");
    world.advance(30_000);
    assert_eq!(world.current.owner.wakes_at(), Some(60_000));
    world.answered(fence, Span { start: 0, end: 2 }, Act::Ack);
    let fence = world.fence(0);
    world.answered(fence, Span { start: 2, end: 4 }, Act::Ack);
    assert_eq!(world.current.owner.wakes_at(), None);
}
