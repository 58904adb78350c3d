//! The history checker: decides whether one ordered, durable, atomic, idempotent topic can explain a history.
//! It relies on dense offsets, as the embedded engine has them.

use std::collections::{BTreeMap, HashMap};

use super::gone::Kept;
use super::{Attempt, History, Outcome};

/// Counts of a history that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub attempts: usize,
    /// Acknowledged batches, without repeats.
    pub acknowledged: usize,
    /// Batches that were stored although their publisher received no acknowledgement.
    pub unacknowledged: usize,
    pub duplicates: usize,
    pub refused: usize,
    /// Acknowledged batches that are gone because of a trim, retention or a deletion.
    pub gone: usize,
    pub records: usize,
    pub delivered: usize,
}

/// Checks a history.
///
/// # Errors
/// Describes the first broken promise.
pub fn check(history: &History) -> Result<Summary, String> {
    let (mut others, mut ours) = (Vec::new(), Vec::new());
    for attempt in &history.attempts {
        if history.gone.is_of_another(attempt)? { others.push(attempt) } else { ours.push(attempt) }
    }
    let kept = Kept::of(history, &ours);
    let topic = Topic::read(&history.topic, &kept)?;
    let mut summary = Summary {
        attempts: history.attempts.len(),
        records: history.topic.len(),
        delivered: history.deliveries.iter().map(Vec::len).sum(),
        gone: others.len(),
        ..Summary::default()
    };
    let mut batches: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in ours {
        let Some(first) = attempt.values.first() else { return Err("a batch without records".into()) };
        batches.entry(first).or_default().push(attempt);
    }
    let (mut explained, mut nowhere) = (0, Vec::new());
    let mut stored: Vec<(u64, Vec<&Attempt>)> = Vec::new();
    for attempts in batches.into_values() {
        if let Some(first) = topic.place(&attempts[0].values)? {
            explained += attempts[0].values.len();
            present(first, &attempts, &mut summary)?;
            stored.push((first, attempts));
        } else if let Some(first) = told(&attempts) {
            let end = first + attempts[0].values.len() as u64;
            let sent = attempts.iter().map(|attempt| attempt.sent).min().unwrap_or_default();
            kept.excuses(first, end, sent).map_err(|why| lost(first, &attempts, &why))?;
            present(first, &attempts, &mut summary)?;
            summary.gone += 1;
            stored.push((first, attempts));
        } else {
            absent(&attempts, &mut summary, &mut nowhere, history);
        }
    }
    if explained != history.topic.len() {
        return Err(format!("{} records that nobody sent are stored", history.topic.len() - explained));
    }
    stored.sort_by_key(|(first, _)| *first);
    kept.excuses_the_start(history.topic.is_empty())?;
    places(&stored)?;
    kept.trims(stored.iter().map(|(first, attempts)| (*first, first + attempts[0].values.len() as u64)))?;
    sums(&nowhere, &stored, &kept)?;
    real_time(&stored)?;
    calls(history, &topic, &stored)?;
    conditions(history, &stored, &topic)?;
    deliveries(history, &topic, &stored)?;
    Ok(summary)
}

/// Range of offsets at which an acknowledgement says that a batch was stored.
fn told(attempts: &[&Attempt]) -> Option<u64> {
    attempts.iter().find_map(|attempt| match attempt.outcome {
        Outcome::Acknowledged { first, .. } => Some(first),
        _ => None,
    })
}

fn lost(first: u64, attempts: &[&Attempt], why: &str) -> String {
    format!("acknowledged at {first}, and lost, {why}: {}", short(&attempts[0].values[0]))
}

/// Content of the topic at the end.
struct Topic<'a> {
    /// Ordered by value. A hash map would be slower: hashing half a gigabyte in a debug build takes most of a minute.
    places: BTreeMap<&'a str, (u64, u64)>,
    values: Vec<&'a str>,
    start: u64,
}

