//! An identity: the principal, and the credential that proves it.

use std::sync::Arc;
use std::time::SystemTime;

use super::principals::Principal;

/// Proof of an identity. It must still be accepted after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: anybody calls.
    None,
    /// A static token with this SHA-256.
    Token([u8; 32]),
    /// A JWT signed with the key of this fingerprint.
    Key([u8; 32]),
    /// A client certificate, which TLS has verified.
    Certificate,
}

/// Identity of a caller.
pub(super) struct Identity {
    pub(super) principal: Arc<Principal>,
    pub(super) proof: Proof,
    pub(super) expires: Option<SystemTime>,
}
