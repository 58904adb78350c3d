//! Why a caller is turned away.
//! Never: repeats a credential, or says whether a topic exists.

use std::sync::Arc;
use std::time::Duration;

use super::jwt::Refusal;
use super::policy::Action;

/// Why a caller is not known, not allowed, or asked to slow down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing says who calls.
    #[error("no identity: send `authorization: Bearer TOKEN`, or present a client certificate")]
    Missing,
    /// The header holds something else.
    #[error("the authorization header is not one bearer token")]
    Malformed,
    /// Neither in the token file, nor a JWT where JWTs are taken.
    #[error("the token is not known")]
    UnknownToken,
    /// A JWT that is not taken.
    #[error("the token is refused: {0}")]
    Jwt(#[from] Refusal),
    /// The certificate was valid when the connection was made.
    #[error("the client certificate has expired")]
    CertificateExpired,
    /// The credential is good, but its name is no principal's.
    #[error("the identity's name {0}")]
    Name(&'static str),
    /// The policy does not allow it.
    #[error("{principal:?} may not {action} {topic:?}")]
    Denied {
        /// Who asks.
        principal: Arc<str>,
        /// What for.
        action: &'static str,
        /// Where.
        topic: String,
    },
    /// Too many tokens were invalid lately.
    #[error(transparent)]
    TooManyFailures(TooMany),
    /// A quota is used up.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

impl Error {
    /// The policy does not allow it.
    #[must_use]
    pub(super) fn denied(principal: &Arc<str>, action: Action, topic: &str) -> Self {
        let action = match action {
            Action::Publish => "publish to",
            Action::Subscribe => "subscribe to",
            Action::Admin => "administer",
            Action::Any => "see",
        };
        Self::Denied { principal: Arc::clone(principal), action, topic: topic.to_owned() }
    }
}

/// A connection or a peer whose tokens are not checked for a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many invalid tokens from this {of}: at most {limit} a second are checked ({flag}); come back in {} ms \
     with a valid one",
    .retry.as_millis()
)]
pub struct TooMany {
    /// What they came from: `connection` or `address`.
    pub of: &'static str,
    /// How many are checked in vain in a second.
    pub limit: u64,
    /// The setting.
    pub flag: &'static str,
    /// When there is room again.
    pub retry: Duration,
}

/// A quota that is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quota {quota} of {} is used up: at most {limit}{}", whose(.principal.as_deref()), again(.retry))]
pub struct Exceeded {
    /// Which one.
    pub quota: &'static str,
    /// Whose; none where it is all callers' together.
    pub principal: Option<Arc<str>>,
    /// How much it allows.
    pub limit: u64,
    /// When there is room again, where that is known.
    pub retry: Option<Duration>,
}

impl Exceeded {
    /// Whose quota it is, as `QuotaFailure` says it.
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
