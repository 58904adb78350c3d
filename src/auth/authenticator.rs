//! The handle through which callers are authenticated and files are read again.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::attempts::{Attempts, Failures};
use super::caller::Caller;
use super::error::Error;
use super::files::{Files, LoadError};
use super::identity::{Identity, Proof};
use super::name::{ANONYMOUS, check_name};
use super::options::{FailureLimits, Options};
use super::peer::PeerCertificate;
use super::principals::Principal;
use super::rate_limiter::Limits;
use super::rules::Rules;
use super::shared::Shared;

/// Handle to all identities, the policy and the quotas. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Shared>);

impl Auth {
    /// Lets everybody do everything within the limits: no identity and no policy is configured.
    #[must_use]
    pub fn open(limits: Limits) -> Self {
        Self::of(Files::default(), Rules::default(), limits, FailureLimits::default())
    }

    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// One cannot be read or has mistakes, or there are identities without a policy.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let mut files = Files::new(options)?;
        let rules = files.load()?;
        Ok(Self::of(files, rules, options.limits, options.failures))
    }

    fn of(files: Files, rules: Rules, limits: Limits, failures: FailureLimits) -> Self {
        Self(Arc::new(Shared {
            rules: ArcSwap::from_pointee(rules),
            principals: Mutex::default(),
            files: Mutex::new(files),
            rate_limiter: Arc::default(),
            limits,
            failures: Failures::new(failures),
            anonymous: Arc::new(Identity {
                principal: Arc::new(Principal::new(ANONYMOUS.into())),
                proof: Proof::None,
                expires: None,
            }),
        }))
    }

    /// Tells whether everybody may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.rules.load().policy.is_none()
    }

    /// Reads the files again and applies what changed. Open calls check their permission anew. A file that cannot
    /// be read or has mistakes changes nothing. Blocking.
    ///
    /// # Errors
    /// The mistakes in a file, once for each content; changes of the other files are applied.
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.rules.load_full();
        let (after, outcome) = files.reload(&before);
        let Some(after) = after else { return outcome.map(|()| Reloaded::Unchanged) };
        self.0.rules.store(Arc::new(after));
        before.replaced.cancel();
        outcome.map(|()| Reloaded::Changed)
    }

    /// Returns the counter of failures of a new connection of this peer.
    #[must_use]
    pub fn attempts(&self, peer: Option<IpAddr>) -> Attempts {
        self.0.failures.of_connection(peer)
    }

    /// Identifies the caller: by the value of the `authorization` header where there is one, else by the client
    /// certificate, else as anonymous.
    ///
    /// # Errors
    /// There is no identity, it is not valid (yet or any more), or too many were invalid lately.
    pub fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        peer: Option<&PeerCertificate>,
        now: SystemTime,
        attempts: &Attempts,
    ) -> Result<Caller, Error> {
        let rules = self.0.rules.load();
        let Some(policy) = &rules.policy else { return Ok(self.anonymous()) };
        if peer.is_some_and(|peer| peer.expires <= now) {
            return Err(Error::CertificateExpired);
        }
        let certificate_expires = peer.map(|peer| peer.expires);
        let (name, proof, expires) = match (authorization, peer) {
            (Some(header), _) => {
                let found = rules.identify(bearer(header)?, now, attempts)?;
                (found.name, found.proof, found.expires.into_iter().chain(certificate_expires).min())
            }
            (None, Some(peer)) => {
                check_name(&peer.name).map_err(Error::Name)?;
                (Arc::clone(&peer.name), Proof::Certificate, certificate_expires)
            }
            (None, None) if policy.knows_anonymous() => return Ok(self.anonymous()),
            (None, None) => return Err(Error::Missing),
        };
        let principal = self.0.principals.lock().unwrap_or_else(PoisonError::into_inner).get(&name);
        Ok(Caller::new(Arc::clone(&self.0), Arc::new(Identity { principal, proof, expires })))
    }

    /// Returns the caller that [`Self::authenticate`] found. A call that was not authenticated is anybody's where
    /// everybody may do everything, and refused anywhere else.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn caller(&self, found: Option<&Caller>) -> Result<Caller, Error> {
        match found {
            Some(caller) => Ok(caller.clone()),
            None if self.is_open() => Ok(self.anonymous()),
            None => Err(Error::Missing),
        }
    }

    fn anonymous(&self) -> Caller {
        Caller::new(Arc::clone(&self.0), Arc::clone(&self.0.anonymous))
    }
}

/// Outcome of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// No file has changed.
    Unchanged,
    /// The changes are in force.
    Changed,
}

/// Extracts the token from the value of an `authorization` header.
fn bearer(header: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(header).map_err(|_| Error::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(Error::Malformed)?;
    let token = token.trim_start();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token { Ok(token) } else { Err(Error::Malformed) }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
