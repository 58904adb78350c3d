//! Tests of a disk that is full from any step on. Every start works, acknowledged records are served, trims and
//! deletions are accepted and free their space, and publishing then continues by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crash_tests::{DIR, config, name, open_with};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use super::{EmbeddedLog, OpenError, reserve};
use crate::config::StorageConfig;
use crate::record::Offset;
use crate::storage::{Error, Hold, Log, Retention, TopicLog};

/// Expected contents of a topic.
#[derive(Clone, Debug, Default)]
struct Want {
    records: Vec<u64>,
    earliest: u64,
    /// One acknowledged request id, with its record and that record's offset.
    id: Option<(String, u64, u64)>,
}

/// Opens a log whose journal holds about forty commits, so that the reserve is only a small part of it, as in
/// production.
fn open(disk: &SimDisk) -> Result<Arc<EmbeddedLog>, OpenError> {
    open_with(disk, &StorageConfig { journal_bytes: 160 << 10, ..config() })
}

type Model = BTreeMap<u8, Want>;

async fn append(topic: &dyn TopicLog, value: u64, id: &str) -> Result<u64, Error> {
    let batch = batch(&[value], 900).with_request_id(id).unwrap();
    let done = topic.appender().append(vec![batch], Hold::default()).await;
    done.failure.map_or_else(|| Ok(done.receipts[0].first.get()), Err)
}

/// Appends, trims and deletes. A full disk may refuse appends only.
async fn work(log: &EmbeddedLog, model: &mut Model) {
    for i in 0..75_u64 {
        let n = (i % 3) as u8;
        let Some(want) = model.get_mut(&n) else { continue };
        let topic = log.get(&name(n)).await.unwrap();
        match append(&*topic, i, &format!("id-{i}")).await {
            Ok(first) => {
                assert_eq!(first, want.records.len() as u64);
                want.records.push(i);
                want.id = Some((format!("id-{i}"), i, first));
            }
            Err(error) => assert_eq!(error, Error::DiskFull),
        }
        if i == 24 || i == 51 {
            want.earliest = log.trim(&name(n), None, topic.tail()).await.expect("a trim is taken").get();
            assert_eq!(want.earliest, want.records.len() as u64);
        }
        if i == 38 {
            log.delete(&name(n), None).await.expect("a deletion is taken");
            model.remove(&n);
        }
    }
}

async fn check(log: &EmbeddedLog, model: &Model) {
    for n in 0..3 {
        let found = log.get(&name(n)).await;
        let Some(want) = model.get(&n) else {
            assert!(matches!(found, Err(Error::TopicNotFound)));
            continue;
        };
        let topic = found.unwrap();
        let records = (want.earliest..).zip(want.records[want.earliest as usize..].iter().copied());
        assert_eq!(read_all(&*topic, topic.earliest()).await.unwrap(), records.collect::<Vec<_>>());
    }
}

/// Returns the disk that the next start finds after a kill, a clean stop or a power cut. It has the same size.
async fn restarted(disk: &SimDisk, log: Arc<EmbeddedLog>, how: u8) -> SimDisk {
    let next = match how {
        0 => disk.survivor(),
        1 => {
            log.close().await.unwrap();
            disk.survivor()
        }
        _ => SimDisk::with(&disk.image()),
    };
    next.set_capacity(disk.capacity());
    next
}

