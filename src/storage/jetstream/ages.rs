//! Ages of messages. The age of a message that was stored before it was read comes from NATS's clock. A message that is
//! read live has age zero when it arrives. So the clocks of replicas do not matter, neither of this one nor of the one
//! that stored the message. The clocks of the NATS servers matter only for messages that were stored before they were
//! read.

use std::time::Duration;

use crate::record::{Offset, UnixMicros};

/// Time of NATS's clock together with the same moment on the steady clock of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    /// Offset from which messages are read live. Earlier ones were already stored at that moment.
    pub live_from: Offset,
    /// Time of NATS's clock.
    pub nats: UnixMicros,
    /// Time of the steady clock.
    pub steady: UnixMicros,
}

impl Ages {
    /// Returns the time on the steady clock at which a message was stored. The message begins at `first`, NATS stored
    /// it at `published`, and the steady clock is at `now`.
    #[must_use]
    pub fn at(&self, first: Offset, published: UnixMicros, now: UnixMicros) -> UnixMicros {
        if first >= self.live_from {
            return now;
        }
        let age = self.nats.0.saturating_sub(published.0);
        UnixMicros(self.steady.0.saturating_sub(age))
    }

    /// Returns the time of NATS's clock that lies `age` before this moment.
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
        // The server's clock was ahead then, or is behind now.
        assert_eq!((at(9, 5_700), at(9, 0)), (900, 0));
        // A message that is read live counts from its arrival, whatever its publish time.
        assert_eq!((at(10, 0), at(11, 9_999)), (950, 950));
        assert_eq!(ages.before(Duration::from_micros(600)), UnixMicros(4_400));
    }
}
