//! Compares the window with a model that keeps everything: ids of several owners, in any order, at any time.

use super::{Key, Mark, Owner, Stored, Window};
use crate::record::testing::batch_of;
use crate::record::{Offset, Scope, UnixMicros};
use std::collections::HashMap;
use std::time::Duration;

fn scope(n: u8) -> Scope {
    Scope::new([n; 16])
}

fn stored(n: u64, at: u64, of: Scope) -> Stored {
    let time = UnixMicros(at);
    Stored { first: Offset::new(n), span: 1, content: n as u32, owner: Owner::of(of), time, at: time }
}

/// P5: the window is bounded by age and by count.
#[test]
fn ids_are_forgotten_by_age_and_by_count() {
    let mut window = Window::new(Duration::from_micros(100), 3, UnixMicros(0));
    let put = |window: &mut Window, id: u8, n, at| {
        let key = window.key(1, Scope::NONE, &[id]);
        window.insert(key, stored(n, at, Scope::NONE), UnixMicros(at));
    };
    for n in 0..5 {
        put(&mut window, n as u8, n, 10 + n);
    }
    let find = |window: &Window, topic, id: u8, now| {
        window.find(topic, Scope::NONE, &[id], UnixMicros(now)).1.map(|stored| stored.first.get())
    };
    assert_eq!(find(&window, 1, 1, 20), None);
    assert_eq!(find(&window, 1, 2, 20), Some(2));
    assert_eq!(find(&window, 2, 2, 20), None, "another topic");
    assert_eq!(find(&window, 1, 4, 115), None, "too old");
    put(&mut window, 9, 9, 113);
    assert_eq!(window.count(), 3);
    put(&mut window, 9, 10, 300);
    assert_eq!(find(&window, 1, 9, 300), Some(10));
    assert_eq!((window.count(), window.oldest_kept()), (1, Some(UnixMicros(300))));
}

/// An id belongs to one scope only. An id that an earlier version of the program stored belongs to every scope, and any
/// batch that is sent under it counts as its repetition.
#[test]
fn an_id_is_of_one_scope_and_one_content() {
    let mut window = Window::new(Duration::from_secs(1), 10, UnixMicros(0));
    let mark = Mark { scope: scope(1), content: batch_of(&["a"]).content() };
    let (key, owner) = window.marked(7, b"id", Some(mark));
    let first = Stored { content: mark.content, owner, ..stored(3, 5, scope(1)) };
    window.insert(key, first, UnixMicros(5));
    let find = |window: &Window, of| window.find(7, of, b"id", UnixMicros(6)).1;
    assert_eq!(find(&window, scope(1)), Some(first));
    assert_eq!((find(&window, scope(2)), find(&window, Scope::NONE)), (None, None));
    assert!(first.is_repeated_by(&batch_of(&["a"])));
    assert!(!first.is_repeated_by(&batch_of(&["b"])) && !first.is_repeated_by(&batch_of(&["a", "a"])));

    let (key, owner) = window.marked(7, b"id", None);
    let old = Stored { owner, ..stored(2, 4, Scope::NONE) };
    window.insert(key, old, UnixMicros(5));
    assert_eq!(find(&window, scope(1)), Some(first), "its own first");
    assert_eq!((find(&window, scope(2)), find(&window, Scope::NONE)), (Some(old), Some(old)));
    assert!(old.is_repeated_by(&batch_of(&["b"])));
}

/// A principal that floods the window pushes out its own ids, not those of others.
#[test]
fn a_flood_leaves_the_share_of_others() {
    let mut window = Window::new(Duration::from_secs(1), 100, UnixMicros(0));
    let mut put = |of: Scope, n: u64| {
        let key = window.key(0, of, &n.to_be_bytes());
        window.insert(key, stored(n, n, of), UnixMicros(n));
        key
    };
    let few: Vec<Key> = (0..20).map(|n| put(scope(1), n)).collect();
    let many: Vec<Key> = (20..10_000).map(|n| put(scope(2), n)).collect();
    let late: Vec<Key> = (10_000..10_100).map(|n| put(scope(1), n)).collect();
    let known = |keys: &[Key]| keys.iter().filter(|key| window.stored(**key).is_some()).count();
    // The first owner keeps its newest ids, up to half of the window. The first twenty are no longer among them.
    assert_eq!((known(&few), known(&late), known(&many)), (0, 50, 50));
    assert!(window.stored(late[99]).is_some() && window.stored(many[9_979]).is_some());
}

/// Old entries of ids that are stored again do not accumulate, and no other id loses its place to them.
#[test]
fn ids_stored_anew_keep_one_place_each() {
    let mut window = Window::new(Duration::from_secs(1), 100, UnixMicros(0));
    let keys: Vec<Key> = (0..10_u8).map(|id| window.key(1, scope(1), &[id])).collect();
    for at in 0..1_000 {
        window.insert(keys[at as usize % 10], stored(at, at, scope(1)), UnixMicros(at));
        check_order(&window);
    }
    assert_eq!(window.count(), 10);
    assert!(window.oldest_kept().is_some_and(|oldest| (900..=990).contains(&oldest.0)));
    window.insert(
        window.key(1, scope(1), b"later"),
        stored(1_000, 1_000_995, scope(1)),
        UnixMicros(1_000_995),
    );
    let known = |key: &Key| window.stored(*key).is_some();
    assert_eq!(keys.iter().map(known).collect::<Vec<_>>(), [[false; 5], [true; 5]].concat());
}

