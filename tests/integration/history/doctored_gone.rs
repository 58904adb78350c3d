//! Tests of the history checker with records deleted by trims, by retention or with their topic. Histories in which only
//! such records are gone pass, and each way of losing other records is found.

use std::time::Duration;

use super::check::check;
use super::gone::{Deletion, Gone, Retention, Trim};
use super::{Attempt, History, Outcome};

fn attempt(name: &str, at: u64, records: u64, called: u64) -> Attempt {
    Attempt {
        called,
        returned: Some(called + 1),
        place: None,
        request_id: String::new(),
        expected: None,
        values: (0..records).map(|i| format!("{name}{i}")).collect(),
        outcome: Outcome::Acknowledged { first: at, next: at + records, duplicate: false },
        sent: Duration::from_secs(called),
        epoch: "two".into(),
    }
}

fn trim(before: u64, earliest: u64) -> Trim {
    Trim { returned: Some(41), before, earliest: Some(earliest), refused: false }
}

/// A history in which a (0 to 2), b (2 to 3), c (3 to 6) and d (6 to 10) were acknowledged one after the other.
fn acknowledged() -> Vec<Attempt> {
    vec![attempt("a", 0, 2, 0), attempt("b", 2, 1, 2), attempt("c", 3, 3, 4), attempt("d", 6, 4, 6)]
}

/// The same history, of which only the records from `from` on are left.
fn kept(from: u64, gone: Gone) -> History {
    let attempts = acknowledged();
    let records = attempts.iter().flat_map(|attempt| {
        let Outcome::Acknowledged { first, .. } = attempt.outcome else { unreachable!("all are") };
        (first..).zip(&attempt.values).map(move |(at, value)| (at, first, value.clone()))
    });
    let topic = records.filter(|(at, ..)| *at >= from).collect();
    let gone = Gone { epoch: "two".into(), read: Duration::from_secs(100), ..gone };
    History { attempts, gone, deliveries: Vec::new(), topic }
}

/// The same history after a trim before `before`, answered with the earliest offset left.
fn trimmed(from: u64, before: u64) -> History {
    kept(from, Gone { trims: vec![trim(before, from)], ..Gone::default() })
}

fn retaining(from: u64, retention: Retention) -> History {
    kept(from, Gone { retention, ..Gone::default() })
}

fn rejects(what: &str, history: &History) {
    match check(history) {
        Ok(_) => panic!("accepted: {what}"),
        Err(reason) => assert!(reason.contains(what), "{reason}, not: {what}"),
    }
}

#[test]
fn what_was_trimmed_is_gone_and_what_was_not_is_lost() {
    for (from, before) in [(0, 0), (2, 2), (2, 3), (3, 5), (6, 6), (6, 9), (10, 10)] {
        assert!(check(&trimmed(from, before)).is_ok(), "{before} of which {from} is left");
    }
    assert_eq!(check(&trimmed(3, 3)).unwrap().gone, 2);
    let unanswered = Trim { returned: None, earliest: None, ..trim(6, 6) };
    let maybe = |from| kept(from, Gone { trims: vec![unanswered.clone()], ..Gone::default() });
    assert!(check(&maybe(0)).is_ok() && check(&maybe(6)).is_ok(), "a trim without an answer may be done");
    rejects("and lost, neither trimmed by a call nor beyond retention", &maybe(10));
    rejects("and lost, neither", &trimmed(3, 2));
    rejects("and lost, neither", &trimmed(6, 5));
    let refused = Trim { earliest: None, refused: true, ..trim(3, 3) };
    rejects("and lost, neither", &kept(3, Gone { trims: vec![refused], ..Gone::default() }));
    let mut hole = trimmed(3, 10);
    hole.topic.truncate(3);
    rejects("and lost, although the older 3 is there", &hole);
}

/// A topic never trimmed before: the trim asked for one record of the first batch and deleted all of it.
#[test]
fn a_trim_that_takes_everything_is_found() {
    rejects("and lost, neither", &trimmed(10, 1));
    rejects("and lost, neither", &trimmed(2, 1));
    let mut told = trimmed(10, 1);
    told.gone.trims[0].earliest = Some(0);
    rejects("and lost, neither", &told);
}

