//! Compares the embedded log with a plain model. Power cuts, restarts, full disks, failed syncs and flipped bits occur
//! among the operations. A failure prints its seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::Catalog;
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use super::{EmbeddedLog, OpenError};
use crate::config::StorageConfig;
use crate::record::{Batch, Epoch, Offset, Receipt, TopicName};
use crate::storage::clock::Clock;
use crate::storage::{Error, Health, Hold, Log, Retention};

pub const DIR: &str = "/log";

pub fn config() -> StorageConfig {
    StorageConfig {
        journal_bytes: 48 << 10,
        segment_bytes: 24 << 10,
        cache_bytes: 16 << 10,
        unflushed_bytes_max: 256 << 10,
        open_files_max: 4,
        ..StorageConfig::default()
    }
}

pub fn open(disk: &SimDisk) -> Result<Arc<EmbeddedLog>, OpenError> {
    open_with(disk, &config())
}

pub fn open_with(disk: &SimDisk, config: &StorageConfig) -> Result<Arc<EmbeddedLog>, OpenError> {
    EmbeddedLog::open_on(Arc::new(disk.clone()), Clock::default(), Path::new(DIR), config, 100, None)
}

pub fn name(n: u8) -> TopicName {
    TopicName::parse(&format!("topic-{n}")).unwrap()
}

/// Expected contents of a topic.
#[derive(Clone, Debug, Default)]
struct Topic {
    epoch: Option<Epoch>,
    records: Vec<u64>,
    earliest: u64,
    starts: Vec<u64>,
    /// Receipt and payloads that were stored under each request id.
    ids: BTreeMap<u64, (Receipt, Vec<u64>)>,
}

/// An operation whose outcome is unknown after a power cut.
#[derive(Debug)]
enum Unknown {
    Append(u8, Vec<(Vec<u64>, Option<u64>)>),
    Create(u8),
    Delete(u8),
    Trim(u8, u64),
}

struct World {
    rng: fastrand::Rng,
    disk: SimDisk,
    log: Arc<EmbeddedLog>,
    topics: BTreeMap<u8, Topic>,
    payload: u64,
    crashes: u32,
}

impl World {
    async fn step(&mut self) {
        let topic = self.rng.u8(..3);
        let unknown = match self.rng.u8(..40) {
            0 | 1 if !self.topics.contains_key(&topic) => self.create(topic).await,
            0 => self.delete(topic).await,
            1..=3 => self.trim(topic).await,
            4..=6 => {
                let ops = self.rng.u32(..30);
                self.disk.crash_after(ops, self.rng.u64(..));
                None
            }
            7 => {
                self.log.close().await.ok();
                self.reopen(None).await;
                None
            }
            8 => {
                self.check().await;
                None
            }
            9 | 10 => {
                let full = self.rng.u8(..3) == 0;
                self.disk.set_full(full);
                None
            }
            _ => self.append(topic).await,
        };
        if let Some(unknown) = unknown {
            self.crashes += 1;
            self.reopen(Some(unknown)).await;
        }
    }

    async fn create(&mut self, n: u8) -> Option<Unknown> {
        match self.log.create(name(n), Retention::default()).await {
            Ok(topic) => {
                self.topics.insert(n, Topic { epoch: Some(topic.epoch()), ..Topic::default() });
                None
            }
            Err(Error::DiskFull) => None,
            Err(_) => Some(Unknown::Create(n)),
        }
    }

    async fn delete(&mut self, n: u8) -> Option<Unknown> {
        self.topics.contains_key(&n).then_some(())?;
        match self.log.delete(&name(n), None).await {
            Ok(()) => drop(self.topics.remove(&n)),
            Err(Error::DiskFull) => {}
            Err(_) => return Some(Unknown::Delete(n)),
        }
        None
    }