/// Runs one case: the disk is full from the `step`-th change on.
async fn case(step: u32, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let mut model = Model::new();
    for n in 0..3 {
        log.create(name(n), Retention::default()).await.unwrap();
        model.insert(n, Want::default());
    }
    disk.full_after(step);
    work(&log, &mut model).await;
    if disk.capacity().is_none() {
        disk.set_full(true);
    }
    for round in 0..5 {
        disk = restarted(&disk, log, rng.u8(..3)).await;
        log = open(&disk).unwrap_or_else(|error| panic!("start {round}: {error}"));
        check(&log, &model).await;
        if round == 2 {
            let tail = log.get(&name(0)).await.unwrap().tail();
            log.trim(&name(0), None, tail).await.expect("a trim is taken");
            model.get_mut(&0).unwrap().earliest = tail.get();
        }
        if round == 3 {
            for n in [1, 2] {
                if model.remove(&n).is_some() {
                    log.delete(&name(n), None).await.expect("a deletion is taken");
                }
            }
        }
    }
    let topic = log.get(&name(0)).await.unwrap();
    let want = model.get_mut(&0).unwrap();
    // No records are left, so there is space, even for more than one journal if new records are trimmed.
    let begun = Instant::now();
    for i in 1000..1090 {
        while let Err(error) = append(&*topic, i, "").await {
            assert_eq!(error, Error::DiskFull);
            let files: Vec<_> = disk.files().into_iter().map(|(path, data)| (path, data.len())).collect();
            let late = begun.elapsed() > Duration::from_secs(60);
            assert!(!late, "record {i} finds no room: {files:?} of {:?}", disk.capacity());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        want.records.push(i);
        if i % 10 == 0 {
            want.earliest = log.trim(&name(0), None, topic.tail()).await.unwrap().get();
        }
    }
    if let Some((id, value, first)) = &want.id {
        want.earliest = log.trim(&name(0), None, topic.tail()).await.unwrap().get();
        let begun = Instant::now();
        let again = loop {
            match append(&*topic, *value, id).await {
                Err(Error::DiskFull) if begun.elapsed() < Duration::from_secs(60) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                again => break again,
            }
        };
        assert_eq!(again, Ok(*first), "its id is remembered");
    }
    check(&log, &model).await;
    disk = restarted(&disk, log, rng.u8(..3)).await;
    check(&open(&disk).unwrap(), &model).await;
}

/// P1, P5, P9: a full disk never keeps the log from starting or from freeing space. `TESTS_SEED` replays one case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_full_at_any_step_never_keeps_the_log_from_starting_or_from_being_freed() {
    /// Approximate number of changes that the workload makes.
    const STEPS: u64 = 260;
    let one = std::env::var("TESTS_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let rounds = if std::env::var_os("TESTS_SOAK").is_some() { 1000 } else { 25 };
    let seeds = one.map_or_else(|| (0..rounds).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed]);
    for seed in seeds {
        let outcome = tokio::spawn(case((seed % STEPS) as u32, seed)).await;
        outcome.unwrap_or_else(|_| panic!("TESTS_SEED={seed} fails"));
    }
}

/// Starts on a full disk take no space, however many there are.
#[tokio::test]
async fn starts_on_a_full_disk_take_no_room() {
    let mut disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    disk.set_full(true);
    let mut stored = 0;
    while append(&*topic, stored, "").await.is_ok() {
        stored += 1;
    }
    drop((topic, log));
    for round in 0..40 {
        disk = SimDisk::with(&disk.files());
        disk.set_full(true);
        let log = open(&disk).unwrap_or_else(|error| panic!("start {round}: {error}"));
        let topic = log.get(&name(0)).await.unwrap();
        assert_eq!(topic.tail(), Offset::new(stored));
        log.close().await.unwrap();
    }
    let log = open(&disk).unwrap();
    let topic = log.get(&name(0)).await.unwrap();
    assert_eq!(log.trim(&name(0), None, topic.tail()).await.unwrap(), topic.tail());
}

/// A directory of an earlier version of the program has no reserve, and the first start makes one if there is space.
#[tokio::test]
async fn a_directory_without_a_reserve_opens_and_gets_one() {
    let disk = SimDisk::default();
    drop(open(&disk).unwrap());
    let files = disk.files();
    let (reserve, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        files.into_iter().partition(|(path, _)| path.to_string_lossy().contains("/reserve-"));
    assert_eq!(reserve.len(), 3);
    let disk = SimDisk::with(&others);
    drop(open(&disk).unwrap());
    assert!(reserve.keys().all(|path| disk.files().contains_key(path)));
    assert!(reserve::find(&disk, Path::new(DIR), 60_000).is_some());
}
