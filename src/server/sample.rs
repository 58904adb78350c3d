//! Metrics that must be sampled: the topics, the disk and the lag of subscriptions every few seconds, and the bytes in
//! flight before every collection. A slow engine makes these numbers old, and never delays a scrape.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use super::health::Readiness;
use crate::config::Config;
use crate::group::Groups;
use crate::storage::Log;
use crate::telemetry::{GroupLag, METRICS, TopicStats};
use crate::topic::Topics;

/// Interval of the samples, which the metrics' descriptions name.
const INTERVAL: Duration = Duration::from_secs(5);

/// Groups sampled before other tasks run.
const GROUPS_STRIDE: usize = 256;

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

/// Starts the task that samples groups, which may wait for an owner that was lost.
pub(super) fn spawn_groups(config: &Config, groups: Groups) -> JoinHandle<()> {
    let names_topics = config.named_topics_max() > 0;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            sample_groups(&groups, names_topics).await;
        }
    })
}

fn disk(dir: &Path) {
    let Ok(found) = rustix::fs::statvfs(dir) else { return };
    METRICS.storage.disk_free.set(found.f_bavail.saturating_mul(found.f_frsize));
    METRICS.storage.disk_size.set(found.f_blocks.saturating_mul(found.f_frsize));
}

/// Samples the groups: their number, and how far those of each topic that has a label are behind.
async fn sample_groups(groups: &Groups, names_topics: bool) {
    let (mut count, mut after, mut worst) = (0, None, BTreeMap::<Arc<str>, GroupLag>::new());
    loop {
        let page = match groups.sample(after, GROUPS_STRIDE).await {
            Ok(page) => page,
            Err(error) => return debug!(%error, "groups cannot be listed"),
        };
        count += page.len() as u64;
        for info in page.iter().filter(|_| names_topics) {
            let status = &info.status;
            let lag = GroupLag {
                records: status.lag.records,
                age: status.lag.age.unwrap_or_default(),
                blocked_keys: status.blocked_keys,
                stalled: u64::from(status.is_at_lookahead_max),
            };
            let label = METRICS.topics.of(info.topic.as_str());
            let known = worst.entry(label.name.to_string().into()).or_default();
            *known = known.and(lag);
        }
        after = page.last().map(|last| (last.topic.clone(), last.name.clone()));
        if page.len() < GROUPS_STRIDE {
            break;
        }
        tokio::task::yield_now().await;
    }
    METRICS.groups.count.set(count);
    METRICS.groups.update(worst);
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
