//! The wish that calls end, as calls see it: the server's, a connection's, a call's own.
//! Never: decides when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Error;

/// Why calls end that could have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The server is shutting down.
    Draining = 1,
    /// The call, or its connection, is as old as it may get.
    MaxAge = 2,
    /// The identity that the call was begun with has expired.
    IdentityExpired = 3,
    /// The permission that the call was begun with was withdrawn.
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

/// Whether calls should end, and why; cheap to ask, and to wait for. Ends form a tree: what ends the
/// server ends its connections, and what ends a connection ends its calls.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    /// A [`Cause`], or 0. Asked on every delivery, so without the token's lock.
    cause: AtomicU8,
    token: CancellationToken,
    parent: Option<Ending>,
}

impl Ending {
    /// One that begins with this one, or before it by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        let (token, parent) = (self.0.token.child_token(), Some(self.clone()));
        Self(Arc::new(Node { cause: AtomicU8::new(0), token, parent }))
    }

    /// Begins it. There is no way back, and the first cause stays.
    pub fn begin(&self, cause: Cause) {
        let _ = self.0.cause.compare_exchange(0, cause as u8, Ordering::Release, Ordering::Relaxed);
        self.0.token.cancel();
    }

    /// Why it began; none while it has not.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        let own = self.0.cause.load(Ordering::Acquire);
        let found = Cause::ALL.into_iter().find(|cause| *cause as u8 == own);
        found.or_else(|| self.0.parent.as_ref().and_then(Self::cause))
    }

    /// Resolves once it begins.
    pub fn begun(&self) -> WaitForCancellationFutureOwned {
        self.0.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Ending};

    #[tokio::test]
    async fn what_ends_the_whole_ends_its_parts_and_not_the_other_way_round() {
        let server = Ending::default();
        let (connection, other) = (server.child(), server.child());
        let call = connection.child();
        call.begin(Cause::MaxAge);
        call.begun().await;
        assert_eq!((call.cause(), connection.cause()), (Some(Cause::MaxAge), None));
        server.begin(Cause::Draining);
        other.child().begun().await;
        let causes = [&connection, &other, &call].map(Ending::cause);
        assert_eq!(causes, [Some(Cause::Draining), Some(Cause::Draining), Some(Cause::MaxAge)]);
    }
}
