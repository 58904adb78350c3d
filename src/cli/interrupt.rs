//! Ctrl-C and SIGTERM of a client command: the first asks it to end, a second ends it at once.
//! Never: lets a command that is stuck in a write keep the process alive.

use std::process;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::INTERRUPTED;

/// How long a command that was asked to end may take: what is printed is flushed in it.
const GRACE: Duration = Duration::from_secs(2);

/// A token that the first signal cancels. The process ends with [`INTERRUPTED`] a little later, or
/// at the second signal, whatever blocks the command then.
pub(super) fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let first = token.clone();
    // On the worker thread: the main thread is the one that blocks.
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        first.cancel();
        let _ = tokio::time::timeout(GRACE, next()).await;
        process::exit(INTERRUPTED.into());
    });
    Ok(token)
}
