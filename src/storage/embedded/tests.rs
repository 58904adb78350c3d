//! The embedded log as a whole, on a real directory: the contract, with files small enough that the
//! cases go through journal rotations and segments.

use std::sync::Arc;

use super::{EmbeddedLog, check};
use crate::config::StorageConfig;
use crate::record::Scope;
use crate::storage::conformance::{Engine, conformance_tests, name};
pub use crate::storage::conformance::{batch, read_all};
use crate::storage::{Hold, Log, Retention};

fn small() -> StorageConfig {
    StorageConfig {
        journal_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        cache_bytes: 1 << 20,
        ..StorageConfig::default()
    }
}

async fn embedded() -> (Engine, Arc<tempfile::TempDir>) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path().to_owned();
    let open = move || EmbeddedLog::open(&path, &small(), 100).unwrap() as Arc<dyn Log>;
    (Engine::new(move || Box::pin(std::future::ready(open()))), dir)
}

conformance_tests!(embedded());

/// P5: a principal that floods the window does not make the log forget another's ids, across a restart
/// either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_ids_leaves_others_theirs_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig { request_ids_max: 100, journal_bytes: 32 << 10, ..small() };
    let open = || EmbeddedLog::open(dir.path(), &config, 100).unwrap();
    let put = async |log: &EmbeddedLog, scope: u8, id: u64| {
        let topic = log.get(&name("t")).await.unwrap();
        let batch = batch(&[id], 500).with_request_id(&id.to_string()).unwrap();
        let batch = batch.within(Scope::new([scope; 16]));
        let done = topic.appender().append(vec![batch], Hold::default()).await;
        assert_eq!(done.failure, None);
        done.receipts[0].duplicate
    };
    let log = open();
    log.create(name("t"), Retention::default()).await.unwrap();
    for id in 0..10 {
        assert!(!put(&log, 1, id).await);
    }
    for id in 0..250 {
        assert!(!put(&log, 2, id).await);
    }
    log.close().await.unwrap();
    drop(log);
    let log = open();
    for id in 0..10 {
        assert!(put(&log, 1, id).await, "{id} of the quiet one is known");
    }
    for id in 170..250 {
        assert!(put(&log, 2, id).await, "{id} is one of its newest");
    }
    assert!(!put(&log, 2, 0).await, "beyond its share");
}

/// A pipe has no end to read to: whoever opens one waits for somebody who writes.
#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_refused_and_nothing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    EmbeddedLog::open(dir.path(), &small(), 100).unwrap().close().await.unwrap();
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in files.iter().filter(|path| path.is_file()) {
        let aside = dir.path().join("segments/aside");
        std::fs::rename(file, &aside).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
        let checked = check::check(dir.path()).map(|report| report.damages);
        let is_needed = !file.to_string_lossy().contains("reserve-");
        assert_eq!(checked.map_or(true, |damages| !damages.is_empty()), is_needed, "{}", file.display());
        if file.ends_with("catalog") || file.ends_with("lock") {
            let refused = EmbeddedLog::open(dir.path(), &small(), 100).map(drop).unwrap_err().to_string();
            assert!(refused.contains("not a regular file"), "{refused}");
        }
        std::fs::remove_file(file).unwrap();
        std::fs::rename(&aside, file).unwrap();
    }
    assert!(files.contains(&dir.path().join("catalog")) && files.contains(&dir.path().join("lock")));
}

/// An operator who names the wrong directory must not be told that all is well.
#[tokio::test]
async fn a_directory_without_data_is_not_called_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no data").unwrap();
    let refused = [
        check::check(dir.path()).map(drop).unwrap_err().to_string(),
        check::repair(dir.path()).map(drop).unwrap_err().to_string(),
    ];
    for refused in refused {
        assert!(
            refused.contains("is not a data directory: it has neither a catalog nor a journal"),
            "{refused}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
    EmbeddedLog::open(dir.path(), &small(), 100).unwrap().close().await.unwrap();
    assert!(check::check(dir.path()).unwrap().damages.is_empty());
}
