//! Who calls, and what they may do. A leaf: knows neither gRPC nor topics beyond their names.
//! Never: logs, shows or keeps a credential.
//!
//! ```text
//! token file ─┐
//! JWKS file  ─┼→ Rules (one snapshot, replaced whole) → authenticate → Caller → allows, quotas
//! policy file ┘
//! ```

mod attempts;
mod cache;
mod caller;
mod error;
mod files;
mod jwks;
mod jwt;
mod name;
mod pattern;
mod peer;
mod policy;
mod principals;
mod rate_limiter;
mod rules;
mod scope;
mod seal;
mod set;
#[cfg(test)]
#[path = "../../tests/integration/harness/jwt.rs"]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;

pub use attempts::{Attempts, FailureLimits};
pub use caller::{Caller, CreationPermit};
pub use error::{Error, Exceeded, TooMany};
pub use files::LoadError;
pub use jwt::Refusal;
pub use name::{ANONYMOUS, check_name};
pub use peer::PeerCertificate;
pub use policy::Action;
pub use rate_limiter::{Allowance, Limits, SubscriptionPermit};
pub use scope::Scope;
pub use set::Span;
pub use tokens::{entry, new_token};

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use attempts::Failures;
use caller::{Proof, Who};
use files::Files;
use principals::{Principal, Principals};
use rate_limiter::RateLimiter;
use rules::Rules;

/// What identities there are, and where their files lie.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names and hashes of static tokens.
    pub tokens: Option<PathBuf>,
    /// Public keys that JWTs are signed with, and what is asked of them.
    pub jwt: Option<JwtOptions>,
    /// Whether client certificates are identities.
    pub certificates: bool,
    /// Who may do what; must be there where there are identities.
    pub policy: Option<PathBuf>,
    /// Of all callers together.
    pub limits: Limits,
    /// Of invalid tokens.
    pub failures: FailureLimits,
}

/// What is asked of a JWT.
#[derive(Clone, Debug, Default)]
pub struct JwtOptions {
    /// The file with the keys (a JWKS).
    pub jwks: PathBuf,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or hold.
    pub audience: String,
    /// How much clocks may differ.
    pub leeway: Duration,
    /// The claim that names the principal.
    pub principal_claim: String,
}

/// A cheap handle to all identities, the policy and the quotas.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    rules: ArcSwap<Rules>,
    principals: Mutex<Principals>,
    files: Mutex<Files>,
    /// What all callers together have used.
    rate_limiter: Arc<RateLimiter>,
    limits: Limits,
    failures: Arc<Failures>,
    /// Who calls without a credential.
    anonymous: Arc<Who>,
}

impl Auth {
    /// Everybody may do everything, within these limits: no identity and no policy is configured.
    #[must_use]
    pub fn open(limits: Limits) -> Self {
        Self::of(Files::default(), Rules::default(), limits, FailureLimits::default())
    }

    /// Reads the files; blocking.
    ///
    /// # Errors
    /// One cannot be read or has mistakes, or there are identities without a policy.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let mut files = Files::new(options)?;
        let rules = files.load()?;
        Ok(Self::of(files, rules, options.limits, options.failures))
    }

    fn of(files: Files, rules: Rules, limits: Limits, failures: FailureLimits) -> Self {
        Self(Arc::new(Inner {
            rules: ArcSwap::from_pointee(rules),
            principals: Mutex::default(),
            files: Mutex::new(files),
            rate_limiter: Arc::default(),
            limits,
            failures: Failures::new(failures),
            anonymous: Arc::new(Who {
                principal: Arc::new(Principal::new(ANONYMOUS.into())),
                proof: Proof::None,
                expires: None,
            }),
        }))
    }

    /// Whether everybody may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.rules.load().policy.is_none()
    }

    /// Looks at the files again and takes over what changed; blocking. Calls that are open look at
    /// their permission anew. A file that cannot be read or has mistakes leaves what there was.
    ///
    /// # Errors
    /// What is wrong with a file, once for each content; what is right in the others counts.
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.rules.load_full();
        let (after, outcome) = files.reload(&before);
        let Some(after) = after else { return outcome.map(|()| Reloaded::Unchanged) };
        self.0.rules.store(Arc::new(after));
        before.replaced.cancel();
        outcome.map(|()| Reloaded::Changed)
    }

    /// What a new connection of this peer fails at is counted by.
    #[must_use]
    pub fn attempts(&self, peer: Option<IpAddr>) -> Attempts {
        self.0.failures.of_connection(peer)
    }

    /// Who calls: by the value of the `authorization` header where there is one, else by the client
    /// certificate, else nobody in particular.
    ///
    /// # Errors
    /// There is no identity, or it is not, or no longer, or not yet valid; or too many were not lately.
    pub fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        peer: Option<&PeerCertificate>,
        now: SystemTime,
        attempts: &Attempts,
    ) -> Result<Caller, Error> {
        let rules = self.0.rules.load();
        let Some(policy) = &rules.policy else { return Ok(self.everybody()) };
        if peer.is_some_and(|peer| peer.expires <= now) {
            return Err(Error::CertificateExpired);
        }
        let lasts = peer.map(|peer| peer.expires);
        let (name, proof, expires) = match (authorization, peer) {
            (Some(header), _) => {
                let found = rules.identify(bearer(header)?, now, attempts)?;
                (found.name, found.proof, found.expires.into_iter().chain(lasts).min())
            }
            (None, Some(peer)) => {
                check_name(&peer.name).map_err(Error::Name)?;
                (Arc::clone(&peer.name), Proof::Certificate, lasts)
            }
            (None, None) if policy.knows_anonymous() => return Ok(self.everybody()),
            (None, None) => return Err(Error::Missing),
        };
        let principal = self.0.principals.lock().unwrap_or_else(PoisonError::into_inner).get(&name);
        Ok(Caller::new(self.clone(), Arc::new(Who { principal, proof, expires })))
    }

    /// The caller found by [`Self::authenticate`]. Where nobody looked, which is so only where everybody
    /// may do everything, anybody; anywhere else that is refused.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn caller(&self, found: Option<&Caller>) -> Result<Caller, Error> {
        match found {
            Some(caller) => Ok(caller.clone()),
            None if self.is_open() => Ok(self.everybody()),
            None => Err(Error::Missing),
        }
    }

    fn everybody(&self) -> Caller {
        Caller::new(self.clone(), Arc::clone(&self.0.anonymous))
    }
}

/// What a reload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// No file has changed.
    Unchanged,
    /// What changed holds now.
    Changed,
}

/// The token in the value of an `authorization` header.
fn bearer(header: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(header).map_err(|_| Error::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(Error::Malformed)?;
    let token = token.trim_start();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token { Ok(token) } else { Err(Error::Malformed) }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
