//! When to try again: jittered exponential back-off, what the server asks for, and when to give up.
//! Never: sleeps; it says how long.

use std::time::{Duration, Instant};

use super::error::Error;

/// How patiently a broken call is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// First delay; later ones double.
    pub delay_min: Duration,
    /// Longest delay of our own; the server may ask for longer.
    pub delay_max: Duration,
    /// Give up after so long without progress, whether the server is away or is there and gets nothing
    /// done, as where its disk hangs. 0 gives up at the first failure, and waits as long as the default
    /// for an answer.
    pub give_up_after: Duration,
    /// Give up after so long where the server has never been reached at all.
    pub connect_give_up_after: Duration,
}

impl Default for RetryPolicy {
    /// 50 ms doubling to 5 s; gives up after 2 minutes without progress.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(5),
            give_up_after: Duration::from_secs(120),
            connect_give_up_after: Duration::from_secs(120),
        }
    }
}

/// Longest wait a server's `RetryInfo` is granted: one that asks for more is as good as down.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The state of one call that is kept alive.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    /// How many servers there are: an address that does not answer is no reason to give up
    /// before the others were tried.
    servers: u32,
    attempts: u32,
    /// Since when nothing has worked; none while all is well.
    failing_since: Option<Instant>,
    reached: bool,
}

impl Backoff {
    pub(crate) const fn new(policy: RetryPolicy, servers: u32) -> Self {
        Self { policy, servers, attempts: 0, failing_since: None, reached: false }
    }

    /// The server did what was asked: the next failure starts from the beginning.
    pub(crate) const fn progress(&mut self) {
        self.attempts = 0;
        self.failing_since = None;
        self.reached = true;
    }

    /// Whether nothing failed since there was progress.
    pub(crate) const fn is_well(&self) -> bool {
        self.failing_since.is_none()
    }

    /// How long one server may get nothing done: each of them has its turn within our patience.
    pub(crate) fn stall_max(&self) -> Duration {
        let asked = Some(self.policy.give_up_after).filter(|asked| !asked.is_zero());
        asked.unwrap_or_else(|| RetryPolicy::default().give_up_after) / self.servers.max(1)
    }

    /// Nothing was done for so long, as is known only now.
    pub(crate) fn stalled(&mut self, now: Instant, stalled: Duration) {
        let since = now.checked_sub(stalled).unwrap_or(now);
        self.failing_since = Some(self.failing_since.map_or(since, |earlier| earlier.min(since)));
    }

    /// How long to wait after this failure; none where it is final.
    pub(crate) fn delay(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        // A connection that breaks before any answer reached nobody: TLS 1.3 refuses a client like that. Nor
        // is what a load balancer says of its own, or something that is no server of ours, an answer.
        self.reached |= error.is_of_a_server();
        let since = *self.failing_since.get_or_insert(now);
        let patience =
            if self.reached { self.policy.give_up_after } else { self.policy.connect_give_up_after };
        let all_tried = self.attempts.saturating_add(1) >= self.servers;
        if all_tried && now.duration_since(since) >= patience {
            return None;
        }
        let doubled = self.policy.delay_min.saturating_mul(1 << self.attempts.min(20));
        self.attempts = self.attempts.saturating_add(1);
        Some(match error.retry_after() {
            // The server staggers its clients itself: a little more, never less.
            Some(asked) => asked.min(RETRY_AFTER_MAX).mul_f64(1.0 + 0.1 * fastrand::f64()),
            None => doubled.min(self.policy.delay_max).mul_f64(0.5 + 0.5 * fastrand::f64()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, RetryPolicy};
    use crate::client::Error;
    use std::time::{Duration, Instant};
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn delays_double_with_jitter_and_restart_after_progress() {
        let (mut backoff, now) = (Backoff::new(RetryPolicy::default(), 1), Instant::now());
        let error = Error::transport("gone");
        for expected_ms in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let delay = backoff.delay(&error, now).unwrap();
            let full = Duration::from_millis(expected_ms);
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
        }
        backoff.progress();
        assert!(backoff.delay(&error, now).unwrap() <= Duration::from_millis(50));
    }

    #[test]
    fn the_servers_own_delay_counts() {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_secs(7)));
        let status = Status::with_error_details(Code::Unavailable, "draining", details);
        let error = Error::from_status(&status, "x");
        let delay = Backoff::new(RetryPolicy::default(), 1).delay(&error, Instant::now()).unwrap();
        assert!(delay >= Duration::from_secs(7) && delay <= Duration::from_millis(7700), "{delay:?}");
    }

    #[test]
    fn every_server_is_tried_before_giving_up() {
        let policy = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        let (mut backoff, now) = (Backoff::new(policy, 3), Instant::now());
        let error = Error::transport("gone");
        assert!(backoff.delay(&error, now).is_some());
        assert!(backoff.delay(&error, now).is_some());
        assert!(backoff.delay(&error, now).is_none());
    }

    #[test]
    fn patience_ends_and_final_errors_are_final() {
        let (mut backoff, now) = (Backoff::new(RetryPolicy::default(), 1), Instant::now());
        let error = Error::transport("gone");
        assert!(backoff.delay(&error, now).is_some());
        assert!(backoff.delay(&error, now + Duration::from_secs(119)).is_some());
        assert!(backoff.delay(&error, now + Duration::from_secs(120)).is_none());
        let not_found = Error::from_status(&Status::not_found("no topic"), "x");
        assert!(Backoff::new(RetryPolicy::default(), 1).delay(&not_found, now).is_none());
    }

    /// Wherever the time passed: a server that answered and then got nothing done was away as well.
    #[test]
    fn a_stall_counts_as_time_without_progress() {
        let (error, now) = (Error::transport("stalled"), Instant::now() + Duration::from_secs(1000));
        let mut backoff = Backoff::new(RetryPolicy::default(), 1);
        backoff.progress();
        backoff.stalled(now, Duration::from_secs(120));
        assert!(backoff.delay(&error, now).is_none());
        let mut backoff = Backoff::new(RetryPolicy::default(), 3);
        backoff.progress();
        assert_eq!(backoff.stall_max(), Duration::from_secs(40));
        backoff.stalled(now, Duration::from_secs(40));
        assert!(backoff.delay(&error, now).is_some(), "the next server's turn");
        let zero = RetryPolicy { give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        assert_eq!(Backoff::new(zero, 1).stall_max(), RetryPolicy::default().give_up_after);
    }

    /// A page of HTML at the first contact is a wrong address; later it is a load balancer's.
    #[test]
    fn a_balancers_word_is_no_sign_of_a_server() {
        let policy = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        let (mut backoff, now) = (Backoff::new(policy, 1), Instant::now());
        let error = Error::from_status(&Status::internal("mapped from HTTP status code 400"), "x");
        assert!(backoff.delay(&error, now).is_none());
        backoff.progress();
        assert!(backoff.delay(&error, now).is_some());
    }
}
