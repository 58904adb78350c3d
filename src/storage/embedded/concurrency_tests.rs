//! Tests of threads of the log that wait for the disk or end, and of what others observe meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EmbeddedLog;
use super::crash_tests::{config, name, open, open_with};
use super::disk::sim::SimDisk;
use super::segment;
use super::tests::batch;
use crate::config::StorageConfig;
use crate::record::Offset;
use crate::storage::{Error, Health, Hold, Log, Retention, Stored};

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Makes a log with a topic of several segments. Only the records of the journal are in memory. Returns the first
/// offsets of the segments too.
async fn on_disk() -> (SimDisk, Arc<EmbeddedLog>, Vec<Offset>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let topic = log.create(name(0), Retention::default()).await.unwrap();
    for i in 0..120 {
        let done = topic.appender().append(vec![batch(&[i], 900)], Hold::default()).await;
        assert_eq!(done.failure, None);
    }
    let held = log.registry.get(&name(0)).unwrap();
    until("segments", || held.segments.load().len() > 2).await;
    held.state.cache.evict(held.segments.load().last().unwrap().end);
    let bases = held.segments.load().iter().map(|segment| segment.base).collect();
    (disk, log, bases)
}

/// P6: a reader that waits for a slow disk to open a file does not delay readers of files that are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_a_file_holds_up_no_reader_of_another() {
    let (disk, log, bases) = on_disk().await;
    let topic = log.get(&name(0)).await.unwrap();
    topic.read(bases[0], 1).await.unwrap();
    let slow = segment::path(std::path::Path::new(super::crash_tests::DIR), 1, bases[1]);
    disk.hold(Some(&slow));
    let (other, at) = (log.get(&name(0)).await.unwrap(), bases[1]);
    let waits = tokio::spawn(async move { other.read(at, 1).await });
    until("the open that waits", || disk.waiting() == 1).await;
    let read = tokio::time::timeout(Duration::from_secs(60), topic.read(bases[0], 1)).await;
    disk.hold(None);
    assert_eq!(read.expect("it is held up").unwrap().first, bases[0]);
    assert_eq!(waits.await.unwrap().unwrap().first, at);
}

/// A file that is removed while it is being opened is not kept open, because its space would not be released.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_removed_while_it_is_opened_is_not_kept_open() {
    let (disk, log, bases) = on_disk().await;
    let topic = log.get(&name(0)).await.unwrap();
    let path = segment::path(std::path::Path::new(super::crash_tests::DIR), 1, bases[0]);
    disk.hold(Some(&path));
    let (other, at) = (log.get(&name(0)).await.unwrap(), bases[0]);
    let waits = tokio::spawn(async move { other.read(at, 1).await });
    until("the open that waits", || disk.waiting() == 1).await;
    log.trim(&name(0), None, topic.tail()).await.unwrap();
    let _ = log.queue.push(super::queue::Op::Rotate);
    until("the end of the file", || !disk.files().contains_key(&path)).await;
    disk.hold(None);
    let _ = waits.await.unwrap();
    assert!(!log.files.is_open(1, bases[0]));
}

/// True if the newest commit of the journal is empty. docs/format.md describes the bytes.
fn is_sealed(disk: &SimDisk) -> bool {
    let files = disk.files();
    let journal =
        files.iter().find(|(path, _)| path.to_string_lossy().contains("journal-")).expect("a journal").1;
    let newest = journal.chunks(4096).rfind(|page| page.starts_with(b"SWGP"));
    newest.is_some_and(|commit| commit[28..32] == [0; 4])
}

/// P7: if the committer ends after a write, the error does not claim that nothing was stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committer_that_panics_after_a_write_leaves_it_open_what_is_stored() {
    let unknown = |error: &Error| matches!(error, Error::Unavailable { stored: Stored::Unknown, .. });
    for n in 0..4 {
        let disk = SimDisk::default();
        // The journal has room, so the next sync belongs to the operation below.
        let log = open_with(&disk, &StorageConfig { journal_bytes: 1 << 20, ..config() }).unwrap();
        let topic = log.create(name(0), Retention::default()).await.unwrap();
        let mut appender = topic.appender();
        assert_eq!(appender.append(vec![batch(&[1, 2], 10)], Hold::default()).await.failure, None);
        // Once the seal is written, the next sync is that of the operation.
        until("the seal", || is_sealed(&disk)).await;
        disk.panic_after_sync();
        let error = match n {
            0 => log.create(name(1), Retention::default()).await.map(|_| ()).unwrap_err(),
            1 => log.delete(&name(0), None).await.unwrap_err(),
            2 => log.trim(&name(0), None, topic.tail()).await.map(|_| ()).unwrap_err(),
            _ => appender.append(vec![batch(&[3], 10)], Hold::default()).await.failure.unwrap(),
        };
        assert!(unknown(&error), "{n}: {error:?}");
        until("the failure", || matches!(&*log.health().borrow(), Health::Failed(_))).await;
        let later = appender.append(vec![batch(&[4], 10)], Hold::default()).await.failure;
        assert_eq!(later, Some(Error::Closing), "nothing is taken any more");
        let log = open(&disk.survivor()).unwrap();
        match (n, log.get(&name(0)).await) {
            (1, found) => assert!(found.is_err(), "it was stored"),
            (0, _) => assert!(log.get(&name(1)).await.is_ok(), "it was stored"),
            (2, found) => assert_eq!(found.unwrap().earliest(), Offset::new(2), "it was stored"),
            (_, found) => assert_eq!(found.unwrap().tail(), Offset::new(3), "it was stored"),
        }
    }
}
