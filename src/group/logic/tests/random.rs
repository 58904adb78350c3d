//! Random histories.

use proptest::prelude::*;

use super::world::{World, about};
use crate::group::logic::{Act, Fence, Order, Poison, Span, Term};
use crate::record::TopicName;

const WORKERS: usize = 3;

/// One step: what, who, and a number.
type Step = (u8, u8, u8);

fn play(world: &mut World, (what, who, number): Step) {
    let worker = usize::from(who) % WORKERS;
    let n = u64::from(number);
    match what {
        0..=3 => {
            let keys: Vec<Option<u8>> = (0..number % 9)
                .map(|i| (!(number ^ i).is_multiple_of(4)).then_some((number ^ who ^ i) % 5))
                .collect();
            world.publish(&keys);
        }
        4..=6 => world.join_if_away(worker, 1 + n % 20),
        7..=14 => settle(world, worker, number, Act::Ack, false),
        15 => settle(world, worker, number, Act::Nack((number.is_multiple_of(2)).then_some(n)), false),
        16 => settle(world, worker, number, Act::Return, false),
        17 => settle(world, worker, number, Act::Reject, false),
        18 => settle(world, worker, number, Act::Ack, true),
        19 => forge(world, number, who),
        20..=23 => world.store(false, 1 + usize::from(number % 4)),
        24..=27 => world.fold(false),
        28 => world.advance(n * 20),
        29 => world.advance(n * 400),
        30 => world.cut(worker),
        31 => world.rejoin(worker, 1 + n % 20),
        32 => world.leave(worker),
        33 => world.take_over(true),
        34 => world.take_over(false),
        35 => {
            world.hand_over();
            world.take_over(false);
        }
        36 | 37 => world.store(true, 1 + usize::from(number % 3)),
        38 => world.fold(true),
        39 if number.is_multiple_of(8) => {
            let to = (n * 3).min(world.keys.len() as u64);
            world.settle_down();
            world.seek(to);
            world.settle_down();
        }
        40 if number.is_multiple_of(3) && !world.workers[worker].is_connected => {
            world.lease_once(worker, 1 + n % 20);
            if number.is_multiple_of(2) {
                world.stop_waiting(worker);
            }
        }
        40 => world.refuses_copies = number.is_multiple_of(2),
        _ => world.settle_down(),
    }
}

/// A worker settles a part of what it holds, or believes to hold.
fn settle(world: &mut World, worker: usize, number: u8, act: Act, to_former: bool) {
    let held = &world.workers[worker].held;
    if held.is_empty() {
        return;
    }
    let (fence, offsets) = held[usize::from(number) % held.len()].clone();
    let (first, last) = (offsets[0], *offsets.last().unwrap());
    let end =
        if number.is_multiple_of(3) { last + 1 } else { first + 1 + u64::from(number) % (last + 1 - first) };
    let acts = vec![(Span { start: first, end }, act)];
    if !number.is_multiple_of(5) && !to_former {
        // Otherwise it settles the same again some time.
        let held = &mut world.workers[worker].held;
        held.iter_mut().filter(|(f, _)| *f == fence).for_each(|(_, o)| o.retain(|o| *o >= end));
        held.retain(|(_, offsets)| !offsets.is_empty());
    }
    world.send(fence, acts, to_former);
}

/// Somebody settles with a token of this or a later term that was never given.
fn forge(world: &mut World, number: u8, who: u8) {
    let start = u64::from(number) % (world.keys.len() as u64 + 1);
    let term = world.truth.last().term.0 + u64::from(who % 2);
    let fence = Fence::new(Term(term), 1 << 39);
    let act = if number.is_multiple_of(2) { Act::Ack } else { Act::Nack(None) };
    world.forge(fence, vec![(Span { start, end: start + 5 }, act)]);
}

impl World {
    fn join_if_away(&mut self, worker: usize, credit: u64) {
        if !self.workers[worker].is_connected {
            self.join(worker, credit);
        }
    }

    /// The chaos ends: one good worker handles what is left.
    fn finish(&mut self) {
        self.refuses_copies = false;
        self.former = None;
        self.settle_down();
        for worker in 0..WORKERS {
            self.cut(worker);
        }
        for _ in 0..4 {
            self.advance(4_000_000);
            self.settle_down();
        }
        self.join(0, 50);
        let mut idle = 0;
        while self.state().progress.floor() < self.keys.len() as u64 && idle < 10 {
            self.settle_down();
            let held = std::mem::take(&mut self.workers[0].held);
            idle = if held.is_empty() { idle + 1 } else { 0 };
            for (fence, offsets) in held {
                let acts = offsets.iter().map(|&at| (Span { start: at, end: at + 1 }, Act::Ack)).collect();
                self.send(fence, acts, false);
            }
            self.advance(if idle > 0 { 20_000 } else { 1 });
        }
    }
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::None), Just(Order::Key), Just(Order::Total)]
}

fn run(order: Order, deliveries_max: u32, poison: Poison, lookahead_max: u64, steps: &[Step]) -> World {
    let mut about = about(order);
    about.settings.deliveries_max = deliveries_max;
    about.settings.poison = poison;
    about.settings.lookahead_max = lookahead_max;
    about.settings.backoff_ms = vec![50, 5000];
    about.settings.dead_letter_topic = Some(TopicName::parse("dead").unwrap());
    let mut world = World::new(about, WORKERS);
    for step in steps {
        play(&mut world, *step);
        if world.failure.is_some() {
            return world;
        }
    }
    world.finish();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn promises_hold_in_every_history(
        order in orders(),
        deliveries_max in 0..4_u32,
        parks: bool,
        lookahead_max in 5..60_u64,
        steps in proptest::collection::vec((0..42_u8, any::<u8>(), any::<u8>()), 1..200),
    ) {
        let poison = if parks { Poison::ParkKey } else { Poison::DeadLetter };
        let world = run(order, deliveries_max, poison, lookahead_max, &steps);
        prop_assert_eq!(world.failure.as_ref(), None, "{:?}", steps);
        let (floor, tail) = (world.state().progress.floor(), world.keys.len() as u64);
        prop_assert_eq!(floor, tail, "P11: a record was forgotten");
    }
}

#[test]
fn the_random_histories_are_rich() {
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    let (mut leased, mut confirmed, mut terms, mut trims) = (0, 0, 0, 0);
    for round in 0..60 {
        let order = [Order::None, Order::Key, Order::Total][round % 3];
        let steps: Vec<Step> = (0..300).map(|_| (random() % 42, random(), random())).collect();
        let world = run(order, 3, Poison::DeadLetter, 50, &steps);
        assert_eq!(world.failure, None, "round {round}");
        leased += world.judge.leased;
        confirmed += world.judge.confirmed;
        terms += world.truth.last().term.0;
        trims += u64::from(world.trimmed > 0);
    }
    assert!(
        leased > 5000 && confirmed > 2000 && terms > 600 && trims > 30,
        "{leased} {confirmed} {terms} {trims}"
    );
}
