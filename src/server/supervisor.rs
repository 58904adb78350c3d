//! The task that supervises the server: recovery, the storage's health, and the shutdown.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::error::Error;
use super::health::Readiness;
use super::listener::ConnectionLimiter;
use super::sample;
use crate::config::Config;
use crate::group::Groups;
use crate::storage::{self, Log, OpenError};
use crate::telemetry::{METRICS, State};
use crate::topic::Topics;

/// Function that opens the log; it blocks.
pub(super) type Opener = Box<dyn FnOnce(&Config) -> Result<Arc<dyn Log>, OpenError> + Send>;

/// Server from its recovery to its end.
pub(super) struct Server {
    pub(super) config: Config,
    pub(super) topics: Topics,
    pub(super) groups: Groups,
    pub(super) readiness: Readiness,
    pub(super) limiter: ConnectionLimiter,
    pub(super) admin_limiter: ConnectionLimiter,
    pub(super) shutdown: CancellationToken,
}

impl Server {
    /// Opens the log, serves, and drains on shutdown.
    pub(super) async fn supervise(self, open: Opener) -> Result<(), Error> {
        METRICS.life.enter(State::Starting);
        sample::before_collecting(&self.config, &self.topics, &self.readiness);
        let began = Instant::now();
        let config = self.config.clone();
        let mut opening = tokio::task::spawn_blocking(move || open(&config));
        let opened = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return self.abandon(opening).await,
            opened = &mut opening => opened?,
        };
        let log = match opened {
            Ok(log) => log,
            Err(error) => {
                self.drain(None).await?;
                return Err(Error::Open(error));
            }
        };
        self.topics.open(Arc::clone(&log));
        self.groups.open(Arc::clone(&log));
        METRICS.storage.recovery_us.set(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.readiness.serve();
        METRICS.life.enter(State::Serving);
        let sampling = [
            sample::spawn(&self.config, Arc::clone(&log)),
            sample::spawn_groups(&self.config, self.groups.clone()),
        ];
        info!("serving");
        let mut health = log.health();
        loop {
            let is_full = matches!(&*health.borrow(), storage::Health::Full(_));
            self.readiness.storage_is_full(is_full);
            // The engine has logged why.
            let serves = match &*health.borrow_and_update() {
                storage::Health::Serving => Some((true, None)),
                // Whoever reads, trims or deletes is served; publishes are told why they are not.
                storage::Health::Full(reason) => Some((true, Some(reason.to_string()))),
                storage::Health::Unavailable(reason) | storage::Health::Failed(reason) => {
                    Some((false, Some(reason.to_string())))
                }
                storage::Health::Closed => None,
            };
            if let Some((serves, reason)) = serves {
                self.readiness.reason().set(reason);
                self.readiness.set_storage_serves(serves);
                METRICS.storage.failed.set(u64::from(!serves));
            }
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                changed = health.changed() => if changed.is_err() {
                    self.shutdown.cancelled().await;
                    break;
                },
            }
        }
        let drained = self.drain(Some(log)).await;
        sampling.iter().for_each(JoinHandle::abort);
        drained
    }
}