impl<'a> Topic<'a> {
    /// P2: checks that offsets increase one by one and that no value occurs twice.
    fn read(topic: &'a [(u64, u64, String)], kept: &Kept<'_>) -> Result<Self, String> {
        let start = kept.start;
        let mut places = BTreeMap::new();
        for (want, (offset, batch, value)) in (start..).zip(topic) {
            if *offset != want {
                return Err(format!("offset {offset} follows {}", want.saturating_sub(1)));
            }
            if let Some((other, _)) = places.insert(value.as_str(), (*offset, *batch)) {
                return Err(format!("stored twice, at {other} and {offset}: {}", short(value)));
            }
        }
        let values = topic.iter().map(|(_, _, value)| value.as_str()).collect();
        Ok(Self { places, values, start })
    }

    /// P4: offset of a batch that is stored whole and in order; `None` if no record of it is stored.
    fn place(&self, values: &[String]) -> Result<Option<u64>, String> {
        let found: Vec<Option<(u64, u64)>> =
            values.iter().map(|value| self.places.get(value.as_str()).copied()).collect();
        if found.iter().all(Option::is_none) {
            return Ok(None);
        }
        let torn = || format!("a batch is stored in part or out of order: {}", short(&values[0]));
        let (first, batch) = found[0].ok_or_else(torn)?;
        for (want, place) in (first..).zip(&found) {
            if *place != Some((want, batch)) {
                return Err(torn());
            }
        }
        Ok(Some(first))
    }

    /// Value at an offset.
    fn at(&self, offset: u64) -> Option<&str> {
        let index = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.values.get(index).copied()
    }

    fn tail(&self) -> u64 {
        self.start + self.values.len() as u64
    }
}

/// P1, P5: compares a stored batch with the answers to all attempts to publish it.
fn present(first: u64, attempts: &[&Attempt], summary: &mut Summary) -> Result<(), String> {
    let name = short(&attempts[0].values[0]);
    let (mut originals, mut told, mut possible) = (0, false, false);
    for attempt in attempts {
        if attempt.values != attempts[0].values {
            return Err(format!("one request id, two batches: {name}"));
        }
        match attempt.outcome {
            Outcome::Acknowledged { first: at, next, duplicate } => {
                if (at, next) != (first, first + attempt.values.len() as u64) {
                    return Err(format!("acknowledged at {at} to {next}, stored at {first}: {name}"));
                }
                originals += usize::from(!duplicate);
                summary.duplicates += usize::from(duplicate);
                (told, possible) = (true, true);
            }
            Outcome::Stored => (told, possible) = (true, true),
            Outcome::Unknown => possible = true,
            Outcome::Refused | Outcome::Mismatch { .. } => summary.refused += 1,
        }
    }
    if originals > 1 {
        return Err(format!("{originals} attempts were each told to have stored it: {name}"));
    }
    if !possible {
        return Err(format!("refused, and stored: {name}"));
    }
    let duplicate = |a: &&&Attempt| matches!(a.outcome, Outcome::Acknowledged { duplicate: true, .. });
    let others = attempts.iter().filter(|attempt| !matches!(attempt.outcome, Outcome::Refused)).count();
    if attempts.iter().any(|attempt| duplicate(&attempt)) && others < 2 {
        return Err(format!("a duplicate of nothing: {name}"));
    }
    summary.acknowledged += usize::from(told);
    summary.unacknowledged += usize::from(!told);
    Ok(())
}

/// Checks a batch that is not stored and has no receipt with an offset. Batches that only the summary of an Ingest
/// reports as stored are left to [`sums`].
fn absent<'a>(
    attempts: &[&'a Attempt],
    summary: &mut Summary,
    nowhere: &mut Vec<&'a Attempt>,
    history: &History,
) {
    for attempt in attempts {
        match attempt.outcome {
            Outcome::Refused | Outcome::Mismatch { .. } => summary.refused += 1,
            Outcome::Stored if history.gone.may_be_deleted(attempt) => summary.gone += 1,
            Outcome::Stored => nowhere.push(attempt),
            Outcome::Acknowledged { .. } | Outcome::Unknown => {}
        }
    }
}

