//! Delays between attempts, and random spreading of delays, so that many clients do not act at the same moment.

use std::ops::Range;
use std::time::Duration;

/// Multiplies a duration by a random factor of this range.
#[must_use]
pub fn spread(duration: Duration, factor: Range<f64>) -> Duration {
    duration.mul_f64(factor.start + (factor.end - factor.start) * fastrand::f64())
}

/// Exponential back-off: delays that double from `min` up to `max`. Each is then shortened at random, to half of it at
/// the most.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// A back-off whose first delay is at most `min`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0 }
    }

    /// Number of delays since the last reset.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the delay before the next attempt.
    #[must_use]
    pub fn next_delay(&mut self) -> Duration {
        /// Doublings after which every delay of ours is at its maximum; more would overflow.
        const DOUBLINGS_MAX: u32 = 20;
        let doubled = self.min.saturating_mul(1 << self.attempts.min(DOUBLINGS_MAX));
        self.attempts = self.attempts.saturating_add(1);
        spread(doubled.min(self.max), 0.5..1.0)
    }

    /// Starts again with the first delay.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, spread};
    use std::time::Duration;

    #[test]
    fn delays_double_up_to_the_maximum_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        for expected_ms in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let (delay, full) = (backoff.next_delay(), Duration::from_millis(expected_ms));
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
        }
        assert_eq!(backoff.attempts(), 9);
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(50));
    }

    #[test]
    fn a_spread_duration_stays_within_its_factors() {
        let second = Duration::from_secs(1);
        let spread: Vec<_> = (0..1000).map(|_| spread(second, 0.9..1.1)).collect();
        assert!(spread.iter().all(|delay| (second.mul_f64(0.9)..=second.mul_f64(1.1)).contains(delay)));
        assert!(spread.iter().any(|delay| *delay < second) && spread.iter().any(|delay| *delay > second));
    }
}
