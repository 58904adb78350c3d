//! The expiry of a caller's identity. It is a time of day, and the clock may be set while a call waits for it, so the
//! time of day is checked again and again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep};

use crate::auth::Caller;

/// Longest wait before the time of day is checked again.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Timer that ends with an identity.
#[derive(Debug)]
pub struct Expiry {
    at: SystemTime,
    sleep: Pin<Box<Sleep>>,
}

impl Expiry {
    /// Returns the timer of this caller, or `None` if its identity does not expire.
    #[must_use]
    pub fn of(caller: &Caller) -> Option<Self> {
        caller.expires().map(Self::at)
    }

    fn at(at: SystemTime) -> Self {
        Self { at, sleep: Box::pin(tokio::time::sleep(left(at))) }
    }

    /// Becomes ready once the identity has expired.
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

/// Returns the time until the next check, or zero if the identity has expired.
fn left(expires: SystemTime) -> Duration {
    expires.duration_since(SystemTime::now()).unwrap_or_default().min(CHECK_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::{CHECK_INTERVAL, Expiry};
    use std::future::poll_fn;
    use std::time::{Duration, SystemTime};
    use tokio::time::Instant;

    /// The runtime's clock is paused and jumps ahead; the time of day is not.
    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_decides_and_is_checked_at_intervals() {
        let begins = Instant::now();
        let mut expiry = Expiry::at(SystemTime::now() + 3 * CHECK_INTERVAL);
        let expired = tokio::time::timeout(9 * CHECK_INTERVAL, poll_fn(|cx| expiry.poll(cx))).await;
        assert!(expired.is_err() && begins.elapsed() == 9 * CHECK_INTERVAL, "the day's time has not come");
        // The clock is set ahead, which is seen at the next check and not after the whole time again.
        expiry.at = SystemTime::now() - Duration::from_secs(1);
        let set = Instant::now();
        poll_fn(|cx| expiry.poll(cx)).await;
        assert!(set.elapsed() <= CHECK_INTERVAL, "{:?}", set.elapsed());
    }
}
