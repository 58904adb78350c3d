//! The options of identities and policy, as the configuration gives them.

use std::path::PathBuf;
use std::time::Duration;

use super::rate_limiter::Limits;

/// Kinds of identities, and the files of each.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// File of the names and hashes of static tokens.
    pub tokens: Option<PathBuf>,
    /// Requirements on JWTs, and the public keys they are signed with.
    pub jwt: Option<JwtOptions>,
    /// Client certificates are identities.
    pub certificates: bool,
    /// File of the policy; required where there are identities.
    pub policy: Option<PathBuf>,
    /// Limits of all callers together.
    pub limits: Limits,
    /// Limits of invalid tokens.
    pub failures: FailureLimits,
}

/// Requirements on a JWT.
#[derive(Clone, Debug, Default)]
pub struct JwtOptions {
    /// File of the keys (a JWKS).
    pub jwks: PathBuf,
    /// Required `iss`.
    pub issuer: String,
    /// Required `aud`, or one of several.
    pub audience: String,
    /// Tolerated difference of clocks.
    pub leeway: Duration,
    /// Claim that names the principal.
    pub principal_claim: String,
}

/// Maximum failed checks a second; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureLimits {
    /// Limit of one connection.
    pub connection: u64,
    /// Limit of one peer's address, all its connections together.
    pub peer: u64,
}
