//! JWTs (RFC 7519, signed as RFC 7515 and 8037 say): RS256, ES256 and EdDSA. The key decides the
//! algorithm and the token must agree; the signature comes first, and only then is a claim believed.
//! Never: `none`, an HMAC, an extension that the token calls critical, or a token without `exp`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::JwtOptions;
use super::jwks::{Algorithm, Key};
use super::name::check_name;

/// Longest token, in bytes: those in use have one or two thousand, and all headers get 32 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Latest time a token may name, in Unix seconds (the year 9999): sums of times stay in range.
const TIME_MAX: f64 = 253_402_300_799.0;

/// Why a JWT is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is larger than any real one.
    #[error("it has more than 8 KiB")]
    TooLarge,
    /// It is not three parts of base64url, the first two of them JSON objects.
    #[error("it is not a JWT")]
    Garbage,
    /// It names an algorithm that is not taken, or one that its key is not for.
    #[error("its algorithm is not RS256, ES256 or EdDSA, or not its key's")]
    Algorithm,
    /// It calls something critical that is not known here.
    #[error("it asks for an extension that is not known (crit)")]
    Critical,
    /// It names no key, or none that is known.
    #[error("its key (kid) is not known")]
    Key,
    /// Its key did not sign it.
    #[error("its signature is wrong")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("its claim {0} is missing or of the wrong type")]
    Claim(&'static str),
    /// It is too old.
    #[error("it has expired")]
    Expired,
    /// It is too young.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("it is of another issuer")]
    Issuer,
    /// It is meant for another server.
    #[error("it is for another audience")]
    Audience,
    /// Its principal can be none.
    #[error("its principal's name {0}")]
    Name(&'static str),
}

/// What a verified JWT says.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) name: Arc<str>,
    /// Its `exp` and the leeway.
    pub(super) expires: SystemTime,
    /// The fingerprint of the key that signed it.
    pub(super) key: [u8; 32],
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// That a member is there, whatever it says: `null` is there too.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// A token of the right form, with the key that it names.
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
    /// The first thing that is wrong with its form, its header or its key.
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

    /// What it says, where its key signed it. It may have expired.
    ///
    /// # Errors
    /// The first thing that is wrong with its signature or its claims.
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

/// The key a token names; one that names none may only mean the only one.
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

/// A claim that is a time, where it is there.
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<SystemTime>, Refusal> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=TIME_MAX).contains(seconds));
    let seconds = seconds.ok_or(Refusal::Claim(claim))?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}
