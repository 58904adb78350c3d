//! Tests of damage at rest, of every kind and in every file. The log serves what was acknowledged, or reports the
//! damage (P10). `check` finds the same damage as the server. `repair` leaves a directory that serves everything that
//! is whole. Each case prints what it damaged, and its seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::crash_tests::{DIR, name, open};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use super::{OpenError, check, scan};
use crate::record::{Epoch, Offset};
use crate::storage::{Error, Health, Hold, Log, Retention, TopicLog};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Acknowledged contents of one topic.
#[derive(Clone, Debug)]
struct Want {
    epoch: Epoch,
    records: Vec<(u64, u64)>,
    /// First offset, request id and payloads of each batch.
    batches: Vec<(u64, String, Vec<u64>)>,
}

/// A data directory and the topics that it must serve.
#[derive(Clone, Debug)]
struct Image {
    files: Files,
    topics: BTreeMap<u8, Want>,
    /// True if the log was closed cleanly. Then no damage can be a torn tail.
    closed: bool,
}

/// Makes a directory with three topics after several checkpoints. One of them was trimmed, and a fourth topic was
/// deleted. After a restart the journal has a copied commit, and more batches that are only there.
async fn image(closed: bool) -> Image {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let mut topics = BTreeMap::new();
    for n in 0..4 {
        let topic = log.create(name(n), Retention::default()).await.unwrap();
        topics.insert(n, Want { epoch: topic.epoch(), records: Vec::new(), batches: Vec::new() });
    }
    let mut payload = 0;
    for round in 0..2 {
        for i in 0..60_u64 {
            let n = (i % 3) as u8;
            let topic = log.get(&name(n)).await.unwrap();
            let payloads: Vec<u64> = (payload..payload + 1 + i % 4).collect();
            payload += 10;
            let id = format!("{round}-{i}");
            let batch = batch(&payloads, 600).with_request_id(&id).unwrap();
            let done = topic.appender().append(vec![batch], Hold::default()).await;
            topics.get_mut(&n).unwrap().batches.push((done.receipts[0].first.get(), id, payloads));
        }
        if round == 0 {
            log.trim(&name(1), None, Offset::new(20)).await.unwrap();
            log.delete(&name(3), None).await.unwrap();
            log.close().await.unwrap();
            log = open(&disk).unwrap();
        }
    }
    topics.remove(&3);
    for (n, want) in &mut topics {
        let topic = log.get(&name(*n)).await.unwrap();
        want.records = read_all(&*topic, topic.earliest()).await.unwrap();
    }
    if closed {
        log.close().await.unwrap();
    }
    Image { files: disk.survivor().files(), topics, closed }
}

/// Damages one file in a random way. Returns the file and a description, or `None` if nothing changed.
fn damage(files: &mut Files, rng: &mut fastrand::Rng) -> Option<(PathBuf, String)> {
    let paths: Vec<PathBuf> =
        files.iter().filter(|(_, data)| !data.is_empty()).map(|(path, _)| path.clone()).collect();
    let path = paths[rng.usize(..paths.len())].clone();
    let other = files[&paths[rng.usize(..paths.len())]].clone();
    let data = files.get_mut(&path)?;
    let before = data.clone();
    let len = data.len();
    // Most of a journal is empty, so the damage is placed in the part that was written.
    let used = data.iter().rposition(|byte| *byte != 0)? + 1;
    let at = rng.usize(..used);
    let block = *rng.choice([64_usize, 512, 4096].iter())?;
    let aligned = |at: usize| at / block * block;
    let what = match rng.u8(..12) {
        0..=3 => {
            data[at] ^= 1 << rng.u8(..8);
            format!("a bit of byte {at}")
        }
        4 | 5 => {
            data[at] = rng.u8(..);
            format!("byte {at}")
        }
        6 => {
            data.truncate(at);
            format!("cut at {at}")
        }
        7 => {
            let start = aligned(at);
            let end = (start + block * rng.usize(1..4)).min(len);
            data[start..end].fill(0);
            format!("zeros from {start} to {end}")
        }
        8 | 9 => {
            let (a, b) = (aligned(at), aligned(rng.usize(..used)));
            let span = block.min(len - a).min(len - b);
            if a.abs_diff(b) >= span {
                for i in 0..span {
                    data.swap(a + i, b + i);
                }
            }
            format!("{span} bytes at {a} and {b} swapped")
        }
        10 => {
            let start = aligned(at);
            let span = block.min(len - start).min(other.len().saturating_sub(start));
            if span > 0 {
                data[start..start + span].copy_from_slice(&other[start..start + span]);
            }
            format!("{span} bytes at {start} from another file")
        }
        _ => {
            files.remove(&path);
            return Some((path, "removed".into()));
        }
    };
    (files[&path] != before).then_some((path, what))
}

