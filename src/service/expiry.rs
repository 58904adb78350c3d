//! The end of a caller's identity, waited for.
//! Never: trusts one wait for it: it is a time of day, and a clock may be set.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep};

use crate::auth::Caller;

/// The time of day is looked at at least this often.
const LOOK: Duration = Duration::from_secs(3600);

/// When an identity ends.
#[derive(Debug)]
pub struct Expiry {
    at: SystemTime,
    sleep: Pin<Box<Sleep>>,
}

impl Expiry {
    /// Of this caller; none where its identity does not end by itself.
    #[must_use]
    pub fn of(caller: &Caller) -> Option<Self> {
        let at = caller.expires()?;
        Some(Self { at, sleep: Box::pin(tokio::time::sleep(left(at))) })
    }

    /// Ready once it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let left = left(self.at);
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(Instant::now() + left);
        }
    }
}

/// How long an identity may still be taken for good without another look.
fn left(expires: SystemTime) -> Duration {
    expires.duration_since(SystemTime::now()).unwrap_or_default().min(LOOK)
}
