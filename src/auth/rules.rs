//! One snapshot of identities and policy, which never changes. It is replaced as a whole, and calls that rest on
//! the old one are notified.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::cache::Cache;
use super::error::Error;
use super::identity::Proof;
use super::jwks::Key;
use super::jwt::{self, Refusal, Signed, Verified};
use super::options::JwtOptions;
use super::policy::Policy;
use super::tokens::{self, Tokens};

/// Identities and policy.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Absent where everybody may do everything.
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) jwt: Option<Arc<Issuer>>,
    /// Key for sealing places in lists: a hash of all files, whose hashes of tokens nobody knows.
    pub(super) key: [u8; 32],
    /// Cancelled once other rules are in force.
    pub(super) replaced: CancellationToken,
}

/// Issuer of JWTs.
#[derive(Debug)]
pub(super) struct Issuer {
    options: JwtOptions,
    keys: Vec<Key>,
    fingerprints: HashSet<[u8; 32]>,
    verified: Cache<Verified>,
}

impl Issuer {
    pub(super) fn new(options: JwtOptions, keys: Vec<Key>) -> Self {
        let fingerprints = keys.iter().map(|key| key.fingerprint).collect();
        Self { options, keys, fingerprints, verified: Cache::default() }
    }

    /// Verifies a token, which may have expired. The number of wrong signatures is limited, as checking one costs far
    /// more than sending it.
    fn verify(&self, token: &str, now: SystemTime, attempts: &Attempts) -> Result<Verified, Error> {
        let signed = Signed::read(token, &self.keys)?;
        attempts.admit()?;
        let verified = signed.verify(&self.options, now);
        verified.inspect_err(|_| attempts.failed()).map_err(Error::from)
    }
}

/// Owner of a credential.
pub(super) struct Identified {
    pub(super) name: Arc<str>,
    pub(super) proof: Proof,
    pub(super) expires: Option<SystemTime>,
}

impl Rules {
    /// Finds the owner of a token.
    ///
    /// # Errors
    /// The token is not valid, or too many were not lately.
    pub(super) fn identify(
        &self,
        token: &str,
        now: SystemTime,
        attempts: &Attempts,
    ) -> Result<Identified, Error> {
        // Hashing a large token costs too.
        if token.len() > jwt::TOKEN_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        let hash = tokens::hash(token.as_bytes());
        if let Some(name) = self.tokens.as_ref().and_then(|tokens| tokens.find(&hash)) {
            return Ok(Identified { name: Arc::clone(name), proof: Proof::Token(hash), expires: None });
        }
        // A JWT has three parts.
        let issuer = self.jwt.as_ref().filter(|_| token.matches('.').count() == 2);
        let issuer = issuer.ok_or(Error::UnknownToken)?;
        let Verified { name, expires, key } = match issuer.verified.get(&hash) {
            Some(known) => known,
            None => {
                let verified = issuer.verify(token, now, attempts)?;
                issuer.verified.put(hash, verified.clone());
                verified
            }
        };
        if now >= expires {
            return Err(Refusal::Expired.into());
        }
        Ok(Identified { name, proof: Proof::Key(key), expires: Some(expires) })
    }

    /// Tells whether the proof of an identity is still accepted.
    pub(super) fn knows(&self, name: &str, proof: Proof) -> bool {
        match proof {
            Proof::None | Proof::Certificate => true,
            Proof::Token(hash) => {
                let tokens = self.tokens.as_ref();
                tokens.and_then(|tokens| tokens.find(&hash)).is_some_and(|owner| **owner == *name)
            }
            Proof::Key(key) => self.jwt.as_ref().is_some_and(|issuer| issuer.fingerprints.contains(&key)),
        }
    }
}