#[test]
fn what_a_trim_was_answered_holds() {
    let answered =
        |from, before, earliest| kept(from, Gone { trims: vec![trim(before, earliest)], ..Gone::default() });
    assert!(check(&answered(3, 5, 3)).is_ok());
    rejects("a trim before 2 was answered with 3", &answered(2, 2, 3));
    rejects("trimmed to 6, and 3 is there again", &answered(3, 6, 6));
    let mut unknown = answered(3, 2, 0);
    unknown.attempts.drain(..2);
    rejects("the topic begins at 3, and nobody trimmed it there", &unknown);
    rejects("a trim to 4 cut the batch at 3", &{
        let mut cut = answered(3, 6, 4);
        cut.topic.retain(|(at, ..)| *at >= 6);
        cut
    });
}

#[test]
fn what_is_beyond_retention_is_gone_and_nothing_else() {
    let records = |records| Retention { records: Some(records), ..Retention::default() };
    for (from, kept) in [(0, 10), (0, 4), (6, 4), (3, 7), (2, 8), (6, 1)] {
        assert!(check(&retaining(from, records(kept))).is_ok(), "{kept} records, from {from}");
    }
    rejects("and lost, neither", &retaining(6, records(5)));
    rejects("and lost, neither", &retaining(10, records(1)));
    let bytes = |bytes| Retention { bytes: Some(bytes), ..Retention::default() };
    assert!(check(&retaining(6, bytes(100))).is_ok());
    rejects("and lost, neither", &retaining(6, bytes(1 << 20)));
    let age = |seconds| Retention { age: Some(Duration::from_secs(seconds)), ..Retention::default() };
    assert!(check(&retaining(10, age(94))).is_ok(), "d was sent 94 s before the topic was read");
    assert!(check(&retaining(6, age(95))).is_ok());
    rejects("acknowledged at 6, and lost, neither", &retaining(10, age(95)));
    rejects("acknowledged at 0, and lost, neither", &retaining(6, age(101)));
}

/// Summaries of Ingest calls do not say at which offset a batch is.
#[test]
fn a_sum_is_gone_only_where_there_was_room_and_time() {
    let ingested = |called, records| {
        let mut history = trimmed(6, 6);
        // b was acknowledged only by the summary of its call.
        history.attempts[1] = Attempt { outcome: Outcome::Stored, ..attempt("s", 2, records, called) };
        history
    };
    assert!(check(&ingested(2, 1)).is_ok());
    rejects("said to be stored, and lost", &ingested(2, 2));
    rejects("said to be stored, and lost", &ingested(20, 1));
}

#[test]
fn a_wiped_topic_is_found_and_a_deleted_one_passes() {
    let deletion = Deletion { returned: Some(21), epoch: "one".into() };
    let wiped = |deletions: Vec<Deletion>| {
        let mut history = kept(0, Gone { deletions, ..Gone::default() });
        let mut old = attempt("old", 0, 5, 10);
        old.epoch = "one".into();
        history.attempts.push(old);
        history
    };
    let summary = check(&wiped(vec![deletion.clone()])).unwrap();
    assert_eq!((summary.gone, summary.records), (1, 10));
    rejects("the topic was wiped: old0 is of one, which nobody deleted", &wiped(Vec::new()));
    let other = Deletion { epoch: "zero".into(), ..deletion.clone() };
    rejects("which nobody deleted", &wiped(vec![other]));
    let mut late = wiped(vec![deletion.clone()]);
    late.attempts.last_mut().unwrap().called = 22;
    rejects("acknowledged in one, which had been deleted", &late);
    // The same incarnation, with no records.
    rejects("and lost, neither", &kept(10, Gone::default()));
    rejects("and lost, neither", &kept(10, Gone { deletions: vec![deletion], ..Gone::default() }));
}

#[test]
fn a_gap_that_was_told_is_where_records_are_gone() {
    let seen = |offsets: &[u64]| {
        let mut history = trimmed(3, 3);
        let values = ["a0", "a1", "b0", "c0", "c1", "c2", "d0", "d1", "d2", "d3"];
        history.deliveries = vec![offsets.iter().map(|at| (*at, values[*at as usize].to_owned())).collect()];
        history
    };
    assert!(check(&seen(&[0, 1, 3, 4])).is_ok());
    assert!(check(&seen(&[0, 3, 4, 5, 6])).is_ok());
    rejects("a gap or a repeat", &seen(&[0, 1, 4, 5]));
    rejects("a gap or a repeat", &seen(&[3, 5]));
    let mut other = seen(&[0, 1, 3]);
    other.deliveries[0][1].1 = "b0".into();
    rejects("what is not there", &other);
}

#[test]
fn two_acknowledgements_of_one_place_are_found_where_it_is_gone() {
    let mut history = trimmed(6, 6);
    history.attempts.push(attempt("x", 2, 1, 30));
    rejects("acknowledged at 2, within the batch before it", &history);
}