/// Outcome of opening and reading a damaged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Reported,
    Harmless,
    /// The end of the newest journal is missing. This is allowed if the log was not closed.
    Cut,
}

async fn serve(image: &Image, files: &Files, place: &str) -> Outcome {
    let log = match open(&SimDisk::with(files)) {
        Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. }) => return Outcome::Refused,
        Err(error) => panic!("{place}: {error}"),
        Ok(log) => log,
    };
    let mut outcome = Outcome::Harmless;
    for (n, want) in &image.topics {
        let Ok(topic) = log.get(&name(*n)).await else {
            panic!("{place}: topic {n} is gone without a word");
        };
        assert_eq!(topic.epoch(), want.epoch, "{place}");
        match read_all(&*topic, topic.earliest()).await {
            Ok(got) if got == want.records => repeats(&*topic, want, place).await,
            Ok(got) => {
                assert!(
                    !image.closed && want.records.starts_with(&got),
                    "{place}: {} of {}",
                    got.len(),
                    want.records.len()
                );
                outcome = outcome.max(Outcome::Cut);
            }
            Err(Error::Damaged(_)) => {
                assert!(matches!(&*log.health().borrow(), Health::Failed(_)), "{place}");
                return Outcome::Reported;
            }
            Err(error) => panic!("{place}: {error}"),
        }
    }
    assert!(log.get(&name(3)).await.is_err(), "{place}: a deleted topic is back");
    outcome
}

/// P5: checks that some of the request ids are still known, with their receipts.
async fn repeats(topic: &dyn TopicLog, want: &Want, place: &str) {
    for (first, id, payloads) in want.batches.iter().step_by(9) {
        let again = batch(payloads, 600).with_request_id(id).unwrap();
        let done = topic.appender().append(vec![again], Hold::default()).await;
        assert!(
            done.receipts[0].duplicate && done.receipts[0].first.get() == *first,
            "{place}: {id} {done:?}"
        );
    }
}

/// Repairs the directory, and compares what it then serves with what was acknowledged.
async fn repair(image: &Image, files: &Files, place: &str) {
    let disk = SimDisk::with(files);
    let done = match check::repair_on(&disk, Path::new(DIR)) {
        Ok(done) => done,
        Err(OpenError::NewerFormat { .. }) => return,
        Err(error) => panic!("{place}: repair: {error}"),
    };
    assert!(done.after.damages.is_empty(), "{place}: {:?}", done.after.damages);
    let log = open(&disk).unwrap_or_else(|error| panic!("{place}: after repair: {error}"));
    let listed = log.list("", None, 100).await.unwrap();
    for (n, want) in &image.topics {
        let lives = |epoch| listed.iter().any(|info| info.epoch == epoch);
        let kept = log.get(&name(*n)).await.ok().filter(|topic| topic.epoch() == want.epoch);
        match kept {
            Some(topic) => {
                let got = read_all(&*topic, topic.earliest()).await.unwrap();
                let whole = got == want.records || (!image.closed && want.records.starts_with(&got));
                assert!(whole, "{place}: topic {n} lost records under the same epoch: {got:?}");
            }
            None => assert!(!lives(want.epoch), "{place}: topic {n} has another name"),
        }
    }
    let mut salvaged = 0;
    for info in &listed {
        let topic = log.get(&info.name).await.unwrap();
        let got: Vec<u64> =
            read_all(&*topic, topic.earliest()).await.unwrap().into_iter().map(|(_, value)| value).collect();
        salvaged += got.len();
        let of = |want: &&Want| {
            got.first().is_none_or(|first| want.records.iter().any(|(_, value)| value == first))
        };
        // For a topic without a name, it is not known whether it was trimmed or deleted.
        let Some(want) = image.topics.values().find(of) else { continue };
        let mut rest = got.iter();
        let mut next = rest.next();
        for (_, value) in &want.records {
            if next == Some(value) {
                next = rest.next();
            }
        }
        assert!(
            next.is_none() || info.name.as_str().starts_with("recovered"),
            "{place}: {next:?} out of order in {}",
            info.name
        );
        let epoch_is_new = image.topics.values().all(|want| want.epoch != info.epoch);
        let done = topic.appender().append(vec![batch(&[99], 0)], Hold::default()).await;
        assert!(done.failure.is_none(), "{place}: {:?}", done.failure);
        assert!(epoch_is_new || want.epoch == info.epoch, "{place}");
    }
    let all: usize = image.topics.values().map(|want| want.records.len()).sum();
    // One damaged place costs no more than the data in it: a damaged catalog costs nothing, a segment its own records.
    assert!(salvaged * 3 >= all, "{place}: {salvaged} of {all} salvaged");
    log.close().await.unwrap_or_else(|error| panic!("{place}: {error}"));
}

