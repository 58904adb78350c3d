//! The embedded log as a whole, on a real directory: the contract, with files small enough that the
//! cases go through journal rotations and segments.

use std::sync::Arc;

use super::EmbeddedLog;
use crate::config::StorageConfig;
use crate::storage::Log;
use crate::storage::conformance::{Engine, conformance_tests};
pub use crate::storage::conformance::{batch, read_all};

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