    async fn trim(&mut self, n: u8) -> Option<Unknown> {
        let model = self.topics.get_mut(&n)?;
        let before = self.rng.u64(..=model.records.len() as u64);
        let want = model.starts.iter().rev().find(|start| **start <= before).copied().unwrap_or(0);
        let want = if before == model.records.len() as u64 { before } else { want }.max(model.earliest);
        match self.log.trim(&name(n), None, Offset::new(before)).await {
            Ok(earliest) => {
                assert_eq!(earliest.get(), want);
                model.earliest = want;
                None
            }
            Err(Error::DiskFull) => None,
            Err(error) => {
                assert!(matches!(error, Error::Unavailable { .. } | Error::Closing), "{error:?}");
                Some(Unknown::Trim(n, want))
            }
        }
    }

    fn batches(&mut self, n: u8) -> Vec<(Vec<u64>, Option<u64>)> {
        let known: Vec<(u64, Vec<u64>)> =
            self.topics[&n].ids.iter().map(|(id, (_, payloads))| (*id, payloads.clone())).collect();
        (0..self.rng.usize(1..4))
            .map(|_| {
                let id = match self.rng.u8(..6) {
                    0 if !known.is_empty() => {
                        let (id, payloads) = &known[self.rng.usize(..known.len())];
                        return (payloads.clone(), Some(*id));
                    }
                    1 | 2 => Some(self.rng.u64(..)),
                    _ => None,
                };
                let payloads = (0..self.rng.u64(1..5)).map(|_| {
                    self.payload += 1;
                    self.payload
                });
                (payloads.collect(), id)
            })
            .collect()
    }

    async fn append(&mut self, n: u8) -> Option<Unknown> {
        self.topics.contains_key(&n).then_some(())?;
        let batches = self.batches(n);
        let encoded = batches.iter().map(|(payloads, id)| {
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            // The length is random, but the same for a repeated batch.
            let pad = fastrand::Rng::with_seed(payloads[0]).usize(..2000);
            batch(payloads, pad).with_request_id(&id).unwrap()
        });
        let encoded: Vec<Batch> = encoded.collect();
        let topic = self.log.get(&name(n)).await.unwrap();
        let done = topic.appender().append(encoded, Hold::default()).await;
        let model = self.topics.get_mut(&n).unwrap();
        for ((payloads, id), receipt) in batches.iter().zip(&done.receipts) {
            model.acknowledge(payloads, *id, *receipt);
        }
        match done.failure {
            None => None,
            // All batches are refused, and the log continues.
            Some(Error::DiskFull) => {
                assert!(done.receipts.is_empty());
                None
            }
            Some(error) => {
                assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
                assert!(done.receipts.is_empty());
                Some(Unknown::Append(n, batches))
            }
        }
    }

    /// Opens the remaining files and compares them with the model.
    async fn reopen(&mut self, unknown: Option<Unknown>) {
        // Either the power failed, or only the process ended.
        let image = self.disk.image();
        self.disk = if self.rng.bool() { SimDisk::with(&image) } else { self.disk.survivor() };
        if self.rng.u8(..4) == 0 {
            // The power fails again during recovery.
            self.disk.crash_after(self.rng.u32(..12), self.rng.u64(..));
            drop(open(&self.disk));
            self.disk = SimDisk::with(&self.disk.image());
        }
        // The state after a power cut is not reported as damage.
        let found = super::scan::scan(&self.disk, Path::new(DIR)).unwrap();
        let names: Vec<_> = self.disk.files().into_keys().collect();
        assert!(
            found.damages.is_empty(),
            "{:?} {:?} {names:?}",
            found.damages,
            found.catalog.map(|c| (c.commit, c.journal))
        );
        // The log starts even if the disk is full.
        let full = self.rng.u8(..3) == 0;
        self.disk.set_full(full);
        self.log = open(&self.disk).unwrap_or_else(|error| panic!("full: {full}: {error}"));
        match unknown {
            Some(Unknown::Append(n, batches)) => self.settle_append(n, &batches).await,
            Some(Unknown::Create(n)) => {
                if let Ok(topic) = self.log.get(&name(n)).await {
                    self.topics.insert(n, Topic { epoch: Some(topic.epoch()), ..Topic::default() });
                }
            }
            Some(Unknown::Delete(n)) => {
                let gone = self.log.get(&name(n)).await.is_err();
                self.topics.retain(|topic, _| !gone || *topic != n);
            }
            Some(Unknown::Trim(n, trimmed)) => {
                let earliest = self.log.get(&name(n)).await.unwrap().earliest().get();
                let model = self.topics.get_mut(&n).unwrap();
                model.earliest = if earliest == trimmed { trimmed } else { model.earliest };
            }
            None => {}
        }
        self.check().await;
        assert_eq!(*self.log.health().borrow(), Health::Serving);
    }

