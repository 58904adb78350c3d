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
    /// Too many bytes are in flight and waiting: ask again later; nothing was stored.
    #[error("too much is being published at once")]
    Overloaded,
}
