//! The judge refuses doctored histories, each for the promise that it breaks.

use super::Event::{self, Acking, Leased, Lost, Settled};
use super::judge::{Summary, judge};

const fn leased(session: u64, process: u64, fence: u64, offset: u64) -> Event {
    Leased { session, process, fence, offset }
}

/// Two records of one key.
fn keyed() -> Vec<(u64, Option<String>)> {
    vec![(0, Some("a".to_owned())), (1, Some("a".to_owned()))]
}

fn one() -> Vec<(u64, Option<String>)> {
    vec![(0, None)]
}

fn settling(process: u64, fence: u64, offset: u64) -> [Event; 2] {
    [Acking { fence, offset }, Settled { process, fence, offset }]
}

#[track_caller]
fn refused(events: &[Event], topic: &[(u64, Option<String>)], promise: &str) {
    let reason = judge(events, topic).expect_err("a broken promise");
    assert!(reason.starts_with(promise), "{reason}");
}

#[test]
fn a_sound_history_is_counted() {
    let mut events = vec![leased(1, 1, 5, 0), leased(1, 1, 5, 1)];
    events.extend(settling(1, 5, 0));
    // The process was killed. The next one leases anew, and the answer that was lost is asked for again.
    events.extend([leased(2, 2, 9, 1), Acking { fence: 5, offset: 1 }, Lost { fence: 5, offset: 1 }]);
    events.extend(settling(2, 9, 1));
    events.extend(settling(2, 5, 1));
    let summary = Summary { records: 2, leased: 3, settled: 3, lost: 1, late: 0 };
    assert_eq!(judge(&events, &keyed()), Ok(summary));
}

#[test]
fn a_record_that_nobody_settled_is_forgotten() {
    refused(&[], &one(), "P11");
    let lost = [leased(1, 1, 5, 0), Acking { fence: 5, offset: 0 }, Lost { fence: 5, offset: 0 }];
    refused(&lost, &one(), "P11");
}

#[test]
fn a_record_that_is_leased_after_its_confirmation_is_refused() {
    for process in [1, 2] {
        let mut events = vec![leased(1, 1, 5, 0)];
        events.extend(settling(1, 5, 0));
        events.push(leased(2, process, 6, 0));
        refused(&events, &one(), "P12");
    }
    // One that was under way, of a process that was killed, may be late.
    let mut events = vec![leased(1, 1, 5, 0)];
    events.extend(settling(2, 5, 0));
    events.push(leased(2, 1, 6, 0));
    assert_eq!(judge(&events, &one()).map(|summary| summary.late), Ok(1));
}

#[test]
fn an_older_lease_that_settles_or_one_that_comes_twice_is_refused() {
    let mut events = vec![leased(1, 1, 5, 0), leased(2, 1, 6, 0)];
    events.extend(settling(1, 5, 0));
    refused(&events, &one(), "P13");
    refused(&[leased(1, 1, 5, 0), leased(2, 1, 5, 0)], &one(), "P13");
}

#[test]
fn an_older_lease_repeats_what_a_newer_one_has_settled() {
    let mut events = vec![leased(1, 1, 5, 0), leased(2, 1, 6, 0), leased(3, 1, 7, 0)];
    events.extend(settling(1, 7, 0));
    events.extend(settling(1, 5, 0));
    assert_eq!(judge(&events, &one()).map(|summary| summary.settled), Ok(2));
}

#[test]
fn a_record_that_overtakes_its_key_is_refused() {
    refused(&[leased(1, 1, 5, 0), leased(2, 1, 6, 1)], &keyed(), "P14");
    refused(&[leased(1, 1, 5, 1)], &keyed(), "P14");
}
