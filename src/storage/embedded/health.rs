//! The health of the storage, which tells all parts of the server whether it accepts writes. After a failure
//! it never returns to serving, because a person must investigate first.

use std::sync::Arc;

use tokio::sync::watch;

use crate::storage::Health;

/// The health of one log.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<watch::Sender<Health>>);

impl Default for Monitor {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Health::Serving)))
    }
}

impl Monitor {
    /// Reports damage or a failure, which is logged once.
    pub fn fail(&self, what: &str) {
        let first = self.0.send_if_modified(|health| {
            let first = *health == Health::Serving;
            if first {
                *health = Health::Failed(what.into());
            }
            first
        });
        if first {
            tracing::error!(reason = what, "storage failed");
        }
    }

    /// Reports that the log was closed.
    pub fn close(&self) {
        self.0.send_if_modified(|health| {
            let serving = *health == Health::Serving;
            if serving {
                *health = Health::Closed;
            }
            serving
        });
    }

    /// Subscribes to changes of the health.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }
}