/// P2: checks that no two batches, including those that are gone, were acknowledged at the same offset.
fn places(stored: &[(u64, Vec<&Attempt>)]) -> Result<(), String> {
    for pair in stored.windows(2) {
        let end = pair[0].0 + pair[0].1[0].values.len() as u64;
        if pair[1].0 < end {
            let name = short(&pair[1].1[0].values[0]);
            return Err(format!("acknowledged at {}, within the batch before it: {name}", pair[1].0));
        }
    }
    Ok(())
}

/// P1: checks that batches reported by a summary are stored, or can have been stored before the oldest record: there
/// is room for them there, and no batch acknowledged after that place was acknowledged before they were sent.
fn sums(nowhere: &[&Attempt], stored: &[(u64, Vec<&Attempt>)], kept: &Kept<'_>) -> Result<(), String> {
    let gone = stored.iter().filter(|(first, _)| *first < kept.start);
    let known: u64 = gone.map(|(_, attempts)| attempts[0].values.len() as u64).sum();
    let needed: u64 = nowhere.iter().map(|attempt| attempt.values.len() as u64).sum();
    let lost = |attempt: &Attempt| format!("said to be stored, and lost: {}", short(&attempt.values[0]));
    if let Some(attempt) = nowhere.first().filter(|_| known + needed > kept.start) {
        return Err(lost(attempt));
    }
    let behind = stored.iter().filter(|(first, _)| *first >= kept.start).flat_map(|(_, attempts)| attempts);
    let told = behind.filter(|a| matches!(a.outcome, Outcome::Acknowledged { .. } | Outcome::Stored));
    let since = told.filter_map(|attempt| attempt.returned).min().unwrap_or(u64::MAX);
    nowhere.iter().find(|attempt| attempt.called > since).map_or(Ok(()), |attempt| Err(lost(attempt)))
}

/// P2: checks that the order of the topic agrees with the clients' clock: a batch acknowledged before another one was
/// first sent is stored before it.
fn real_time(stored: &[(u64, Vec<&Attempt>)]) -> Result<(), String> {
    // For every batch: the earliest time at which a batch stored after it was known to be stored.
    let mut earliest = u64::MAX;
    for (first, attempts) in stored.iter().rev() {
        let called = attempts.iter().map(|attempt| attempt.called).min().unwrap_or(0);
        if earliest < called {
            let name = short(&attempts[0].values[0]);
            return Err(format!(
                "stored at {first}, before one that was acknowledged before it was sent: {name}"
            ));
        }
        let told = |a: &&&Attempt| matches!(a.outcome, Outcome::Acknowledged { .. } | Outcome::Stored);
        let returned = attempts.iter().filter(told).filter_map(|attempt| attempt.returned).min();
        earliest = earliest.min(returned.unwrap_or(u64::MAX));
    }
    Ok(())
}

/// P2: checks that the batches of one call are stored in the order sent, and none after a missing one.
fn calls(history: &History, topic: &Topic<'_>, stored: &[(u64, Vec<&Attempt>)]) -> Result<(), String> {
    let places: HashMap<&str, u64> =
        stored.iter().map(|(first, attempts)| (attempts[0].values[0].as_str(), *first)).collect();
    let mut calls: BTreeMap<u64, Vec<(u64, &Attempt)>> = BTreeMap::new();
    for attempt in &history.attempts {
        if let Some((call, number)) = attempt.place {
            calls.entry(call).or_default().push((number, attempt));
        }
    }
    for attempts in calls.values_mut() {
        attempts.sort_by_key(|(number, _)| *number);
        let (mut after, mut missing) = (0, None);
        for (number, attempt) in attempts {
            let name = short(&attempt.values[0]);
            let Some(first) = places.get(attempt.values[0].as_str()).copied() else {
                // It may have been stored in the range that is gone.
                if after >= topic.start {
                    missing = missing.or(Some(*number));
                }
                continue;
            };
            // A repeated batch stays where it was first stored.
            if matches!(attempt.outcome, Outcome::Acknowledged { duplicate: true, .. }) {
                continue;
            }
            if let Some(missing) = missing {
                return Err(format!(
                    "publish {number} of a call was stored, {missing} before it was not: {name}"
                ));
            }
            if first < after {
                return Err(format!(
                    "publish {number} of a call was stored before one sent before it: {name}"
                ));
            }
            after = first + attempt.values.len() as u64;
        }
    }
    Ok(())
}

