//! Errors of topics. `service::status` maps every variant to a gRPC status.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::storage;

/// The reason why a publish, a subscription or an administrative call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
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
    /// An operator has ended the call. Do not call again without asking the operator.
    #[error("an operator of the server has ended this call{}", ban(*.banned_until))]
    Disconnected {
        /// End of the ban of the caller in Unix seconds; 0 without a ban.
        banned_until: u64,
    },
    /// Too many bytes are in flight and waiting. Nothing was stored; retry later.
    #[error("too much is being published at once")]
    Overloaded,
}

fn ban(until: u64) -> String {
    if until == 0 {
        return ", do not repeat it without asking".to_owned();
    }
    let left = ban_seconds(until);
    format!(", and its caller is refused for {left} s more")
}

/// Returns the seconds until the end of a ban, in Unix seconds.
#[must_use]
pub fn ban_seconds(until: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    until.saturating_sub(now.as_secs())
}
