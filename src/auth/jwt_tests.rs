//! JWTs, good ones and forged ones, and the files of keys that they are checked against.

use std::time::Duration;

use serde_json::{Value, json};

use super::jwt::Signed;
use super::testing::{Signer, base64, hs256, unsigned};
use super::tests::{NOW, at, authenticate, claims, issuer, options, with, write};
use super::{ANONYMOUS, Auth, Error, FailureLimits, JwtOptions, Options, Refusal, entry};

#[test]
fn jwts_of_each_algorithm_are_accepted() {
    let signers = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d")];
    let (_dir, auth) = issuer(&signers.each_ref());
    for signer in &signers {
        let token = signer.sign(&claims());
        // The second time it comes from the cache.
        assert_eq!(authenticate(&auth, &token).as_deref(), Ok("billing"));
        assert_eq!(authenticate(&auth, &token).as_deref(), Ok("billing"));
    }
    let found = authenticate(&auth, &signers[2].sign(&with(&json!({ "aud": ["other", "streamway"] }))));
    assert_eq!(found.as_deref(), Ok("billing"));
}

/// RFC 7515, A.3, and RFC 8037, A.4: signatures and keys from elsewhere.
#[test]
fn the_vectors_of_the_rfcs_verify() {
    let key = json!({ "keys": [{
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }] });
    let keys = super::jwks::parse(&key.to_string()).unwrap();
    let message = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let signature =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature).unwrap();
    assert!(keys[0].verifies(message.as_bytes(), &signature));
    assert!(!keys[0].verifies(&message.as_bytes()[1..], &signature));
    // RFC 8037, A.4.
    let key = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }] });
    let keys = super::jwks::parse(&key.to_string()).unwrap();
    let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signature =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature).unwrap();
    assert!(keys[0].verifies(message.as_bytes(), &signature));
}

#[test]
fn wrong_claims_are_refused_by_name() {
    let signer = Signer::eddsa("d");
    let (_dir, auth) = issuer(&[&signer]);
    for (change, refusal) in [
        (json!({ "exp": NOW - 30 }), Some(Refusal::Expired)),
        (json!({ "exp": NOW - 29 }), None),
        (json!({ "exp": null }), Some(Refusal::Claim("exp"))),
        (json!({ "exp": (NOW + 600).to_string() }), Some(Refusal::Claim("exp"))),
        (json!({ "exp": -1 }), Some(Refusal::Claim("exp"))),
        (json!({ "exp": 1e300 }), Some(Refusal::Claim("exp"))),
        (json!({ "exp": [NOW + 600] }), Some(Refusal::Claim("exp"))),
        (json!({ "nbf": NOW + 31 }), Some(Refusal::NotYetValid)),
        (json!({ "nbf": NOW + 30 }), None),
        (json!({ "nbf": "soon" }), Some(Refusal::Claim("nbf"))),
        (json!({ "iss": "https://issuer/" }), Some(Refusal::Issuer)),
        (json!({ "iss": ["https://issuer"] }), Some(Refusal::Claim("iss"))),
        (json!({ "iss": null }), Some(Refusal::Claim("iss"))),
        (json!({ "aud": "streamway2" }), Some(Refusal::Audience)),
        (json!({ "aud": [] }), Some(Refusal::Audience)),
        (json!({ "aud": null }), Some(Refusal::Claim("aud"))),
        (json!({ "aud": { "streamway": true } }), Some(Refusal::Claim("aud"))),
        (json!({ "sub": null }), Some(Refusal::Claim("of the principal"))),
        (json!({ "sub": 7 }), Some(Refusal::Claim("of the principal"))),
        (json!({ "sub": "" }), Some(Refusal::Name("is empty"))),
        (json!({ "sub": "a\nb" }), Some(Refusal::Name("has spaces or control characters"))),
    ] {
        let expected = refusal.map_or(Ok("billing".to_owned()), |refusal| Err(Error::Jwt(refusal)));
        assert_eq!(authenticate(&auth, &signer.sign(&with(&change))), expected, "{change}");
    }
    let found = authenticate(&auth, &signer.sign(&with(&json!({ "sub": ANONYMOUS }))));
    assert!(matches!(found, Err(Error::Jwt(Refusal::Name(_)))), "{found:?}");
}

