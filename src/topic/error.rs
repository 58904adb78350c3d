//! Errors of topics. `service::status` maps every variant to a gRPC status.

use crate::storage;

/// The reason why a publish, a subscription or an administrative call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The storage failed or refused.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Recovery is not finished. Retry soon.
    #[error("the server is starting")]
    Starting,
    /// The server is shutting down. Continue at another server, or at this one once it is back.
    #[error("the server is shutting down")]
    Draining,
    /// The call, or its connection, has reached its maximum age. Resume with a new call.
    #[error("the stream reached its maximum age")]
    MaxAge,
    /// The identity that the call was started with has expired. Resume with a new one.
    #[error("the identity has expired")]
    IdentityExpired,
    /// The permission that the call was started with was withdrawn.
    #[error("the permission was withdrawn")]
    PermissionWithdrawn,
    /// Too many bytes are in flight and waiting. Nothing was stored; retry later.
    #[error("too much is being published at once")]
    Overloaded,
}
