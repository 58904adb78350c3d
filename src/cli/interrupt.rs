//! Ctrl-C and SIGTERM of a client command: the first asks it to end, a second ends it at once.
//! Never: lets a command that is stuck in a write keep the process alive.

use std::process;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::INTERRUPTED;

/// How long a command that was asked to end may take: what is printed is flushed in it.
const GRACE: Duration = Duration::from_secs(2);

/// Both signals.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub(super) fn watch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A token that the first signal cancels. The process ends with [`INTERRUPTED`] a little later, or
/// at the second signal, whatever blocks the command then.
pub(super) fn on_signals() -> std::io::Result<CancellationToken> {
    let mut signals = Signals::watch()?;
    let token = CancellationToken::new();
    let first = token.clone();
    // On the worker thread: the main thread is the one that blocks.
    tokio::spawn(async move {
        signals.next().await;
        first.cancel();
        let _ = tokio::time::timeout(GRACE, signals.next()).await;
        process::exit(INTERRUPTED.into());
    });
    Ok(token)
}