#[test]
fn forged_tokens_are_refused() {
    let (rsa, ec, other) = (Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("e"));
    let (_dir, auth) = issuer(&[&rsa, &ec]);
    let refused = |token: &str| match authenticate(&auth, token) {
        Err(Error::Jwt(refusal)) => refusal,
        other => panic!("{other:?} for {token}"),
    };
    for alg in ["none", "None", "NONE", "", "HS256", "RS384", "PS256", "ES384", "rs256"] {
        assert_eq!(refused(&unsigned(alg, "r", &claims())), Refusal::Algorithm, "{alg}");
    }
    // The secret of the forger is the public key, in the forms it is known in.
    let jwk = rsa.jwk();
    for secret in [jwk.to_string(), jwk["n"].as_str().unwrap().to_owned()] {
        assert_eq!(refused(&hs256(secret.as_bytes(), "r", &claims())), Refusal::Algorithm);
    }
    // Another kind of key under a known kid, with either algorithm in the header.
    assert_eq!(refused(&other.sign(&claims())), Refusal::Algorithm);
    let header = json!({ "alg": "ES256", "kid": "e" });
    assert_eq!(refused(&other.sign_as(&header, &claims())), Refusal::Signature);
    assert_eq!(refused(&ec.sign_as(&json!({ "alg": "RS256", "kid": "e" }), &claims())), Refusal::Algorithm);
    assert_eq!(refused(&ec.sign_as(&json!({ "alg": "ES256", "kid": "r" }), &claims())), Refusal::Algorithm);
    // Another key of the same kind, unknown and missing kids, extensions.
    assert_eq!(refused(&Signer::es256("e").sign(&claims())), Refusal::Signature);
    assert_eq!(refused(&Signer::es256("f").sign(&claims())), Refusal::Key);
    assert_eq!(refused(&ec.sign_as(&json!({ "alg": "ES256" }), &claims())), Refusal::Key);
    let header = json!({ "alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false });
    assert_eq!(refused(&ec.sign_as(&header, &claims())), Refusal::Critical);
    for crit in [json!(null), json!([]), json!("exp"), json!(["exp"]), json!(false)] {
        let header = json!({ "alg": "ES256", "kid": "e", "crit": crit });
        assert_eq!(refused(&ec.sign_as(&header, &claims())), Refusal::Critical, "{header}");
    }
    // A key in the header is ignored.
    let own = Signer::es256("e");
    let header = json!({ "alg": "ES256", "kid": "e", "jwk": own.jwk(), "jku": "https://evil/jwks" });
    assert_eq!(refused(&own.sign_as(&header, &claims())), Refusal::Signature);
}

#[test]
fn altered_and_malformed_tokens_are_refused() {
    let signer = Signer::es256("e");
    let (_dir, auth) = issuer(&[&signer]);
    let token = signer.sign(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let other = base64(with(&json!({ "sub": "ops" })).to_string());
    for (token, refusal) in [
        (format!("{}.{other}.{}", parts[0], parts[2]), Refusal::Signature),
        (format!("{}.{}.", parts[0], parts[1]), Refusal::Signature),
        (format!("{}.{}.{}", parts[0], parts[1], base64([0; 64])), Refusal::Signature),
        (format!("{token}="), Refusal::Garbage),
        (format!("{}.{}.!{}", parts[0], parts[1], &parts[2][1..]), Refusal::Garbage),
        ("..".to_owned(), Refusal::Garbage),
        ("a.b.c".to_owned(), Refusal::Garbage),
        (format!("{}.{}.{}", base64("[1]"), parts[1], parts[2]), Refusal::Garbage),
        (format!("{}.{}.{}", base64("[".repeat(5000)), parts[1], parts[2]), Refusal::Garbage),
        (
            format!("{}.{}.{}", base64(r#"{"alg":"ES256","alg":"none","kid":"e"}"#), parts[1], parts[2]),
            Refusal::Garbage,
        ),
        (signer.sign(&json!("a string")), Refusal::Garbage),
        (signer.sign(&with(&json!({ "pad": "x".repeat(8 << 10) }))), Refusal::TooLarge),
    ] {
        assert_eq!(authenticate(&auth, &token), Err(Error::Jwt(refusal)), "{token}");
    }
    for token in ["x", "a.b", "a.b.c.d", "é.é.é"] {
        let found = authenticate(&auth, token).unwrap_err();
        assert!(matches!(found, Error::UnknownToken | Error::Malformed), "{token}: {found:?}");
    }
    // The cache remembers nothing that it should not.
    assert!(authenticate(&auth, &token).is_ok());
    let header = format!("Bearer {token}");
    let later = auth.authenticate(Some(header.as_bytes()), None, at(NOW + 630), &auth.attempts(None));
    let later = later.map(|_| ()).unwrap_err();
    assert_eq!(later, Error::Jwt(Refusal::Expired));
}

/// A wrong signature costs its sender nothing, so a limited number is checked. Known tokens are accepted all the
/// same, and refusals without a check of a signature are not counted.
#[tokio::test(start_paused = true)]
async fn wrong_signatures_are_limited_and_known_tokens_still_accepted() {
    let signer = Signer::es256("e");
    let (dir, _) = issuer(&[&signer]);
    write(dir.path(), "tokens", &entry("ops", "secret-of-ops"));
    let failures = FailureLimits { connection: 5, peer: 0 };
    let auth = Auth::load(&Options { failures, ..options(dir.path()) }).unwrap();
    let attempts = auth.attempts(None);
    let call = |token: &str| {
        let header = format!("Bearer {token}");
        let found = auth.authenticate(Some(header.as_bytes()), None, at(NOW), &attempts);
        found.map(|caller| caller.principal().to_owned())
    };
    let (good, fresh) = (signer.sign(&claims()), signer.sign(&with(&json!({ "jti": 2 }))));
    let expired = signer.sign(&with(&json!({ "exp": NOW - 100 })));
    assert!(call(&good).is_ok());
    for _ in 0..100 {
        assert_eq!(call("another"), Err(Error::UnknownToken));
        assert_eq!(call(&Signer::es256("f").sign(&claims())), Err(Error::Jwt(Refusal::Key)));
        assert_eq!(
            call(&expired),
            Err(Error::Jwt(Refusal::Expired)),
            "checked once, and not held against it"
        );
        assert_eq!(call(&"a".repeat(20 << 10)), Err(Error::Jwt(Refusal::TooLarge)));
    }
    let forged = Signer::es256("e");
    let wrong: Vec<_> = (0..50).map(|i| call(&forged.sign(&with(&json!({ "jti": i }))))).collect();
    let checked = wrong.iter().filter(|found| **found == Err(Error::Jwt(Refusal::Signature))).count();
    assert_eq!(checked, 6, "a second's worth, and one into deficit");
    let Err(Error::TooManyFailures(too_many)) = &wrong[49] else { panic!("{wrong:?}") };
    assert_eq!((too_many.of, too_many.limit), ("connection", 5));
    let text = too_many.to_string();
    assert!(text.contains("--auth-connection-failures-per-s") && text.contains("at most 5"), "{text}");
    assert!(too_many.retry >= Duration::from_millis(100));
    assert_eq!(call(&good).as_deref(), Ok("billing"), "it was verified before");
    assert_eq!(call("secret-of-ops").as_deref(), Ok("ops"));
    assert!(matches!(call(&fresh), Err(Error::TooManyFailures(_))));
    let other = auth.attempts(None);
    let header = format!("Bearer {fresh}");
    assert!(auth.authenticate(Some(header.as_bytes()), None, at(NOW), &other).is_ok(), "another connection");
    tokio::time::advance(too_many.retry).await;
    assert!(call(&signer.sign(&with(&json!({ "jti": 3 })))).is_ok());
}

#[test]
fn a_file_of_keys_may_hold_only_public_keys_that_a_token_can_name() {
    let (a, b) = (Signer::es256("a"), Signer::eddsa("b"));
    let of = |keys: Value| super::jwks::parse(&json!({ "keys": keys }).to_string());
    let changed = |key: &str, value: Value| {
        let mut jwk = a.jwk();
        jwk[key] = value;
        jwk
    };
    for (keys, wrong) in [
        (json!([{ "kty": "oct", "k": "c2VjcmV0", "kid": "x" }]), "symmetric"),
        (json!([changed("d", json!("AAAA"))]), "private"),
        (json!([a.jwk(), changed("y", json!("AAAA"))]), "32 bytes"),
        (json!([a.jwk(), a.jwk()]), "same kid"),
        (json!([b.jwk(), changed("kid", Value::Null)]), "without a kid"),
        (json!([]), "no key"),
        (json!([changed("use", json!("enc")), changed("alg", json!("ECDH-ES"))]), "no key"),
        (json!([{ "kty": "RSA", "n": base64([0xff; 128]), "e": "AQAB" }]), "2048"),
        (json!([{ "kty": "RSA", "n": base64([1; 256]), "e": "AQAB" }]), "2048"),
    ] {
        let faults = of(keys.clone()).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(wrong)), "{keys}: {faults:?}");
    }
    assert_eq!(of(json!([a.jwk(), b.jwk(), { "kty": "EC", "crv": "P-521" }])).unwrap().len(), 2);
    assert!(super::jwks::parse("{").is_err());
    // One key alone needs no name, and a token may leave it out.
    let keys = of(json!([changed("kid", Value::Null)])).unwrap();
    let token = a.sign_as(&json!({ "alg": "ES256" }), &claims());
    let options = JwtOptions {
        issuer: "https://issuer".into(),
        audience: "streamway".into(),
        principal_claim: "sub".into(),
        ..JwtOptions::default()
    };
    let verify = |token: &str| Signed::read(token, &keys)?.verify(&options, at(NOW)).map(drop);
    assert_eq!((verify(&token), verify(&a.sign(&claims()))), (Ok(()), Err(Refusal::Key)));
}
