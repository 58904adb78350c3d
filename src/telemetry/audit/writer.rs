//! The thread that writes the audit log. Only it waits for standard error.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use tracing::{info, warn};

use super::attempts::{Attempt, Shared};
use super::change::{Change, Outcome, TARGET};
use super::escape::escaped;
use crate::telemetry::metrics::METRICS;

/// Shortest time between two lines of attempts, and between two of dropped records.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

/// Message to the writer.
pub(super) enum Message {
    /// A change, and the trace that it belongs to.
    Change(Box<Change>, Context),
    /// There are attempts.
    Wake,
    /// The sender waits until all before this is written.
    Flush(SyncSender<()>),
}

pub(super) struct Writer {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    /// Time of the last line of attempts or of dropped records.
    summarised: Option<Instant>,
    /// Dropped records that were told.
    dropped: u64,
}

impl Writer {
    pub(super) const fn new(messages: Receiver<Message>, shared: Arc<Shared>) -> Self {
        Self { messages, shared, summarised: None, dropped: 0 }
    }

    pub(super) fn run(mut self) {
        loop {
            let message = match self.summary_due() {
                None => self.messages.recv().map_err(RecvTimeoutError::from),
                Some(due) => self.messages.recv_timeout(due),
            };
            match message {
                Ok(Message::Change(change, context)) => write(&change, context),
                Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Flush(written)) => {
                    self.summarise();
                    let _ = written.send(());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.summary_due().is_some_and(|due| due.is_zero()) {
                self.summarise();
            }
        }
    }

    /// Returns the time until the next summary; none if there is nothing to sum up.
    fn summary_due(&self) -> Option<Duration> {
        let is_due = self.shared.any() || METRICS.audit.dropped.get() > self.dropped;
        is_due.then(|| {
            self.summarised.map_or(Duration::ZERO, |last| SUMMARY_INTERVAL.saturating_sub(last.elapsed()))
        })
    }

    fn summarise(&mut self) {
        self.summarised = Some(Instant::now());
        let sums = self.shared.take();
        for (kind, sum) in Attempt::ALL.into_iter().zip(sums).filter(|(_, sum)| sum.count > 0) {
            let (outcome, count, examples) = (kind.outcome(), sum.count, sum.examples());
            METRICS.audit.records.inc();
            info!(target: TARGET, action = "attempt", outcome, count, examples, "audit");
        }
        let dropped = METRICS.audit.dropped.get();
        let lost = dropped.saturating_sub(std::mem::replace(&mut self.dropped, dropped));
        if lost > 0 {
            warn!(target: TARGET, lost, "audit records were dropped, as the log does not keep up");
        }
    }
}

fn write(change: &Change, context: Context) {
    let Change { actor, action, resource, before, after, outcome, error } = change;
    let outcome = match outcome {
        Outcome::Done => "done",
        Outcome::Unknown => "unknown",
        Outcome::Failed => "failed",
    };
    let _in_trace = context.attach();
    METRICS.audit.records.inc();
    info!(
        target: TARGET,
        action,
        outcome,
        principal = escaped(&actor.principal),
        peer = actor.peer.map(tracing::field::display),
        method = (!actor.method.is_empty()).then_some(actor.method),
        request_id = actor.request_id.as_deref().map(escaped),
        resource = escaped(resource),
        before,
        after,
        error = error.as_deref().map(escaped),
        "audit"
    );
}