    /// P4: of the batches in flight, the log holds a prefix of whole batches.
    async fn settle_append(&mut self, n: u8, batches: &[(Vec<u64>, Option<u64>)]) {
        let topic = self.log.get(&name(n)).await.unwrap();
        let model = self.topics.get_mut(&n).unwrap();
        for (payloads, id) in batches {
            if id.is_some_and(|id| model.ids.contains_key(&id)) {
                continue;
            }
            let (first, end) =
                (model.records.len() as u64, model.records.len() as u64 + payloads.len() as u64);
            if topic.tail().get() < end {
                break;
            }
            let receipt = Receipt { first: Offset::new(first), ..Receipt::default() };
            model.acknowledge(payloads, *id, receipt);
        }
    }

    /// P1, P2: checks that every topic holds exactly what the model does.
    async fn check(&self) {
        for n in 0..3 {
            let found = self.log.get(&name(n)).await;
            let Some(model) = self.topics.get(&n) else {
                assert!(matches!(found, Err(Error::TopicNotFound)));
                continue;
            };
            let topic = found.unwrap();
            assert_eq!(Some(topic.epoch()), model.epoch);
            assert_eq!(topic.earliest().get(), model.earliest);
            let got = read_all(&*topic, topic.earliest()).await.unwrap();
            let want: Vec<(u64, u64)> =
                (model.earliest..).zip(model.records[model.earliest as usize..].iter().copied()).collect();
            assert_eq!(got, want);
        }
    }
}

impl Topic {
    fn acknowledge(&mut self, payloads: &[u64], id: Option<u64>, receipt: Receipt) {
        if let Some((first, _)) = id.and_then(|id| self.ids.get(&id)) {
            // P5: the receipt is the first one again. After a crash its time is not known here.
            assert!(receipt.duplicate);
            assert_eq!(receipt.first, first.first);
            return;
        }
        assert!(!receipt.duplicate);
        assert_eq!(receipt.first.get(), self.records.len() as u64);
        self.starts.push(self.records.len() as u64);
        self.records.extend(payloads);
        id.map(|id| self.ids.insert(id, (receipt, payloads.to_vec())));
    }
}

async fn run(seed: u64, steps: u32) -> u32 {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let rng = fastrand::Rng::with_seed(seed);
    let mut world = World { rng, disk, log, topics: BTreeMap::new(), payload: 0, crashes: 0 };
    for _ in 0..steps {
        world.step().await;
    }
    world.check().await;
    world.crashes
}

/// Number of seeds. `tests/run --soak` runs more.
fn rounds_by_default() -> usize {
    if std::env::var_os("TESTS_SOAK").is_some() { 1500 } else { 40 }
}

/// P1, P2, P4, P5: the log equals the model. `TESTS_SEED` replays one seed.
#[tokio::test]
async fn the_log_is_its_model_across_power_cuts() {
    let one = std::env::var("TESTS_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let rounds = std::env::var("TESTS_ROUNDS").map_or(rounds_by_default(), |rounds| rounds.parse().unwrap());
    let seeds = one.map_or_else(|| (0..rounds).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed]);
    let mut crashes = 0;
    for seed in seeds {
        let outcome = tokio::spawn(run(seed, 400)).await;
        crashes += outcome.unwrap_or_else(|_| panic!("TESTS_SEED={seed} fails"));
    }
    assert!(one.is_some() || crashes > 0);
}

