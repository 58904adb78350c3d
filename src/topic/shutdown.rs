//! The signal that calls should end, and why: of the whole server, of one connection, or of one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Error;

/// Reason why a call ends that could have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server is shutting down.
    Draining,
    /// The call, or its connection, has reached its maximum age.
    MaxAge,
    /// The identity that the call was started with has expired.
    IdentityExpired,
    /// The permission that the call was started with was withdrawn.
    PermissionWithdrawn,
    /// An operator has ended it.
    Disconnected {
        /// End of the ban of the caller in Unix seconds; 0 without a ban.
        banned_until: u64,
    },
}

impl Cause {
    /// Bits of the kind; the others hold the end of a ban.
    const KIND_BITS: u32 = 8;

    /// Returns the cause as a number other than 0.
    const fn code(self) -> u64 {
        match self {
            Self::Draining => 1,
            Self::MaxAge => 2,
            Self::IdentityExpired => 3,
            Self::PermissionWithdrawn => 4,
            Self::Disconnected { banned_until } => 5 | (banned_until << Self::KIND_BITS),
        }
    }

    const fn of(code: u64) -> Option<Self> {
        Some(match code & ((1 << Self::KIND_BITS) - 1) {
            1 => Self::Draining,
            2 => Self::MaxAge,
            3 => Self::IdentityExpired,
            4 => Self::PermissionWithdrawn,
            5 => Self::Disconnected { banned_until: code >> Self::KIND_BITS },
            _ => return None,
        })
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Draining => Self::Draining,
            Cause::MaxAge => Self::MaxAge,
            Cause::IdentityExpired => Self::IdentityExpired,
            Cause::PermissionWithdrawn => Self::PermissionWithdrawn,
            Cause::Disconnected { banned_until } => Self::Disconnected { banned_until },
        }
    }
}

/// Cancellation signal with a cause, cheap to check and to wait for. Signals form a tree: cancelling the server's
/// cancels those of its connections, and cancelling a connection's cancels those of its calls.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    /// Code of a [`Cause`], or 0. Subscriptions load it for every delivery, so it does not take the token's lock.
    cause: AtomicU64,
    token: CancellationToken,
    parent: Option<ShutdownSignal>,
}

impl ShutdownSignal {
    /// Creates a signal that is cancelled together with this one, and that can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let (token, parent) = (self.0.token.child_token(), Some(self.clone()));
        Self(Arc::new(Node { cause: AtomicU64::new(0), token, parent }))
    }

    /// Cancels the signal for good. The first cause stays.
    pub fn cancel(&self, cause: Cause) {
        let _ = self.0.cause.compare_exchange(0, cause.code(), Ordering::Release, Ordering::Relaxed);
        self.0.token.cancel();
    }

    /// Returns why the signal was cancelled, or `None` if it was not.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        let own = Cause::of(self.0.cause.load(Ordering::Acquire));
        own.or_else(|| self.0.parent.as_ref().and_then(Self::cause))
    }

    /// Waits until the signal is cancelled.
    pub fn cancelled(&self) -> WaitForCancellationFutureOwned {
        self.0.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, ShutdownSignal};

    #[tokio::test]
    async fn cancelling_a_signal_cancels_its_children_but_not_its_parent() {
        let server = ShutdownSignal::default();
        let (connection, other) = (server.child(), server.child());
        let call = connection.child();
        call.cancel(Cause::MaxAge);
        call.cancelled().await;
        assert_eq!((call.cause(), connection.cause()), (Some(Cause::MaxAge), None));
        server.cancel(Cause::Draining);
        other.child().cancelled().await;
        let causes = [&connection, &other, &call].map(ShutdownSignal::cause);
        assert_eq!(causes, [Some(Cause::Draining), Some(Cause::Draining), Some(Cause::MaxAge)]);
    }

    #[test]
    fn every_cause_is_what_was_cancelled_for() {
        let latest = u64::MAX >> Cause::KIND_BITS;
        let bans = [0, 1, latest].map(|banned_until| Cause::Disconnected { banned_until });
        let others = [Cause::Draining, Cause::MaxAge, Cause::IdentityExpired, Cause::PermissionWithdrawn];
        for cause in others.into_iter().chain(bans) {
            let signal = ShutdownSignal::default();
            assert_eq!(signal.cause(), None);
            signal.cancel(cause);
            signal.cancel(Cause::Draining);
            assert_eq!(signal.cause(), Some(cause));
        }
    }
}
