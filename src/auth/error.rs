//! The reasons for refusing a caller. No text repeats a credential or tells whether a topic exists.

use std::sync::Arc;
use std::time::Duration;

use super::jwt::Refusal;
use super::policy::Action;

/// Reason for not knowing a caller, not permitting something, or asking it to slow down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The call has no credential.
    #[error("no identity: send `authorization: Bearer TOKEN`, or present a client certificate")]
    Missing,
    /// The header is not one bearer token.
    #[error("the authorization header is not one bearer token")]
    Malformed,
    /// The token is neither in the token file, nor a JWT where JWTs are accepted.
    #[error("the token is not known")]
    UnknownToken,
    /// The JWT is refused.
    #[error("the token is refused: {0}")]
    Jwt(#[from] Refusal),
    /// The certificate, which was valid when the connection was made, has expired.
    #[error("the client certificate has expired")]
    CertificateExpired,
    /// The credential is valid, but its name cannot be a principal's.
    #[error("the identity's name {0}")]
    Name(&'static str),
    /// The policy does not allow it.
    #[error("{principal:?} may not {action} {topic:?}")]
    Denied {
        /// Name of the principal.
        principal: Arc<str>,
        /// Action that it asked for.
        action: &'static str,
        /// Topic that it asked for, with the group behind a slash where it asked for one.
        topic: String,
    },
    /// The policy does not allow it to operate the server.
    #[error("{principal:?} may not operate this server: no rule gives it the action `operate`")]
    NotOperator {
        /// Name of the principal.
        principal: Arc<str>,
    },
    /// Too many tokens were invalid lately.
    #[error(transparent)]
    TooManyFailures(TooMany),
    /// A quota is used up.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

impl Error {
    /// Creates the error of an action that the policy does not allow.
    #[must_use]
    pub(super) fn denied(principal: &Arc<str>, action: Action, topic: &str) -> Self {
        let action = match action {
            Action::Publish => "publish to",
            Action::Subscribe => "subscribe to",
            Action::Admin => "administer",
            Action::Consume => "consume from",
            Action::Any => "see",
        };
        Self::Denied { principal: Arc::clone(principal), action, topic: topic.to_owned() }
    }
}

/// Refusal to check tokens of a connection or a peer for a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many invalid tokens from this {of}: at most {limit} a second are checked ({flag}); come back in {} ms \
     with a valid one",
    .retry.as_millis()
)]
pub struct TooMany {
    /// Origin of the tokens: `connection` or `address`.
    pub of: &'static str,
    /// Maximum invalid tokens that are checked in a second.
    pub limit: u64,
    /// Flag of the limit.
    pub flag: &'static str,
    /// Time until there is room again.
    pub retry: Duration,
}

/// A quota that is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quota {quota} of {} is used up: at most {limit}{}", whose(.principal.as_deref()), again(.retry))]
pub struct Exceeded {
    /// Name of the quota.
    pub quota: &'static str,
    /// Principal whose quota it is; none for that of all callers together.
    pub principal: Option<Arc<str>>,
    /// Limit of the quota.
    pub limit: u64,
    /// Time until there is room again, where that is known.
    pub retry: Option<Duration>,
}

impl Exceeded {
    /// Returns the subject of a `QuotaFailure`.
    #[must_use]
    pub fn subject(&self) -> String {
        self.principal.as_ref().map_or_else(|| "server".to_owned(), |name| format!("principal:{name}"))
    }
}

fn whose(principal: Option<&str>) -> String {
    principal.map_or_else(|| "the server".to_owned(), |name| format!("{name:?}"))
}

fn again(retry: &Option<Duration>) -> String {
    retry.map_or_else(String::new, |retry| format!(", with room again in {} ms", retry.as_millis()))
}
