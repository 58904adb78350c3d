//! Tests of the history checker: a sound history passes, and each way of breaking a promise is found.

use std::time::Duration;

use super::check::check;
use super::gone::Gone;
use super::{Attempt, History, Outcome};

fn attempt(name: &str, records: usize, called: u64, returned: u64, outcome: Outcome) -> Attempt {
    Attempt {
        called,
        returned: Some(returned),
        place: None,
        request_id: String::new(),
        expected: None,
        values: (0..records).map(|i| format!("{name}{i}")).collect(),
        outcome,
        sent: Duration::ZERO,
        epoch: String::new(),
    }
}

fn acknowledged(first: u64, records: u64) -> Outcome {
    Outcome::Acknowledged { first, next: first + records, duplicate: false }
}

/// A sound history: a (2 records), b (1) and c (3) are stored; d is refused; e (1) is stored without an answer; f is lost
/// without an answer; c is repeated; g is refused by its condition. a, b and e belong to one call.
fn sound() -> History {
    let duplicate = Outcome::Acknowledged { first: 3, next: 6, duplicate: true };
    let mut attempts = vec![
        attempt("a", 2, 0, 2, acknowledged(0, 2)),
        attempt("b", 1, 1, 5, acknowledged(2, 1)),
        attempt("c", 3, 6, 7, acknowledged(3, 3)),
        attempt("d", 1, 8, 9, Outcome::Refused),
        attempt("e", 1, 10, 11, Outcome::Unknown),
        attempt("f", 1, 12, 13, Outcome::Unknown),
        attempt("c", 3, 14, 15, duplicate),
        attempt("g", 1, 3, 4, Outcome::Mismatch { tail: 2 }),
    ];
    for (i, number) in [(0, 1), (1, 2), (4, 3), (5, 4)] {
        attempts[i].place = Some((1, number));
    }
    attempts[2].request_id = "c".into();
    attempts[6].request_id = "c".into();
    attempts[2].expected = Some(3);
    attempts[7].expected = Some(0);
    let topic = ["a0", "a1", "b0", "c0", "c1", "c2", "e0"];
    let batches = [0, 0, 2, 3, 3, 3, 6];
    let topic: Vec<_> = (0..)
        .zip(batches)
        .zip(topic)
        .map(|((offset, batch), value)| (offset, batch, value.to_owned()))
        .collect();
    let seen =
        |from: usize| topic[from..].iter().map(|(offset, _, value)| (*offset, value.clone())).collect();
    History { attempts, gone: Gone::default(), deliveries: vec![seen(0), seen(4)], topic }
}

#[test]
fn a_sound_history_passes() {
    let summary = check(&sound()).unwrap();
    assert_eq!((summary.acknowledged, summary.unacknowledged), (3, 1));
    assert_eq!((summary.duplicates, summary.refused, summary.records, summary.delivered), (1, 2, 7, 10));
}

/// Doctors a sound history and asserts that the checker names the reason.
fn rejects(what: &str, doctor: impl FnOnce(&mut History)) {
    let mut history = sound();
    doctor(&mut history);
    match check(&history) {
        Ok(_) => panic!("accepted a history that {what}"),
        Err(reason) => assert!(reason.contains(what), "{reason}, not: {what}"),
    }
}

fn renumber(history: &mut History) {
    for (offset, record) in (0..).zip(&mut history.topic) {
        record.0 = offset;
    }
}

#[test]
fn lost_records_are_found() {
    rejects("and lost", |history| history.topic.truncate(3));
    rejects("and lost", |history| {
        history.attempts[5].outcome = acknowledged(6, 1);
        history.attempts[5].place = None;
    });
    rejects("said to be stored, and lost", |history| history.attempts[5].outcome = Outcome::Stored);
    rejects("in part", |history| {
        history.topic.remove(4);
        renumber(history);
    });
    rejects("follows", |history| {
        history.topic.remove(2);
    });
}

#[test]
fn what_is_there_twice_or_should_not_be_is_found() {
    rejects("stored twice", |history| history.topic.push((7, 7, "b0".into())));
    rejects("nobody sent", |history| history.topic.push((7, 7, "x0".into())));
    rejects("refused, and stored", |history| history.topic.push((7, 7, "d0".into())));
    rejects("each told to have stored it", |history| history.attempts[6].outcome = acknowledged(3, 3));
    rejects("a duplicate of nothing", |history| {
        history.attempts.remove(2);
    });
    rejects("two batches", |history| history.attempts[6].values[2] = "other".into());
}

#[test]
fn wrong_places_are_found() {
    rejects("stored at 2", |history| history.attempts[1].outcome = acknowledged(1, 1));
    rejects("stored at 3", |history| {
        history.attempts[6].outcome = Outcome::Acknowledged { first: 4, next: 7, duplicate: true };
    });
    rejects("in part or out of order", |history| {
        let (a, b) = (history.topic[3].2.clone(), history.topic[4].2.clone());
        (history.topic[3].2, history.topic[4].2) = (b, a);
    });
}

#[test]
fn wrong_orders_are_found() {
    rejects("acknowledged before it was sent", |history| history.attempts[0].called = 6);
    rejects("of a call was stored, 3 before it was not", |history| {
        history.attempts[5].place = Some((1, 3));
        history.attempts[4].place = Some((1, 4));
    });
    rejects("before one sent before it", |history| {
        history.attempts[0].place = Some((1, 2));
        history.attempts[1].place = Some((1, 1));
    });
}

#[test]
fn conditions_that_could_not_hold_are_found() {
    rejects("expected Some(2)", |history| history.attempts[2].expected = Some(2));
    rejects("was the offset expected", |history| history.attempts[7].expected = Some(2));
    rejects("where no batch ends", |history| history.attempts[7].outcome = Outcome::Mismatch { tail: 1 });
    rejects("before what ends there was sent", |history| {
        history.attempts[7].outcome = Outcome::Mismatch { tail: 6 };
    });
    rejects("known to be passed", |history| {
        (history.attempts[7].called, history.attempts[7].returned) = (16, Some(17));
    });
}

#[test]
fn wrong_deliveries_are_found() {
    rejects("a gap or a repeat", |history| {
        history.deliveries[0].remove(3);
    });
    rejects("a gap or a repeat", |history| {
        let again = history.deliveries[0][3].clone();
        history.deliveries[0].insert(3, again);
    });
    rejects("what is not there", |history| history.deliveries[1][1].1 = "b0".into());
    rejects("what is not there", |history| history.deliveries[0].push((7, "f0".into())));
}
