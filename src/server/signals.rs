//! SIGTERM and SIGINT: the first begins the shutdown, a second ends the process at once.
//! Never: decides how the shutdown goes.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code after a second signal: what was under way was cut off.
const EXIT_FORCED: i32 = 1;

/// A token that the first signal cancels.
///
/// # Errors
/// The signal handlers could not be installed.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        info!(signal, "shutting down");
        first.cancel();
        let signal = next().await;
        warn!(signal, "second signal: exiting at once");
        std::process::exit(EXIT_FORCED);
    });
    Ok(token)
}
