//! How old messages are: by NATS's clock those that were there before they were read, and as they come the
//! others. So it does not matter what the clock of any replica says, this one's or that of whoever stored
//! them; nor, but for messages stored before they were read, whether those of NATS's servers agree.

use std::time::Duration;

use crate::record::{Offset, UnixMicros};

/// A time of NATS's clock, and the same moment on this process's steady clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    /// Messages before this were there then.
    pub live_from: Offset,
    /// NATS's clock,
    pub nats: UnixMicros,
    /// and the steady one.
    pub steady: UnixMicros,
}

impl Ages {
    /// When the message that begins at `first`, and which NATS took then, was stored, on the steady clock,
    /// which says `now`.
    #[must_use]
    pub fn at(&self, first: Offset, published: UnixMicros, now: UnixMicros) -> UnixMicros {
        if first >= self.live_from {
            return now;
        }
        let age = self.nats.0.saturating_sub(published.0);
        UnixMicros(self.steady.0.saturating_sub(age))
    }

    /// NATS's time so long before.
    #[must_use]
    pub fn before(&self, age: Duration) -> UnixMicros {
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        UnixMicros(self.nats.0.saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::Ages;
    use crate::record::{Offset, UnixMicros};
    use std::time::Duration;

    #[test]
    fn ages_are_of_nats_before_and_of_the_steady_clock_after() {
        let ages = Ages { live_from: Offset::new(10), nats: UnixMicros(5_000), steady: UnixMicros(900) };
        let at = |first, published| ages.at(Offset::new(first), UnixMicros(published), UnixMicros(950)).0;
        assert_eq!(at(9, 4_900), 800);
        // Of a server whose clock was ahead, or is behind now.
        assert_eq!((at(9, 5_700), at(9, 0)), (900, 0));
        // As it comes, whatever it says.
        assert_eq!((at(10, 0), at(11, 9_999)), (950, 950));
        assert_eq!(ages.before(Duration::from_micros(600)), UnixMicros(4_400));
    }
}
