//! One snapshot of identities and policy. It is replaced whole; what rests on one that was replaced is
//! told so.
//! Never: changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::caller::Proof;
use super::jwks::Key;
use super::jwt::{self, Signed, Verified};
use super::policy::Policy;
use super::tokens::{self, Tokens};
use super::{Attempts, Error, JwtOptions, Refusal};

/// Identities and policy.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// None where everybody may do everything.
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) jwt: Option<Arc<Issuer>>,
    /// What places in lists are sealed with: a hash of all the files, in which the hashes of the tokens
    /// are that nobody knows.
    pub(super) key: [u8; 32],
    /// Cancelled once others hold.
    pub(super) replaced: CancellationToken,
}

/// Who signs JWTs.
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

    /// What a token says, which may have expired. Checking a signature is dear, and sending a wrong one cheap.
    fn verify(&self, token: &str, now: SystemTime, attempts: &Attempts) -> Result<Verified, Error> {
        let signed = Signed::read(token, &self.keys)?;
        attempts.admit()?;
        let verified = signed.verify(&self.options, now);
        verified.inspect_err(|_| attempts.failed()).map_err(Error::from)
    }
}

/// Whose a credential is.
pub(super) struct Identified {
    pub(super) name: Arc<str>,
    pub(super) proof: Proof,
    pub(super) expires: Option<SystemTime>,
}

impl Rules {
    /// Whose token this is.
    ///
    /// # Errors
    /// It is nobody's.
    pub(super) fn identify(
        &self,
        token: &str,
        now: SystemTime,
        attempts: &Attempts,
    ) -> Result<Identified, Error> {
        // Hashing has its price too.
        if token.len() > jwt::TOKEN_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        let hash = tokens::hash(token.as_bytes());
        if let Some(name) = self.tokens.as_ref().and_then(|tokens| tokens.find(&hash)) {
            return Ok(Identified { name: Arc::clone(name), proof: Proof::Token(hash), expires: None });
        }
        // Three parts, or it was never meant to be a JWT.
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

    /// Whether what an identity rested on is still there.
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