/// Returns the files of a log with segments, several journals and ids, after a clean stop, and the records that it
/// holds.
async fn filled() -> (BTreeMap<PathBuf, Vec<u8>>, Vec<(u64, u64)>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    let mut appender = topic.appender();
    for i in 0..80_u64 {
        let batch = batch(&[i * 2, i * 2 + 1], 700).with_request_id(&i.to_string()).unwrap();
        assert_eq!(appender.append(vec![batch], Hold::default()).await.failure, None);
    }
    let want = read_all(&*topic, Offset::ZERO).await.unwrap();
    log.close().await.unwrap();
    (disk.files(), want)
}

/// P10: whichever bit flips at rest, the log serves what was acknowledged, or reports the damage.
#[tokio::test]
async fn no_flipped_bit_is_served() {
    let (files, want) = filled().await;
    let mut rng = fastrand::Rng::new();
    let (mut refused, mut reported, mut harmless) = (0, 0, 0);
    let holds = |path: &Path| !path.to_string_lossy().contains("reserve-");
    for (path, data) in files.iter().filter(|(path, data)| holds(path) && !data.is_empty()) {
        for _ in 0..150 {
            let (at, bit) = (rng.usize(..data.len()), rng.u8(..8));
            let mut damaged = files.clone();
            damaged.get_mut(path).unwrap()[at] ^= 1 << bit;
            let place = format!("{} byte {at} bit {bit}", path.display());
            let log = match open(&SimDisk::with(&damaged)) {
                Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{place}: {error}"),
                Ok(log) => log,
            };
            let topic = log.get(&name(0)).await.unwrap_or_else(|_| panic!("{place}: topic lost"));
            match read_all(&*topic, Offset::ZERO).await {
                Ok(got) => {
                    assert_eq!(got, want, "{place}");
                    harmless += 1;
                }
                Err(Error::Damaged(_)) => {
                    assert!(matches!(&*log.health().borrow(), Health::Failed(_)), "{place}");
                    reported += 1;
                }
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
    assert!(refused > 50 && reported > 50 && harmless > 50, "{refused} {reported} {harmless}");
}

/// P10: a file that is truncated or missing is reported, and a torn last commit is dropped.
#[tokio::test]
async fn missing_and_shortened_files_are_reported() {
    let (files, _) = filled().await;
    for path in files.keys().filter(|path| !path.ends_with("lock")) {
        let text = path.to_string_lossy().into_owned();
        if text.contains("spare") || text.contains("reserve-") || text.ends_with(".tmp") {
            continue;
        }
        let mut missing = files.clone();
        missing.remove(path);
        assert!(matches!(open(&SimDisk::with(&missing)), Err(OpenError::Damaged { .. })), "without {text}");
        let mut short = files.clone();
        short.get_mut(path).unwrap().truncate(100);
        assert!(matches!(open(&SimDisk::with(&short)), Err(OpenError::Damaged { .. })), "short {text}");
    }
}

/// P1, P9: on a full disk the log refuses a batch before anything of it is written, and continues once there is space.
#[tokio::test]
async fn a_full_disk_is_refused_and_recovers() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    disk.set_full(true);
    let (mut stored, mut refused) = (Vec::new(), 0);
    for i in 0..200 {
        let done = topic.appender().append(vec![batch(&[i], 1000)], Hold::default()).await;
        match done.failure {
            None => stored.push(i),
            Some(Error::DiskFull) => refused += 1,
            Some(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && !stored.is_empty());
    assert_eq!(*log.health().borrow(), Health::Serving);
    disk.set_full(false);
    for i in 200..300 {
        assert_eq!(topic.appender().append(vec![batch(&[i], 1000)], Hold::default()).await.failure, None);
        stored.push(i);
    }
    let want: Vec<(u64, u64)> = (0..).zip(stored).collect();
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
    drop((topic, log));
    let log = open(&SimDisk::with(&disk.files())).unwrap();
    let topic = log.get(&name(0)).await.unwrap();
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), want);
}

/// P1: after a failed sync nothing is acknowledged any more, and reads continue.
#[tokio::test]
async fn a_failed_sync_ends_writing_for_good() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    assert_eq!(topic.appender().append(vec![batch(&[1], 10)], Hold::default()).await.failure, None);
    disk.fail_syncs();
    for _ in 0..3 {
        let failure = topic.appender().append(vec![batch(&[2], 10)], Hold::default()).await.failure;
        assert!(matches!(failure, Some(Error::Unavailable { .. })));
    }
    assert!(matches!(&*log.health().borrow(), Health::Failed(_)));
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap(), [(0, 1)]);
    assert!(log.close().await.is_err());
}

