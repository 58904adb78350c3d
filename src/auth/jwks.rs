//! Public keys that JWTs are signed with, from a JWKS file (RFC 7517). RSA from 2048 bits, P-256 and
//! Ed25519; the kind of a key alone decides the algorithm that it verifies.
//! Symmetric and private keys are refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::tokens::hash;

/// Maximum number of keys: an issuer has a few.
const KEYS_MAX: usize = 100;
/// Minimum bytes of an RSA modulus.
const RSA_BYTES_MIN: usize = 256;
/// Maximum bytes of an RSA modulus, which is ring's limit too.
const RSA_BYTES_MAX: usize = 1024;

/// An algorithm that a JWT may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// Parses an `alg`; none for algorithms that are not accepted.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    material: Material,
    /// Fingerprint of the key.
    pub(super) fingerprint: [u8; 32],
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

impl Key {
    pub(super) const fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Tells whether this key made the signature.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Material::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
        }
    }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

/// Reads a JWKS. Keys for other purposes than the accepted signatures are left out.
///
/// # Errors
/// Every mistake with its place.
pub(super) fn parse(text: &str) -> Result<Vec<Key>, Vec<String>> {
    let set: RawSet = serde_json::from_str(text)
        .map_err(|error| vec![format!("line {}: not a JWKS, a JSON object with `keys`", error.line())])?;
    let (mut keys, mut faults) = (Vec::<Key>::new(), Vec::new());
    for (raw, number) in set.keys.iter().zip(1..) {
        match key(raw) {
            Ok(None) => {}
            Ok(Some(key)) if key.id.is_some() && keys.iter().any(|other| other.id == key.id) => {
                faults.push(format!("key {number}: another has the same kid"));
            }
            Ok(Some(key)) => keys.push(key),
            Err(why) => faults.push(format!("key {number}: {why}")),
        }
    }
    if keys.len() > KEYS_MAX {
        faults.push(format!("more than {KEYS_MAX} keys"));
    }
    if keys.len() > 1 && keys.iter().any(|key| key.id.is_none()) {
        faults.push("a key without a kid beside others can never be chosen".to_owned());
    }
    if keys.is_empty() && faults.is_empty() {
        faults.push("no key for RS256, ES256 or EdDSA".to_owned());
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

fn key(raw: &RawKey) -> Result<Option<Key>, &'static str> {
    if raw.kty == "oct" || raw.k.is_some() {
        return Err("a symmetric key, which every reader of this file could sign with");
    }
    if raw.d.is_some() {
        return Err("a private key; only the public half belongs here");
    }
    if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Ok(None);
    }
    let material = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => rsa(raw)?,
        ("EC", Some("P-256")) => {
            let mut point = [4; 65];
            point[1..33].copy_from_slice(&exactly_32(raw.x.as_deref())?);
            point[33..].copy_from_slice(&exactly_32(raw.y.as_deref())?);
            Material::P256(point)
        }
        ("OKP", Some("Ed25519")) => Material::Ed25519(exactly_32(raw.x.as_deref())?),
        _ => return Ok(None),
    };
    let fingerprint = fingerprint(&material);
    let key = Key { id: raw.kid.clone(), material, fingerprint };
    let meant = raw.alg.as_deref();
    Ok(meant.is_none_or(|alg| Algorithm::parse(alg) == Some(key.algorithm())).then_some(key))
}

fn rsa(raw: &RawKey) -> Result<Material, &'static str> {
    // ring takes no leading zeros.
    let number = |text: Option<&str>| {
        let bytes = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.ok_or("n and e must be base64url without padding")?;
        Ok::<_, &'static str>(bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
    };
    let (n, e) = (number(raw.n.as_deref())?, number(raw.e.as_deref())?);
    if !(RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&n.len()) || n[0] < 0x80 && n.len() == RSA_BYTES_MIN {
        return Err("an RSA key must have 2048 to 8192 bits");
    }
    if e.is_empty() {
        return Err("e is zero");
    }
    Ok(Material::Rsa { n, e })
}

fn exactly_32(text: Option<&str>) -> Result<[u8; 32], &'static str> {
    let bytes = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("x (and y) must be 32 bytes, base64url without padding")
}

fn fingerprint(material: &Material) -> [u8; 32] {
    let mut bytes = Vec::new();
    match material {
        Material::Rsa { n, e } => {
            bytes.push(1);
            bytes.extend((n.len() as u64).to_be_bytes());
            bytes.extend(n);
            bytes.extend(e);
        }
        Material::P256(point) => bytes.extend(std::iter::once(&2).chain(point)),
        Material::Ed25519(key) => bytes.extend(std::iter::once(&3).chain(key)),
    }
    hash(&bytes)
}
