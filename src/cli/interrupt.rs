//! Ctrl-C and SIGTERM of a client command: the first signal asks the command to end, a second one ends the process.

use std::process;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::INTERRUPTED;

/// Time that a command has to end and to flush its output after the first signal.
const GRACE: Duration = Duration::from_secs(2);

/// Time after a signal in which others are part of the same request: `timeout` signals a process and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Ctrl-C and SIGTERM.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

impl Signals {
    /// Starts to watch for the signals, which no longer end the process by themselves.
    pub(super) fn watch() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, last: None })
    }

    /// Waits for the next signal, which is not part of the same request as the last.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if self.last.is_none_or(|last| last.elapsed() >= SAME_REQUEST) {
                self.last = Some(Instant::now());
                return;
            }
        }
    }
}

/// A token that the first signal cancels. The process exits with [`INTERRUPTED`] after a grace period, or at the second
/// signal, even if the command is blocked.
pub(super) fn on_signals() -> std::io::Result<CancellationToken> {
    let mut signals = Signals::watch()?;
    let token = CancellationToken::new();
    let first = token.clone();
    // This runs on the worker thread, as the main thread may block.
    tokio::spawn(async move {
        signals.next().await;
        first.cancel();
        let _ = tokio::time::timeout(GRACE, signals.next()).await;
        process::exit(INTERRUPTED.into());
    });
    Ok(token)
}
