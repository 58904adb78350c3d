//! JWTs of an issuer, and forged ones. The RSA key is public, as it is in the repository.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

const RSA: &[u8] = include_bytes!("../../data/test-only-rsa-2048.der");

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Key pair with its `kid`.
pub struct Signer {
    pub kid: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    pub fn rs256(kid: &'static str) -> Self {
        let pair = RsaKeyPair::from_der(RSA).expect("a key");
        Self { kid, pair: Pair::Rsa(Box::new(pair)) }
    }

    pub fn es256(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("random bytes");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key");
        Self { kid, pair: Pair::P256(Box::new(pair)) }
    }

    pub fn eddsa(kid: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random bytes");
        let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key");
        Self { kid, pair: Pair::Ed25519(Box::new(pair)) }
    }

    /// Public key as a JWK.
    pub fn jwk(&self) -> Value {
        let kid = self.kid;
        match &self.pair {
            Pair::Rsa(pair) => {
                let rsa::PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": base64(n), "e": base64(e) })
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y })
            }
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64(pair.public_key()) })
            }
        }
    }

    pub fn header(&self) -> Value {
        let alg = match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        };
        json!({ "alg": alg, "typ": "JWT", "kid": self.kid })
    }

    /// Token with these claims and the right header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    /// Token with an arbitrary header.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Pair::P256(pair) => pair.sign(&random, message.as_bytes()).expect("signed").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64(signature))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string()), base64(claims.to_string()))
}

/// JWKS of these keys.
pub fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Token whose HMAC key is public.
pub fn hs256(secret: &[u8], kid: &str, claims: &Value) -> String {
    let message = message(&json!({ "alg": "HS256", "typ": "JWT", "kid": kid }), claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", base64(tag))
}

/// Token without a signature.
pub fn unsigned(alg: &str, kid: &str, claims: &Value) -> String {
    format!("{}.", message(&json!({ "alg": alg, "kid": kid }), claims))
}
