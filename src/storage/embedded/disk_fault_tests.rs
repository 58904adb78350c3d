//! Tests of single faults of the disk: flipped bits, missing and shortened files, a full disk, a failed sync, and
//! segments that nothing needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::catalog::Catalog;
use super::crash_tests::{DIR, config, name, open, open_with};
use super::disk::sim::SimDisk;
use super::tests::{batch, read_all};
use crate::config::StorageConfig;
use crate::record::Offset;
use crate::storage::{Error, Health, Hold, Log, Retention};

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
