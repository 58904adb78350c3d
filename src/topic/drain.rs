//! The server's wish to shut down, as calls see it.
//! Never: decides when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether the server drains; cheap to ask, and to wait for.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Asked on every delivery, so without the token's lock.
    flag: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Drain {
    /// Begins it. There is no way back.
    pub fn begin(&self) {
        self.flag.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it began.
    pub fn has_begun(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Resolves once it begins.
    pub fn begun(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }
}
