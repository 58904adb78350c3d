//! Metrics that must be sampled: the topics, the disk and the lag of subscriptions every few seconds, and the bytes in
//! flight before every collection. A slow engine makes these numbers old, and never delays a scrape.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::debug;

use super::health::Readiness;
use crate::config::Config;
use crate::storage::Log;
use crate::telemetry::{METRICS, TopicStats};
use crate::topic::Topics;

/// Interval of the samples, which the metrics' descriptions name.
const INTERVAL: Duration = Duration::from_secs(5);

/// Sets up the metrics that are sampled before every collection.
pub(super) fn before_collecting(config: &Config, topics: &Topics, readiness: &Readiness) {
    METRICS.topics.limit(config.named_topics_max());
    let (topics, readiness) = (topics.clone(), readiness.clone());
    let runtime = tokio::runtime::Handle::current();
    METRICS.before_collecting(move || {
        METRICS.tasks.set(runtime.metrics().num_alive_tasks() as u64);
        METRICS.publish.inflight.set(topics.inflight_bytes() as u64);
        METRICS.life.ready.set(u64::from(readiness.is_ready()));
    });
}

/// Starts the task that samples at intervals.
pub(super) fn spawn(config: &Config, log: Arc<dyn Log>) -> JoinHandle<()> {
    let dir = config.data_dir.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            disk(&dir);
            METRICS.readers.sample();
            topics(&*log).await;
        }
    })
}

fn disk(dir: &Path) {
    let Ok(found) = rustix::fs::statvfs(dir) else { return };
    METRICS.storage.disk_free.set(found.f_bavail.saturating_mul(found.f_frsize));
    METRICS.storage.disk_size.set(found.f_blocks.saturating_mul(found.f_frsize));
}

async fn topics(log: &dyn Log) {
    let all = match log.sample().await {
        Ok(all) => all,
        Err(error) => return debug!(%error, "topics cannot be listed"),
    };
    METRICS.topics_count.set(all.len() as u64);
    METRICS.topics.update(all.iter().map(|info| TopicStats {
        name: info.name.as_str(),
        stored_bytes: info.stored_bytes,
        tail: info.tail.get(),
        earliest: info.earliest.get(),
    }));
}
