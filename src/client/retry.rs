//! The decision whether and when to try again: exponential back-off, the delay that a server asks for, and giving up.

use std::time::{Duration, Instant};

use super::error::Error;
use crate::backoff::{Backoff, spread};

/// Limits on the resumption of a call that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// First delay before another attempt; later ones double.
    pub delay_min: Duration,
    /// Longest delay, unless the server asks for a longer one.
    pub delay_max: Duration,
    /// Time without progress after which to give up, whether the server is away, or connected and does nothing, as when
    /// its disk hangs. With 0 the first failure is final, and an answer is awaited for the default time.
    pub give_up_after: Duration,
    /// Time after which to give up on a server that has never been reached.
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

/// Longest delay accepted from a server. One that asks for more is unavailable for all practical purposes.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The retry state of one call that is resumed when it breaks.
#[derive(Debug)]
pub(super) struct Retry {
    policy: RetryPolicy,
    /// Number of servers. Each is tried before giving up.
    servers: u32,
    backoff: Backoff,
    /// Time of the first failure since the last progress.
    failing_since: Option<Instant>,
    /// A server has been reached at least once.
    reached: bool,
}

impl Retry {
    pub(super) const fn new(policy: RetryPolicy, servers: u32) -> Self {
        let backoff = Backoff::new(policy.delay_min, policy.delay_max);
        Self { policy, servers, backoff, failing_since: None, reached: false }
    }

    /// Notes that the server did what was asked: the next failure starts with the first delay.
    pub(super) const fn progress(&mut self) {
        self.backoff.reset();
        self.failing_since = None;
        self.reached = true;
    }

    /// Returns true if nothing has failed since the last progress.
    pub(super) const fn is_well(&self) -> bool {
        self.failing_since.is_none()
    }

    /// Time without progress after which to turn to the next server, so that each has its turn before giving up.
    pub(super) fn stall_max(&self) -> Duration {
        let asked = Some(self.policy.give_up_after).filter(|asked| !asked.is_zero());
        asked.unwrap_or_else(|| RetryPolicy::default().give_up_after) / self.servers.max(1)
    }

    /// Notes that there has been no progress for this time already.
    pub(super) fn stalled(&mut self, now: Instant, stalled: Duration) {
        let since = now.checked_sub(stalled).unwrap_or(now);
        self.failing_since = Some(self.failing_since.map_or(since, |earlier| earlier.min(since)));
    }

    /// The delay before another attempt after this failure; none where it is final.
    pub(super) fn delay(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        // A connection that breaks before any answer has reached nobody: with TLS 1.3 a client can be refused so. An
        // error that a load balancer makes up is no answer of a server either.
        self.reached |= error.reached_server();
        let since = *self.failing_since.get_or_insert(now);
        let patience =
            if self.reached { self.policy.give_up_after } else { self.policy.connect_give_up_after };
        let all_tried = self.backoff.attempts().saturating_add(1) >= self.servers;
        if all_tried && now.duration_since(since) >= patience {
            return None;
        }
        let delay = self.backoff.next_delay();
        // The server's delay is a minimum.
        Some(error.retry_after().map_or(delay, |asked| spread(asked.min(RETRY_AFTER_MAX), 1.0..1.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::{RETRY_AFTER_MAX, Retry, RetryPolicy};
    use crate::client::Error;
    use std::time::{Duration, Instant};
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn progress_restarts_the_delays() {
        let (mut retry, now) = (Retry::new(RetryPolicy::default(), 1), Instant::now());
        let error = Error::transport("gone");
        let last = (0..9).map(|_| retry.delay(&error, now).unwrap()).last().unwrap();
        assert!((Duration::from_millis(2500)..=Duration::from_secs(5)).contains(&last), "{last:?}");
        retry.progress();
        assert!(retry.delay(&error, now).unwrap() <= Duration::from_millis(50));
    }

    fn asking_for(delay: Duration) -> Error {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(delay));
        Error::from_status(&Status::with_error_details(Code::Unavailable, "draining", details), "x")
    }

    #[test]
    fn the_delay_that_the_server_asks_for_is_a_minimum_up_to_a_limit() {
        for (asked, expected) in
            [(Duration::from_secs(7), Duration::from_secs(7)), (Duration::from_secs(3600), RETRY_AFTER_MAX)]
        {
            let delay =
                Retry::new(RetryPolicy::default(), 1).delay(&asking_for(asked), Instant::now()).unwrap();
            assert!(delay >= expected && delay <= expected.mul_f64(1.1), "{delay:?}");
        }
    }

    #[test]
    fn every_server_is_tried_before_giving_up() {
        let policy = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        let (mut retry, now) = (Retry::new(policy, 3), Instant::now());
        let error = Error::transport("gone");
        assert!(retry.delay(&error, now).is_some());
        assert!(retry.delay(&error, now).is_some());
        assert!(retry.delay(&error, now).is_none());
    }

    #[test]
    fn retries_end_and_final_errors_are_not_retried() {
        let (mut retry, now) = (Retry::new(RetryPolicy::default(), 1), Instant::now());
        let error = Error::transport("gone");
        assert!(retry.delay(&error, now).is_some());
        assert!(retry.delay(&error, now + Duration::from_secs(119)).is_some());
        assert!(retry.delay(&error, now + Duration::from_secs(120)).is_none());
        let not_found = Error::from_status(&Status::not_found("no topic"), "x");
        assert!(Retry::new(RetryPolicy::default(), 1).delay(&not_found, now).is_none());
    }

    #[test]
    fn a_stall_counts_as_time_without_progress() {
        let (error, now) = (Error::transport("stalled"), Instant::now() + Duration::from_secs(1000));
        let mut retry = Retry::new(RetryPolicy::default(), 1);
        retry.progress();
        retry.stalled(now, Duration::from_secs(120));
        assert!(retry.delay(&error, now).is_none());
        let mut retry = Retry::new(RetryPolicy::default(), 3);
        retry.progress();
        assert_eq!(retry.stall_max(), Duration::from_secs(40));
        retry.stalled(now, Duration::from_secs(40));
        assert!(retry.delay(&error, now).is_some(), "the next server's turn");
        let zero = RetryPolicy { give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        assert_eq!(Retry::new(zero, 1).stall_max(), RetryPolicy::default().give_up_after);
    }

    /// An HTML page on the first call means a wrong address; later it comes from a load balancer.
    #[test]
    fn an_answer_of_a_load_balancer_is_no_sign_of_a_server() {
        let policy = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        let (mut retry, now) = (Retry::new(policy, 1), Instant::now());
        let error = Error::from_status(&Status::internal("mapped from HTTP status code 400"), "x");
        assert!(retry.delay(&error, now).is_none());
        retry.progress();
        assert!(retry.delay(&error, now).is_some());
    }
}
