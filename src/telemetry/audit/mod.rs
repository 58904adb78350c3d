//! The audit log: who changed what, and who was refused. Each change is one line of the log, with the target
//! [`TARGET`], written by a thread of its own after the effect is durable. Recording never waits: what finds the
//! queue full is dropped and counted. Attempts that changed nothing are summed up, so that a flood of them is a line
//! a second. Without [`start`] nothing is recorded.

mod attempts;
mod change;
mod escape;
mod writer;

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::Context;

use self::attempts::Shared;
use self::writer::{Message, Writer};
use super::metrics::METRICS;

pub use self::attempts::Attempt;
pub use self::change::{Actor, Change, Outcome, TARGET};
pub use self::escape::escaped;

/// Maximum records that wait to be written: some seconds' worth of the fastest changes, and a few MiB.
const QUEUE_MAX: usize = 4096;
/// Interval at which [`flush`] tries again while the queue is full.
const FLUSH_RETRY: Duration = Duration::from_millis(5);

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// Starts the thread that writes.
///
/// # Errors
/// The system has no thread.
pub fn start() -> io::Result<()> {
    let (queue, changes) = sync_channel(QUEUE_MAX);
    let shared = Arc::new(Shared::default());
    if LOG.set(Log { queue, shared: Arc::clone(&shared) }).is_ok() {
        let writer = Writer::new(changes, shared);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
    }
    Ok(())
}

/// Records a change, with the trace that the caller is in. A change that failed without effect counts as an attempt.
pub fn record(change: Change) {
    let Some(log) = LOG.get() else { return };
    if change.outcome == Outcome::Failed {
        let error = change.error.unwrap_or_default();
        let what = format!("{} {}: {error}", change.action, change.resource);
        return attempted(Attempt::Failed, &change.actor, &what);
    }
    log.send(Message::Change(Box::new(change), Context::current()));
}

/// Records an attempt that changed nothing.
pub fn attempted(kind: Attempt, actor: &Actor, what: &str) {
    let Some(log) = LOG.get() else { return };
    if log.shared.add(kind, actor, escaped(what)) {
        // If the queue is full, the writer is awake and finds the attempts.
        let _ = log.queue.try_send(Message::Wake);
    }
}

/// Waits until what was recorded is written, but not for longer than `patience`.
pub fn flush(patience: Duration) {
    let Some(log) = LOG.get() else { return };
    let deadline = Instant::now() + patience;
    let (written, wait) = sync_channel(1);
    let mut message = Message::Flush(written);
    while let Err(TrySendError::Full(unsent)) = log.queue.try_send(message) {
        if Instant::now() >= deadline {
            return;
        }
        message = unsent;
        std::thread::sleep(FLUSH_RETRY);
    }
    let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

impl Log {
    fn send(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            METRICS.audit.dropped.inc();
        }
    }
}
