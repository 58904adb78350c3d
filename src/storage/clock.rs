//! The clocks of both engines: the wall clock, which may jump, for the times that people see; and a steady one, which
//! measures ages within one run. Across a restart there is only the wall clock.

use std::time::{Duration, Instant};

use crate::record::UnixMicros;

/// Further ahead than this, the wall clock did not drift, it jumped.
const JUMP: Duration = Duration::from_secs(60);
/// A jump ahead is trusted by retention once it has stood this long: time to correct a clock that is
/// wrong before it makes records look old.
const TRUSTED_AFTER: Duration = Duration::from_secs(3600);

/// The clocks of one log. Clones are the same clocks.
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
    /// The wall clock.
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

    /// What the wall clock said at the start, and the time since then: it never jumps.
    #[must_use]
    pub fn steady(&self) -> UnixMicros {
        let since = micros(self.begun.elapsed());
        #[cfg(test)]
        let since = since + self.shift.1.load(std::sync::atomic::Ordering::SeqCst);
        UnixMicros(self.wall.0.saturating_add(since))
    }

    /// The wall clock jumps.
    #[cfg(test)]
    pub fn jump(&self, seconds: i64) {
        self.shift.0.fetch_add(seconds * 1_000_000, std::sync::atomic::Ordering::SeqCst);
    }

    /// Time goes by on both.
    #[cfg(test)]
    pub fn pass(&self, time: Duration) {
        self.shift.1.fetch_add(micros(time), std::sync::atomic::Ordering::SeqCst);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The time that retention goes by: the wall clock's, but not at once where that jumps ahead.
#[derive(Debug)]
pub struct RetentionClock {
    clock: Clock,
    /// How far ahead of the steady clock the wall's was found to be right.
    ahead: u64,
    jumped: Option<UnixMicros>,
}

impl RetentionClock {
    /// By these clocks.
    #[must_use]
    pub const fn new(clock: Clock) -> Self {
        Self { clock, ahead: 0, jumped: None }
    }

    /// The steady clock, for intervals.
    #[must_use]
    pub fn steady(&self) -> UnixMicros {
        self.clock.steady()
    }

    /// Now, or earlier: what looks too old by it is.
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
