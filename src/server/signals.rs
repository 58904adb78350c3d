//! SIGTERM and SIGINT: the first starts the shutdown, a second ends the process at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code after a second signal, which cuts off what was under way.
const EXIT_FORCED: i32 = 1;
/// Time after the first signal in which others are part of the same request: `timeout` and some init systems signal a
/// process and then its group, and a person who ends a server at once presses the keys again.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Returns a token that the first signal cancels.
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
        let begun = Instant::now();
        loop {
            let signal = next().await;
            if begun.elapsed() >= SAME_REQUEST {
                warn!(signal, "second signal: exiting at once");
                std::process::exit(EXIT_FORCED);
            }
            info!(signal, "another signal within a second of the first: it changes nothing");
        }
    });
    Ok(token)
}
