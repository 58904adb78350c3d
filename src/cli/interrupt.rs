//! Ctrl-C and SIGTERM of a client command: the first signal asks the command to end, a second one ends the process.

use std::process;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::INTERRUPTED;

/// Time that a command has to end and to flush its output after the first signal.
const GRACE: Duration = Duration::from_secs(2);

/// Ctrl-C and SIGTERM.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to watch for the signals, which no longer end the process by themselves.
    pub(super) fn watch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
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
