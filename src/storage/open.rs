//! Opening the log that is configured.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::contract::Log;
use super::health::Reason;
use super::{embedded, jetstream};
use crate::config::{Config, Engine};

/// Reason why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded engine's reason.
    #[error(transparent)]
    Embedded(#[from] embedded::OpenError),
    /// The JetStream engine's reason.
    #[error(transparent)]
    JetStream(#[from] jetstream::OpenError),
    /// The server was stopped while the log waited for its storage.
    #[error("stopped before the log was open")]
    Stopped,
}

/// Opens the log that is configured, unless `stop` is cancelled first. While it waits for its storage, `reason` says
/// what for. Blocks the thread, which must belong to a runtime.
///
/// # Errors
/// The log cannot be opened as configured, or `stop` was cancelled.
pub fn open(config: &Config, reason: &Reason, stop: &CancellationToken) -> Result<Arc<dyn Log>, OpenError> {
    let log: Arc<dyn Log> = match config.engine {
        Engine::Embedded => {
            embedded::EmbeddedLog::open(&config.data_dir, &config.storage, config.topics_max)?
        }
        Engine::JetStream => {
            let opening = stop.run_until_cancelled(jetstream::JetStreamLog::open(config, reason));
            tokio::runtime::Handle::current().block_on(opening).ok_or(OpenError::Stopped)??
        }
    };
    Ok(log)
}
