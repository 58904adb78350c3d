//! The clocks of both engines: the wall clock, which may jump and gives the times that people see, and a steady clock,
//! which measures ages within one run. Only the wall clock continues across a restart.

use std::time::{Duration, Instant};

use crate::record::UnixMicros;

/// Difference by which the wall clock must be ahead to have jumped. A smaller difference is drift.
const JUMP: Duration = Duration::from_secs(60);
/// Time after which retention trusts a jump ahead. Until then a wrong clock can be corrected before it makes records
/// look old.
const TRUSTED_AFTER: Duration = Duration::from_secs(3600);

/// The clocks of one log. Clones share the same clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: UnixMicros,
    begun: Instant,
    #[cfg(test)]
    shift: std::sync::Arc<(std::sync::atomic::AtomicI64, std::sync::atomic::AtomicU64)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            wall: UnixMicros::now(),
            begun: Instant::now(),
            #[cfg(test)]
            shift: std::sync::Arc::default(),
        }
    }
}

impl Clock {
    /// Returns the time of the wall clock.
    #[must_use]
    pub fn wall(&self) -> UnixMicros {
        let now = UnixMicros::now();
        #[cfg(test)]
        let now = {
            let (wall, steady) = (&self.shift.0, &self.shift.1);
            let ordering = std::sync::atomic::Ordering::SeqCst;
            UnixMicros(now.0.saturating_add_signed(wall.load(ordering)).saturating_add(steady.load(ordering)))
        };
        now
    }

    /// Returns the time of the steady clock: that of the wall clock at the start, plus the time since then. It never
    /// jumps.
    #[must_use]
    pub fn steady(&self) -> UnixMicros {
        let since = micros(self.begun.elapsed());
        #[cfg(test)]
        let since = since + self.shift.1.load(std::sync::atomic::Ordering::SeqCst);
        UnixMicros(self.wall.0.saturating_add(since))
    }

    /// Makes the wall clock jump.
    #[cfg(test)]
    pub fn jump(&self, seconds: i64) {
        self.shift.0.fetch_add(seconds * 1_000_000, std::sync::atomic::Ordering::SeqCst);
    }

    /// Advances both clocks.
    #[cfg(test)]
    pub fn pass(&self, time: Duration) {
        self.shift.1.fetch_add(micros(time), std::sync::atomic::Ordering::SeqCst);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Clock of retention: it follows the wall clock, but follows a jump ahead only after a delay.
#[derive(Debug)]
pub struct RetentionClock {
    clock: Clock,
    /// Number of microseconds by which the wall clock is trusted to be ahead of the steady clock.
    ahead: u64,
    jumped: Option<UnixMicros>,
}

impl RetentionClock {
    /// Makes a retention clock from these clocks.
    #[must_use]
    pub const fn new(clock: Clock) -> Self {
        Self { clock, ahead: 0, jumped: None }
    }

    /// Returns the time of the steady clock, for intervals.
    #[must_use]
    pub fn steady(&self) -> UnixMicros {
        self.clock.steady()
    }

    /// Returns the current time or an earlier one, so a record that is too old at this time is really too old.
    pub fn now(&mut self) -> UnixMicros {
        let (wall, steady) = (self.clock.wall(), self.clock.steady());
        let expected = UnixMicros(steady.0.saturating_add(self.ahead));
        let ahead = wall.0.saturating_sub(expected.0);
        if ahead > micros(JUMP) {
            let first = self.jumped.is_none();
            let since = *self.jumped.get_or_insert(steady);
            if first {
                tracing::warn!(
                    seconds = ahead / 1_000_000,
                    "wall clock jumped ahead: retention by age follows in an hour, if it stays"
                );
            }
            if steady.0.saturating_sub(since.0) < micros(TRUSTED_AFTER) {
                return expected;
            }
        }
        self.jumped = None;
        self.ahead += ahead;
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, RetentionClock, TRUSTED_AFTER, micros};
    use std::time::Duration;

    const DAY: i64 = 86_400;

    #[test]
    fn a_jump_ahead_is_believed_after_it_has_stood_for_an_hour() {
        let clock = Clock::default();
        let mut trusted = RetentionClock::new(clock.clone());
        let start = trusted.now().0;
        let hours = |now: u64| (now - start) / 3_600_000_000;
        clock.jump(DAY);
        assert_eq!(hours(trusted.now().0), 0);
        clock.pass(TRUSTED_AFTER / 2);
        clock.jump(-DAY);
        assert_eq!(hours(trusted.now().0), 0, "corrected in time");
        clock.jump(DAY);
        clock.pass(TRUSTED_AFTER / 2);
        assert_eq!(hours(trusted.now().0), 1);
        clock.pass(TRUSTED_AFTER);
        assert_eq!(hours(trusted.now().0), 26, "it stayed");
        clock.pass(Duration::from_secs(3600));
        assert_eq!(hours(trusted.now().0), 27);
    }

    #[test]
    fn a_jump_back_is_followed_at_once() {
        let clock = Clock::default();
        let mut trusted = RetentionClock::new(clock.clone());
        let start = trusted.now().0;
        clock.jump(-DAY);
        assert!(trusted.now().0 < start);
        clock.jump(DAY);
        assert!(trusted.now().0 - start < micros(Duration::from_secs(60)));
    }
}