/// Everything that was ever stored. It tells which ids a window must know, and which it must not.
#[derive(Default)]
struct Model {
    stored: HashMap<Key, Stored>,
}

impl Model {
    fn insert(&mut self, key: Key, stored: Stored) {
        let kept = self.stored.entry(key).or_insert(stored);
        if (stored.at, stored.first) > (kept.at, kept.first) {
            *kept = stored;
        }
    }

    /// Returns the ids that a window must know at `now`: for each owner, the newest ones within its share.
    fn due(&self, share: usize, age: u64, now: u64) -> Vec<(Key, Stored)> {
        let mut of: HashMap<Owner, Vec<(Key, Stored)>> = HashMap::new();
        for (key, stored) in &self.stored {
            of.entry(stored.owner).or_default().push((*key, *stored));
        }
        let newest = of.into_values().flat_map(|mut ids| {
            ids.sort_unstable_by_key(|(_, stored)| std::cmp::Reverse(stored.at));
            // Among the ids that are as old as the first one outside the share, any may be forgotten.
            let beyond = ids.get(share).map(|(_, stored)| stored.at);
            ids.truncate(share);
            ids.retain(|(_, stored)| Some(stored.at) != beyond);
            ids
        });
        newest.filter(|(_, stored)| now.saturating_sub(stored.at.0) <= age).collect()
    }
}

/// One run: several owners store ids at times that mostly rise. Some ids arrive late, by a time within the window or
/// beyond it, and some are stored again.
fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (owners, age) = (random.u8(1..6), random.u64(50..400));
    let count_max = random.usize(1..200);
    let mut window = Window::new(Duration::from_micros(age), count_max, UnixMicros(0));
    let (mut model, mut now) = (Model::default(), 1_000);
    for n in 0..random.u64(1..1500) {
        now += random.u64(0..3);
        let of = scope(random.u8(..owners));
        let id = if random.u8(..8) == 0 { random.u64(..=n) } else { n };
        // An id may be late because loading took long or because a clock is wrong, but it is never from the future.
        let late = if random.u8(..3) == 0 { random.u64(..2 * age) } else { 0 };
        let key = window.key(1, of, &id.to_be_bytes());
        let stored = stored(n, now - late, of);
        model.insert(key, stored);
        window.insert(key, stored, UnixMicros(now));
        assert!(window.count() <= count_max);
    }
    check(&window, &model, (owners, count_max, age, now));
    // Ids that were added to separate windows and merged in any order give the same result. This happens when new ids
    // arrive while older ones are loaded.
    let mut parts = [window.empty(), window.empty()];
    for (key, stored) in &model.stored {
        parts[random.usize(..2)].insert(*key, *stored, UnixMicros(now));
    }
    let [mut merged, later] = parts;
    merged.absorb(later, UnixMicros(now));
    check(&merged, &model, (owners, count_max, age, now));
}

fn check(window: &Window, model: &Model, (owners, count_max, age, now): (u8, usize, u64, u64)) {
    check_order(window);
    assert!(window.count() <= count_max);
    for (key, stored) in model.due(count_max / usize::from(owners), age, now) {
        assert_eq!(window.get(key, UnixMicros(now)), Some(stored), "one of the newest was forgotten");
    }
    for (key, known) in window.ids() {
        // Of two times the later one counts, unless that id was forgotten before the other one arrived.
        assert!(known.at <= model.stored[&key].at, "one that was never stored");
        assert!(now - known.at.0 <= age, "an old one is kept");
    }
}

/// Every owner is listed once, under an upper bound of its number of ids and a lower bound of its oldest time, and
/// every slot is either in use or free.
fn check_order(window: &Window) {
    let order = &window.order;
    let owners = || order.owners.iter().enumerate().filter(|(_, ids)| ids.count > 0);
    assert_eq!(owners().map(|(_, ids)| ids.count).sum::<usize>(), window.count());
    assert_eq!((order.by_size.len(), order.by_age.len()), (owners().count(), owners().count()));
    for (number, ids) in owners() {
        let number = u32::try_from(number).unwrap();
        assert!(ids.count <= ids.filed_count && order.by_size.contains(&(ids.filed_count, number)));
        assert!(order.by_age.contains(&(ids.filed_time, number)));
        assert!(ids.oldest().is_some_and(|(oldest, _)| ids.filed_time <= oldest));
        assert!(ids.in_order.iter().is_sorted_by_key(|(at, _)| at));
        assert!(ids.in_order.len() + ids.late.len() <= 66 + 2 * ids.count, "old places pile up");
    }
    assert!(window.slots.capacity() <= 8 * window.count().max(64), "memory is kept");
}

/// P5: in whatever order ids arrive, a window knows the newest of every owner, and no old one.
#[test]
fn the_newest_of_every_owner_are_known_in_whatever_order_they_came() {
    let base = std::env::var("TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let base: u64 = base.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    println!("TESTS_SEED={base}");
    for seed in base..base + 60 {
        println!("seed {seed}");
        run(seed);
    }
}