/// Checks that `expected_offset` is linearizable: if the publish succeeded, it was the tail at some moment between call
/// and answer; if it was refused, there was such a moment at which it was not.
fn conditions(history: &History, stored: &[(u64, Vec<&Attempt>)], topic: &Topic<'_>) -> Result<(), String> {
    let begins: HashMap<u64, &Vec<&Attempt>> =
        stored.iter().map(|(first, attempts)| (*first, attempts)).collect();
    let ends: HashMap<u64, &Vec<&Attempt>> =
        stored.iter().map(|(first, attempts)| (first + attempts[0].values.len() as u64, attempts)).collect();
    for attempt in history.attempts.iter().filter(|attempt| attempt.expected.is_some()) {
        let name = short(&attempt.values[0]);
        match attempt.outcome {
            Outcome::Acknowledged { first, duplicate: false, .. } if Some(first) != attempt.expected => {
                return Err(format!("expected {:?}, stored at {first}: {name}", attempt.expected));
            }
            Outcome::Mismatch { tail } => {
                if Some(tail) == attempt.expected {
                    return Err(format!("refused, and the tail was the offset expected, {tail}: {name}"));
                }
                if tail > topic.tail() || (tail > topic.start && !ends.contains_key(&tail)) {
                    return Err(format!("told of tail {tail}, where no batch ends: {name}"));
                }
                let sent = |a: &&Attempt| Some(a.called) < attempt.returned;
                if ends.get(&tail).is_some_and(|before| !before.iter().any(sent)) {
                    return Err(format!("told of tail {tail} before what ends there was sent: {name}"));
                }
                let past = |a: &&Attempt| {
                    let told = matches!(a.outcome, Outcome::Acknowledged { .. } | Outcome::Stored);
                    told && a.returned.is_some_and(|returned| returned < attempt.called)
                };
                if begins.get(&tail).is_some_and(|next| next.iter().any(past)) {
                    return Err(format!("told of tail {tail}, which was known to be passed: {name}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// P2, P3: checks that every subscriber saw the topic's records at their offsets, one by one, and that every record in a
/// gap it was told of is gone.
fn deliveries(history: &History, topic: &Topic<'_>, stored: &[(u64, Vec<&Attempt>)]) -> Result<(), String> {
    let gone = stored.iter().filter(|(first, _)| *first < topic.start);
    let gone: HashMap<u64, &str> = gone
        .flat_map(|(first, attempts)| (*first..).zip(attempts[0].values.iter().map(String::as_str)))
        .collect();
    for (who, seen) in history.deliveries.iter().enumerate() {
        let mut want = seen.first().map_or(0, |(offset, _)| *offset);
        for (offset, value) in seen {
            if *offset != want && (*offset < want || *offset > topic.start) {
                let tail = topic.tail();
                return Err(format!(
                    "subscriber {who} saw {offset}, not {want:?} of {tail}: a gap or a repeat"
                ));
            }
            want = offset + 1;
            let there = topic.at(*offset).or_else(|| gone.get(offset).copied());
            // A record that is gone and that no receipt mentions may have had any value.
            let unknown = there.is_none() && *offset < topic.start;
            if !unknown && there != Some(value.as_str()) {
                return Err(format!("subscriber {who} saw at {offset} what is not there: {}", short(value)));
            }
        }
    }
    Ok(())
}

/// Value without its filler.
fn short(value: &str) -> &str {
    value.rsplit_once('/').map_or(value, |(name, _)| name)
}
