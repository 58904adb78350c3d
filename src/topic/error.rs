//! Why a topic refuses.
//! Never: a gRPC code; `service::status` maps every variant.

use crate::storage;

/// Why a publish, a subscription or a change of a topic was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The storage's own answer.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Recovery is not finished: ask again soon.
    #[error("the server is starting")]
    Starting,
    /// The server is shutting down: go on elsewhere, or here once it is back.
    #[error("the server is shutting down")]
    Draining,
    /// The call, or its connection, is as old as it may get: begin another, and resume.
    #[error("the stream reached its maximum age")]
    MaxAge,
    /// The identity that the call was begun with has expired: get a new one, and resume.
    #[error("the identity has expired")]
    IdentityExpired,
    /// The permission that the call was begun with was withdrawn.
    #[error("the permission was withdrawn")]
    PermissionWithdrawn,
    /// Too many bytes are in flight and waiting: ask again later; nothing was stored.
    #[error("too much is being published at once")]
    Overloaded,
}
