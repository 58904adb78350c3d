//! The shutdown, bounded by `drain_timeout` whatever clients do.
//! Never: waits for a peer without a deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{Error, Server};
use crate::storage::{Health, Log};

/// At most this much of the budget is kept for closing the log.
const CLOSE_RESERVE_MAX: Duration = Duration::from_secs(2);
/// How long connections that were aborted, and those of the admin port, get to end.
const ABORT_GRACE: Duration = Duration::from_millis(100);

impl Server {
    /// Readiness off → drain delay → GOAWAY, notices, acknowledgements → abort → close the log.
    pub(super) async fn drain(&self, log: Option<Arc<dyn Log>>) -> Result<(), Error> {
        let budget = self.config.drain_timeout;
        let deadline = Instant::now() + budget;
        let abort_at = deadline - CLOSE_RESERVE_MAX.min(budget / 4);
        self.board.drain();
        info!(budget_ms = budget.as_millis() as u64, "draining");
        if log.is_some() {
            let delayed = Instant::now() + self.config.drain_delay;
            tokio::time::sleep_until(delayed.min(abort_at)).await;
        }

        self.topics.drain();
        self.board.end_watches();
        self.gate.go_away();
        if timeout_at(abort_at, self.gate.tasks.wait()).await.is_err() {
            warn!(connections = self.gate.connections(), "drain deadline: cutting connections off");
            self.gate.abort.cancel();
            let _ = tokio::time::timeout(ABORT_GRACE, self.gate.tasks.wait()).await;
        }

        let closed = match &log {
            Some(log) => close(&**log, deadline).await,
            None => Ok(()),
        };
        self.admin_gate.go_away();
        let _ = tokio::time::timeout(ABORT_GRACE, self.admin_gate.tasks.wait()).await;
        self.admin_gate.abort.cancel();
        info!("drained");
        closed
    }
}

async fn close(log: &dyn Log, deadline: Instant) -> Result<(), Error> {
    let failed = match &*log.health().borrow() {
        Health::Failed(reason) => Some(Arc::clone(reason)),
        Health::Serving | Health::Closed => None,
    };
    let closed = timeout_at(deadline, log.close()).await;
    match (failed, closed) {
        (Some(reason), _) => Err(Error::Storage(reason)),
        (None, Ok(closed)) => closed.map_err(Error::Close),
        (None, Err(_)) => Err(Error::CloseTimeout),
    }
}