/// Trimmed or deleted records leave no file behind that no catalog names.
#[tokio::test]
async fn no_segment_is_left_behind() {
    let disk = SimDisk::default();
    // The records of a journal fill several segments.
    let log = open_with(&disk, &StorageConfig { journal_bytes: 512 << 10, ..config() }).unwrap();
    for round in 0..6_u64 {
        let topic = log.create(name(0), Retention::default()).await.unwrap();
        for i in 0..120 {
            topic.appender().append(vec![batch(&[i, i], 1500)], Hold::default()).await;
            // Every checkpoint ends before the next one starts.
            while disk.files().keys().filter(|path| path.to_string_lossy().contains("journal-")).count() > 1 {
                tokio::task::yield_now().await;
            }
            if i % 40 == 39 {
                log.trim(&name(0), None, topic.tail()).await.unwrap();
            }
        }
        if round < 5 {
            log.delete(&name(0), None).await.unwrap();
        }
    }
    log.close().await.unwrap();
    let files = disk.files();
    let catalog = Catalog::read(&disk, Path::new(DIR)).unwrap().unwrap();
    let named = catalog.topics.iter().map(|topic| topic.segments.len()).sum::<usize>();
    let there = files.keys().filter(|path| path.starts_with("/log/segments")).count();
    assert_eq!(there, named);
}

/// P9: an operator can trim and delete while the disk is full.
#[tokio::test]
async fn a_full_disk_takes_trims_and_deletions() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    for n in 0..2 {
        log.create(name(n), Retention::default()).await.unwrap();
    }
    disk.set_full(true);
    let topic = log.get(&name(0)).await.unwrap();
    while topic.appender().append(vec![batch(&[7], 1000)], Hold::default()).await.failure.is_none() {}
    let tail = topic.tail();
    assert_eq!(log.trim(&name(0), None, tail).await.unwrap(), tail);
    log.delete(&name(1), None).await.unwrap();
    drop((topic, log));
    disk.set_full(false);
    let log = open(&SimDisk::with(&disk.files())).unwrap();
    assert_eq!(log.get(&name(0)).await.unwrap().earliest(), tail);
    assert!(log.get(&name(1)).await.is_err());
}

/// P10: after a trim while a checkpoint waits for space, the catalog names everything that it should. The trim releases
/// files that the checkpoint had planned to keep. The model test found this once it filled up disks.
#[tokio::test]
async fn a_trim_while_a_checkpoint_waits_for_space_does_not_look_like_damage() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    let append = async |i| topic.appender().append(vec![batch(&[i, i], 1500)], Hold::default()).await.failure;
    let journals = |disk: &SimDisk| {
        disk.files().keys().filter(|path| path.to_string_lossy().contains("journal-")).count()
    };
    let settled = async || {
        while journals(&disk) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    // This makes several segments, and a spare journal that the next rotation uses although the disk is full.
    for i in 0..40 {
        assert_eq!(append(i).await, None);
        settled().await;
    }
    disk.set_full(true);
    while append(7).await.is_none() {}
    assert!(journals(&disk) > 1, "a checkpoint waits");
    log.trim(&name(0), None, topic.tail()).await.unwrap();
    // A waiting checkpoint checks each second what it can release, which cannot be observed from outside.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    disk.set_full(false);
    settled().await;
    let found = super::scan::scan(&disk.survivor(), Path::new(DIR)).unwrap();
    assert!(found.damages.is_empty(), "{:?}", found.damages);
}