async fn case(image: Arc<Image>, seed: u64) -> Option<Outcome> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut files = image.files.clone();
    let (path, what) = damage(&mut files, &mut rng)?;
    let place = format!("TESTS_SEED={seed}, closed {}: {}: {what}", image.closed, path.display());
    let outcome = serve(&image, &files, &place).await;
    match scan::scan(&SimDisk::with(&files), Path::new(DIR)) {
        Ok(found) => {
            let bad = !found.damages.is_empty();
            let serves = matches!(outcome, Outcome::Harmless | Outcome::Cut);
            // Trimmed records are not served, so they may be damaged.
            let trimmed = found.topics.values().all(super::scan::Topic::is_whole);
            assert!(
                bad != serves || bad && trimmed,
                "{place}: {outcome:?}, but check says {:?}",
                found.damages
            );
        }
        Err(OpenError::NewerFormat { .. }) => assert_eq!(outcome, Outcome::Refused, "{place}"),
        Err(error) => panic!("{place}: check: {error}"),
    }
    repair(&image, &files, &place).await;
    Some(outcome)
}

/// Number of cases. `tests/run --soak` runs ten times as many.
fn rounds() -> usize {
    if std::env::var_os("TESTS_SOAK").is_some() { 15_000 } else { 1500 }
}

async fn run(closed: bool) -> BTreeMap<Outcome, usize> {
    let image = Arc::new(image(closed).await);
    let one = std::env::var("TESTS_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let count = std::env::var("TESTS_ROUNDS").map_or(rounds(), |rounds| rounds.parse().unwrap());
    let seeds: Vec<u64> =
        one.map_or_else(|| (0..count).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed]);
    let mut outcomes = BTreeMap::new();
    for seed in seeds {
        let done = tokio::spawn(case(image.clone(), seed));
        let done = tokio::time::timeout(Duration::from_secs(60), done).await;
        let done = done.unwrap_or_else(|_| panic!("TESTS_SEED={seed} does not end"));
        let outcome = done.unwrap_or_else(|_| panic!("TESTS_SEED={seed} fails"));
        if let Some(outcome) = outcome {
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    println!("closed {closed}: {outcomes:?}");
    outcomes
}

/// P10: after a clean stop no damage can be taken for a torn tail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_after_a_clean_stop_is_reported_and_repaired() {
    let outcomes = run(true).await;
    assert!(!outcomes.contains_key(&Outcome::Cut), "{outcomes:?}");
}

/// P10, with its two documented exceptions at the end of the newest journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_after_a_kill_is_reported_and_repaired() {
    run(false).await;
}

/// An undamaged directory is whole, and repairing it changes nothing.
#[tokio::test]
async fn what_is_whole_is_left_alone() {
    for closed in [true, false] {
        let image = image(closed).await;
        let disk = SimDisk::with(&image.files);
        let done = check::repair_on(&disk, Path::new(DIR)).unwrap();
        assert!(done.kept.is_none() && done.before.damages.is_empty(), "{:?}", done.before.damages);
        assert_eq!(disk.files(), image.files);
        assert_eq!(serve(&image, &disk.files(), "undamaged").await, Outcome::Harmless);
    }
}

/// P10: if the catalog is lost, topics without records are lost too, and that is reported.
#[tokio::test]
async fn a_lost_catalog_is_reported_where_no_topic_has_records() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    log.create(name(0), Retention::default()).await.unwrap();
    log.close().await.unwrap();
    // The second start moves the topic into the catalog, and the third one finds nothing to replay.
    for _ in 0..3 {
        open(&disk).unwrap().close().await.unwrap();
        let mut files = disk.files();
        files.remove(&Path::new(DIR).join("catalog"));
        let opened = open(&SimDisk::with(&files));
        assert!(matches!(opened, Err(OpenError::Damaged { .. })));
    }
}
