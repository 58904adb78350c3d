//! JWTs (RFC 7519, signed by RFC 7515 and 8037): RS256, ES256 and EdDSA. The key decides the algorithm and the
//! token must agree; the signature is checked first, and only then the claims. `none`, HMACs, critical extensions
//! and tokens without `exp` are refused.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::jwks::{Algorithm, Key};
use super::name::check_name;
use super::options::JwtOptions;

/// Longest token, in bytes: those in use have one or two thousand, and all headers get 32 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Latest time a token may name, in Unix seconds (the year 9999): sums of times stay in range.
const TIME_MAX: f64 = 253_402_300_799.0;

/// Reason for refusing a JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is larger than any real one.
    #[error("it has more than 8 KiB")]
    TooLarge,
    /// The token is not three parts of base64url, the first two of them JSON objects.
    #[error("it is not a JWT")]
    Garbage,
    /// The algorithm is not accepted, or is not that of the key.
    #[error("its algorithm is not RS256, ES256 or EdDSA, or not its key's")]
    Algorithm,
    /// The token has critical extensions, none of which is known.
    #[error("it asks for an extension that is not known (crit)")]
    Critical,
    /// The token names no known key.
    #[error("its key (kid) is not known")]
    Key,
    /// The signature is not one of the key.
    #[error("its signature is wrong")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("its claim {0} is missing or of the wrong type")]
    Claim(&'static str),
    /// The token has expired.
    #[error("it has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// The token is of another issuer.
    #[error("it is of another issuer")]
    Issuer,
    /// The token is for another audience.
    #[error("it is for another audience")]
    Audience,
    /// The name cannot be a principal's.
    #[error("its principal's name {0}")]
    Name(&'static str),
}

/// Content of a verified JWT.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) name: Arc<str>,
    /// Time of `exp` and the leeway.
    pub(super) expires: SystemTime,
    /// Fingerprint of the key that signed it.
    pub(super) key: [u8; 32],
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// Tells that a member is present, whatever its value: `null` counts too.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// Token of the right form, with the key that it names.
pub(super) struct Signed<'a> {
    message: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
    key: &'a Key,
}

impl<'a> Signed<'a> {
    /// Reads a token, without checking its signature.
    ///
    /// # Errors
    /// The first mistake in its form, its header or its key.
    pub(super) fn read(token: &'a str, keys: &'a [Key]) -> Result<Self, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Garbage)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::Garbage)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Garbage);
        let (header, claims, signature) = (decoded(header)?, decoded(claims)?, decoded(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| Refusal::Garbage)?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(Refusal::Algorithm)?;
        if header.crit {
            return Err(Refusal::Critical);
        }
        let key = choose(keys, header.kid.as_deref()).ok_or(Refusal::Key)?;
        if key.algorithm() != algorithm {
            return Err(Refusal::Algorithm);
        }
        Ok(Self { message, claims, signature, key })
    }

    /// Checks the signature and the claims, except that the token has not expired.
    ///
    /// # Errors
    /// The first mistake in its signature or its claims.
    pub(super) fn verify(self, options: &JwtOptions, now: SystemTime) -> Result<Verified, Refusal> {
        if !self.key.verifies(self.message.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        let claims: Map<String, Value> =
            serde_json::from_slice(&self.claims).map_err(|_| Refusal::Garbage)?;
        let (name, expires) = check(&claims, options, now)?;
        Ok(Verified { name, expires, key: self.key.fingerprint })
    }
}

/// Finds the key that a token names; a token without a name can only mean the only key.
fn choose<'a>(keys: &'a [Key], id: Option<&str>) -> Option<&'a Key> {
    match (id, keys) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(id), _) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
    }
}

fn check(
    claims: &Map<String, Value>,
    options: &JwtOptions,
    now: SystemTime,
) -> Result<(Arc<str>, SystemTime), Refusal> {
    let expires = time(claims, "exp")?.ok_or(Refusal::Claim("exp"))? + options.leeway;
    if time(claims, "nbf")?.is_some_and(|from| now + options.leeway < from) {
        return Err(Refusal::NotYetValid);
    }
    match claims.get("iss") {
        Some(Value::String(issuer)) if *issuer == options.issuer => {}
        Some(Value::String(_)) => return Err(Refusal::Issuer),
        _ => return Err(Refusal::Claim("iss")),
    }
    let is_ours = |audience: &Value| audience.as_str() == Some(&options.audience);
    match claims.get("aud") {
        Some(audience) if is_ours(audience) => {}
        Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => {}
        Some(Value::String(_) | Value::Array(_)) => return Err(Refusal::Audience),
        _ => return Err(Refusal::Claim("aud")),
    }
    let name = claims.get(&options.principal_claim).and_then(Value::as_str);
    let name = name.ok_or(Refusal::Claim("of the principal"))?;
    check_name(name).map_err(Refusal::Name)?;
    Ok((name.into(), expires))
}

/// Reads a claim that is a time, where it is present.
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<SystemTime>, Refusal> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=TIME_MAX).contains(seconds));
    let seconds = seconds.ok_or(Refusal::Claim(claim))?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}
