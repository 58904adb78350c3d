//! Attempts of a call to reach the owner of a shard, which may change at any time.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;
use crate::storage;
use crate::topic;

/// Most attempts of a call.
const ATTEMPTS_MAX: usize = 4;
/// Time after the begin of a call in which an attempt may follow one whose owner was lost. Each attempt waits for the next
/// owner.
const REPEAT_TIME: Duration = Duration::from_secs(9);

/// Consequence of the loss of an owner that may have carried the request out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenLost {
    /// The request is sent to the next owner, as a repeat of it changes nothing.
    Repeat,
    /// The call fails, as a repeat would answer something else.
    Fail,
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    begun: Instant,
    left: usize,
    when_lost: WhenLost,
    /// True once an owner was lost, which may have carried the request out.
    was_lost: bool,
}

impl Attempts {
    /// Begins the first attempt.
    pub(super) fn new(when_lost: WhenLost) -> Self {
        Self { begun: Instant::now(), left: ATTEMPTS_MAX - 1, when_lost, was_lost: false }
    }

    /// Time since the call began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns true if another attempt follows one that ended with this error.
    pub(super) fn may_follow(&mut self, error: &Error) -> bool {
        let is_lost = *error == Error::Lost;
        self.was_lost |= is_lost;
        let may = match error {
            Error::Moved => true,
            Error::Lost => self.when_lost == WhenLost::Repeat && self.elapsed() < REPEAT_TIME,
            _ => false,
        };
        may && self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }

    /// The error of the call, of which `last` is the last attempt's. One that says only that nothing could be done now does
    /// not hold for the attempts before it.
    pub(super) fn error(&self, last: Error) -> Error {
        use storage::Error as Storage;
        let is_passing = matches!(
            last,
            Error::Moved
                | Error::Unsupported
                | Error::Topic(topic::Error::Starting | topic::Error::Draining)
                | Error::Topic(topic::Error::Storage(
                    Storage::Unavailable { .. } | Storage::Closing | Storage::DiskFull
                ))
        );
        if self.was_lost && is_passing { Error::Lost } else { last }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempts, Error, WhenLost};
    use crate::topic;

    #[test]
    fn a_lost_owner_is_followed_by_another_attempt_where_a_repeat_changes_nothing() {
        let mut attempts = Attempts::new(WhenLost::Repeat);
        assert!(attempts.may_follow(&Error::Lost) && attempts.may_follow(&Error::Moved));
        assert!(attempts.may_follow(&Error::Lost) && !attempts.may_follow(&Error::Lost), "they are bounded");
        let mut attempts = Attempts::new(WhenLost::Fail);
        assert!(attempts.may_follow(&Error::Moved) && !attempts.may_follow(&Error::Lost));
        assert!(!Attempts::new(WhenLost::Repeat).may_follow(&Error::NotFound));
    }

    #[test]
    fn side_effects_stay_unknown_after_a_lost_owner() {
        let draining = Error::Topic(topic::Error::Draining);
        let mut attempts = Attempts::new(WhenLost::Repeat);
        assert_eq!(attempts.error(draining.clone()), draining);
        attempts.may_follow(&Error::Lost);
        assert_eq!(attempts.error(draining), Error::Lost);
        assert_eq!(attempts.error(Error::NotFound), Error::NotFound);
    }
}
