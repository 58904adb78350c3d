//! Compares the embedded log with a plain model. Power cuts, restarts, full disks, failed syncs and flipped bits occur
//! among the operations. A failure prints its seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
