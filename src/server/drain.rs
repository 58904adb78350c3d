//! The shutdown, which takes at most `drain_timeout` whatever clients do.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::error::Error;
use super::supervisor::Server;
use crate::storage::{Health, Log, OpenError};
use crate::telemetry::{METRICS, State};

/// Time that aborted connections, and those of the admin port, have to end.
const ABORT_GRACE: Duration = Duration::from_millis(100);

/// Longest time before the abort in which calls that wait for an unresponsive storage are answered. Half of the calls'
/// time where that is less.
const STORAGE_ANSWER_MAX: Duration = Duration::from_secs(2);

/// A log that is being opened.
type Opening = JoinHandle<Result<Arc<dyn Log>, OpenError>>;

impl Server {
    /// Turns readiness off, waits for the drain delay, sends GOAWAY, notices and acknowledgements, aborts what is left, and
    /// closes the log.
    pub(super) async fn drain(&self, log: Option<Arc<dyn Log>>) -> Result<(), Error> {
        let budget = self.config.drain_timeout;
        let began = Instant::now();
        let (deadline, abort_at) = (began + budget, began + budget - self.config.close_reserve());
        self.readiness.drain();
        METRICS.life.enter(State::Draining);
        info!(budget_ms = budget.as_millis() as u64, "draining");
        if log.is_some() {
            // However long the delay is, calls keep a part of the budget to end.
            let delay = self.config.drain_delay.min(self.config.drain_delay_max());
            tokio::time::sleep_until(began + delay).await;
        }

        METRICS.life.enter(State::LameDuck);
        self.topics.drain();
        self.readiness.end_watches();
        self.limiter.go_away();
        let left = abort_at.saturating_duration_since(Instant::now());
        if timeout_at(abort_at - STORAGE_ANSWER_MAX.min(left / 2), self.limiter.tasks.wait()).await.is_err() {
            self.topics.hurry();
        }
        if timeout_at(abort_at, self.limiter.tasks.wait()).await.is_err() {
            warn!(connections = self.limiter.connections(), "drain deadline: cutting connections off");
            METRICS.life.enter(State::Aborting);
            self.limiter.abort.cancel();
            let _ = tokio::time::timeout(ABORT_GRACE, self.limiter.tasks.wait()).await;
        }

        METRICS.life.enter(State::Closing);
        // Every call has ended, and with it every member.
        let _ = timeout_at(deadline, self.groups.close()).await;
        let closed = match &log {
            Some(log) => close(&**log, deadline).await,
            None => Ok(()),
        };
        self.admin_limiter.go_away();
        let _ = tokio::time::timeout(ABORT_GRACE, self.admin_limiter.tasks.wait()).await;
        self.admin_limiter.abort.cancel();
        info!("drained");
        closed
    }

    /// The shutdown was asked for while the log recovers: nothing was served, nothing ever will be.
    /// A recovery that does not end in time is left as a crash would leave it; one that waits for
    /// others has ended by itself.
    pub(super) async fn abandon(&self, opening: Opening) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.drain_timeout;
        self.drain(None).await?;
        match timeout_at(deadline, opening).await {
            Ok(opened) => match opened? {
                Ok(log) => close(&*log, deadline).await,
                Err(OpenError::Stopped) => Ok(()),
                Err(error) => Err(Error::Open(error)),
            },
            Err(_) => {
                warn!("recovery is cut off; the next start begins it anew");
                Ok(())
            }
        }
    }
}

async fn close(log: &dyn Log, deadline: Instant) -> Result<(), Error> {
    let failed = match &*log.health().borrow() {
        Health::Failed(reason) => Some(Arc::clone(reason)),
        Health::Serving | Health::Full(_) | Health::Unavailable(_) | Health::Closed => None,
    };
    let closed = timeout_at(deadline, log.close()).await;
    match (failed, closed) {
        (Some(reason), _) => Err(Error::Storage(reason)),
        (None, Ok(closed)) => closed.map_err(Error::Close),
        (None, Err(_)) => Err(Error::CloseTimeout),
    }
}
