//! The runtime of a command.

use std::process::ExitCode;
use std::time::Duration;

use super::failure::Failure;

/// Time that a finished command waits for operations it left behind, for example a blocked read.
pub const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(100);

/// Runs a command on a runtime of its own.
///
/// # Errors
/// The command fails, or the runtime cannot be started.
pub fn on_a_runtime(command: impl AsyncFnOnce() -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    // One worker runs the transport, and the main thread reads or writes records.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(command());
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}
