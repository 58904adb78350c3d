//! The signal that calls should end, and why: of the whole server, of one connection, or of one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Error;

/// Reason why a call ends that could have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The server is shutting down.
    Draining = 1,
    /// The call, or its connection, has reached its maximum age.
    MaxAge = 2,
    /// The identity that the call was started with has expired.
    IdentityExpired = 3,
    /// The permission that the call was started with was withdrawn.
    PermissionWithdrawn = 4,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Draining, Self::MaxAge, Self::IdentityExpired, Self::PermissionWithdrawn];
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Draining => Self::Draining,
            Cause::MaxAge => Self::MaxAge,
            Cause::IdentityExpired => Self::IdentityExpired,
            Cause::PermissionWithdrawn => Self::PermissionWithdrawn,
        }
    }
}

/// Cancellation signal with a cause, cheap to check and to wait for. Signals form a tree: cancelling the server's
/// cancels those of its connections, and cancelling a connection's cancels those of its calls.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    /// A [`Cause`], or 0. Subscriptions load it for every delivery, so it does not take the token's lock.
    cause: AtomicU8,
    token: CancellationToken,
    parent: Option<ShutdownSignal>,
}

impl ShutdownSignal {
    /// Creates a signal that is cancelled together with this one, and that can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let (token, parent) = (self.0.token.child_token(), Some(self.clone()));
        Self(Arc::new(Node { cause: AtomicU8::new(0), token, parent }))
    }

    /// Cancels the signal for good. The first cause stays.
    pub fn cancel(&self, cause: Cause) {
        let _ = self.0.cause.compare_exchange(0, cause as u8, Ordering::Release, Ordering::Relaxed);
        self.0.token.cancel();
    }

    /// Returns why the signal was cancelled, or `None` if it was not.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        let own = self.0.cause.load(Ordering::Acquire);
        let found = Cause::ALL.into_iter().find(|cause| *cause as u8 == own);
        found.or_else(|| self.0.parent.as_ref().and_then(Self::cause))
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
}
