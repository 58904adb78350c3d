//! Identities of every kind, good ones and forged ones; files that change.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::jwt::Signed;
use super::testing::{Signer, base64, hs256, jwks, unsigned};
use super::{
    ANONYMOUS, Action, Allowance, Auth, Error, FailureLimits, JwtOptions, Limits, Options, PeerCertificate,
    Refusal, Reloaded, entry,
};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "streamway", "sub": "billing", "exp": NOW + 600 })
}

fn with(change: &Value) -> Value {
    let mut claims = claims();
    for (key, value) in change.as_object().unwrap() {
        claims[key] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(key);
        }
    }
    claims
}

const POLICY: &str = r#"
    [[rule]]
    principals = ["billing", "ops"]
    topics = ["orders"]
    actions = ["publish"]
"#;

fn write(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
}

/// Options of files in `dir`; each file that is there counts.
fn options(dir: &Path) -> Options {
    let file = |name| Some(dir.join(name)).filter(|path| path.exists());
    let jwt = file("jwks").map(|jwks| JwtOptions {
        jwks,
        issuer: "https://issuer".to_owned(),
        audience: "streamway".to_owned(),
        leeway: Duration::from_secs(30),
        principal_claim: "sub".to_owned(),
    });
    Options {
        tokens: file("tokens"),
        jwt,
        policy: file("policy"),
        certificates: false,
        limits: Limits::default(),
        failures: FailureLimits::default(),
    }
}

fn authenticate(auth: &Auth, token: &str) -> Result<String, Error> {
    let header = format!("Bearer {token}");
    let caller = auth.authenticate(Some(header.as_bytes()), None, at(NOW), &auth.attempts(None));
    caller.map(|caller| caller.principal().to_owned())
}

fn issuer(signers: &[&Signer]) -> (tempfile::TempDir, Auth) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy", POLICY);
    write(dir.path(), "jwks", &jwks(signers));
    let auth = Auth::load(&options(dir.path())).unwrap();
    (dir, auth)
}

#[test]
fn jwts_of_each_algorithm_are_taken() {
    let signers = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d")];
    let (_dir, auth) = issuer(&signers.each_ref());
    for signer in &signers {
        let token = signer.sign(&claims());
        // Twice: the second comes from the cache.
        assert_eq!(authenticate(&auth, &token).as_deref(), Ok("billing"));
        assert_eq!(authenticate(&auth, &token).as_deref(), Ok("billing"));
    }
    let found = authenticate(&auth, &signers[2].sign(&with(&json!({ "aud": ["other", "streamway"] }))));
    assert_eq!(found.as_deref(), Ok("billing"));
}

/// RFC 7515, A.3: a signature and a key nobody here made.
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
fn claims_that_are_wrong_are_refused_by_name() {
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
    // A header that brings its own key is not listened to.
    let own = Signer::es256("e");
    let header = json!({ "alg": "ES256", "kid": "e", "jwk": own.jwk(), "jku": "https://evil/jwks" });
    assert_eq!(refused(&own.sign_as(&header, &claims())), Refusal::Signature);
}

#[test]
fn tokens_that_are_altered_or_no_tokens_are_refused() {
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

/// A wrong signature costs its sender nothing: so many are checked, and no more. What is known passes
/// all the same, and what costs no signature is not counted.
#[tokio::test(start_paused = true)]
async fn wrong_signatures_are_limited_and_hold_up_nobody_who_is_known() {
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
fn a_file_of_keys_holds_only_public_keys_that_can_be_chosen() {
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

fn certificate(name: &str, expires: u64) -> PeerCertificate {
    PeerCertificate { name: name.into(), expires: at(expires) }
}

#[test]
fn each_credential_has_its_place() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy", POLICY);
    write(dir.path(), "tokens", &entry("ops", "secret-of-ops"));
    let auth = Auth::load(&Options { certificates: true, ..options(dir.path()) }).unwrap();
    let peer = certificate("billing", NOW + 60);
    let of = |header: Option<&str>, peer: Option<&PeerCertificate>| {
        auth.authenticate(header.map(str::as_bytes), peer, at(NOW), &auth.attempts(None))
            .map(|caller| (caller.principal().to_owned(), caller.expires()))
    };
    let ops = |expires| Ok(("ops".to_owned(), expires));
    assert_eq!(of(Some("Bearer secret-of-ops"), None), ops(None));
    assert_eq!(of(Some("bearer   secret-of-ops"), None), ops(None));
    assert_eq!(of(None, Some(&peer)), Ok(("billing".to_owned(), Some(at(NOW + 60)))));
    // A token says who calls, and the certificate it came over still bounds it.
    assert_eq!(of(Some("Bearer secret-of-ops"), Some(&peer)), ops(Some(at(NOW + 60))));
    // One that is wrong is not made good by a certificate.
    assert_eq!(of(Some("Bearer other"), Some(&peer)), Err(Error::UnknownToken));
    assert_eq!(of(Some("Bearer a.b.c"), Some(&peer)), Err(Error::UnknownToken), "no JWTs here");
    assert_eq!(of(None, Some(&certificate("billing", NOW))), Err(Error::CertificateExpired));
    assert!(matches!(of(None, Some(&certificate(ANONYMOUS, NOW + 60))), Err(Error::Name(_))));
    assert_eq!(of(None, None), Err(Error::Missing));
    for malformed in
        ["", "Bearer", "Bearer ", "Basic secret-of-ops", "secret-of-ops", "Bearer a b", "Bearer é"]
    {
        assert_eq!(of(Some(malformed), None), Err(Error::Malformed), "{malformed}");
    }
}

#[test]
fn nothing_configured_is_open_and_anything_configured_is_closed() {
    let open = Auth::open(Limits::default());
    let caller = open.authenticate(None, None, at(NOW), &open.attempts(None)).unwrap();
    assert_eq!((caller.principal(), caller.allows(Action::Admin, "any")), (ANONYMOUS, true));
    assert!(open.caller(None).is_ok());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tokens", "");
    assert!(Auth::load(&options(dir.path())).unwrap_err().to_string().contains("policy"));
    assert!(Auth::load(&Options { certificates: true, ..Options::default() }).is_err());
    write(dir.path(), "policy", "");
    let closed = Auth::load(&options(dir.path())).unwrap();
    assert_eq!(closed.authenticate(None, None, at(NOW), &closed.attempts(None)).unwrap_err(), Error::Missing);
    assert_eq!(closed.caller(None).unwrap_err(), Error::Missing, "nobody looked: nobody may");
}

#[test]
fn anonymous_callers_may_what_the_policy_grants_them_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nprincipals = [\"anonymous\"]\ntopics = [\"news\"]\nactions = [\"subscribe\"]";
    write(dir.path(), "policy", rules);
    let auth = Auth::load(&options(dir.path())).unwrap();
    let caller = auth.authenticate(None, None, at(NOW), &auth.attempts(None)).unwrap();
    assert!(caller.allows(Action::Subscribe, "news") && !caller.allows(Action::Publish, "news"));
    // Who shows something must show something right.
    assert_eq!(authenticate(&auth, "x"), Err(Error::UnknownToken));
}

#[test]
fn reloads_widen_and_narrow_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy", POLICY);
    write(dir.path(), "tokens", &entry("ops", "secret-of-ops"));
    let auth = Auth::load(&options(dir.path())).unwrap();
    let header = b"Bearer secret-of-ops".as_slice();
    let caller = auth.authenticate(Some(header), None, at(NOW), &auth.attempts(None)).unwrap();
    let may = || (caller.allows(Action::Publish, "orders"), caller.allows(Action::Subscribe, "orders"));
    assert_eq!(may(), (true, false));
    assert_eq!(auth.reload(), Ok(Reloaded::Unchanged));

    write(dir.path(), "policy", &POLICY.replace("[\"publish\"]", "[\"publish\", \"subscribe\"]"));
    let mut replaced = std::pin::pin!(caller.rules_replaced().unwrap());
    let is_told = |replaced: std::pin::Pin<&mut _>| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        Future::poll(replaced, &mut cx).is_ready()
    };
    assert!(!is_told(replaced.as_mut()));
    assert_eq!(auth.reload(), Ok(Reloaded::Changed));
    assert!(is_told(replaced.as_mut()), "who is in a call is told");
    assert_eq!(may(), (true, true));

    write(dir.path(), "policy", "[[rule]]\nprincipal = 1");
    let faults = auth.reload().unwrap_err();
    assert!(faults.to_string().contains("auth_policy"), "{faults}");
    assert_eq!((may(), auth.reload()), ((true, true), Ok(Reloaded::Unchanged)), "told once");
    std::fs::remove_file(dir.path().join("policy")).unwrap();
    assert!(auth.reload().is_err());
    assert_eq!(may(), (true, true));
    // A mistake in one file does not hold up another.
    write(dir.path(), "policy", "[[rule");
    write(dir.path(), "tokens", &entry("ops", "another"));
    assert!(auth.reload().is_err());
    assert_eq!(may(), (false, false), "the token was withdrawn");
    assert_eq!(authenticate(&auth, "another").as_deref(), Ok("ops"));
    write(dir.path(), "policy", "");
    assert_eq!(auth.reload(), Ok(Reloaded::Changed));
    let caller = auth.authenticate(Some(b"Bearer another"), None, at(NOW), &auth.attempts(None)).unwrap();
    assert!(!caller.allows(Action::Any, "orders"));
}

#[test]
fn a_key_that_is_withdrawn_takes_its_tokens_with_it() {
    let (old, new) = (Signer::eddsa("old"), Signer::eddsa("new"));
    let (dir, auth) = issuer(&[&old]);
    let header = format!("Bearer {}", old.sign(&claims()));
    let caller = auth.authenticate(Some(header.as_bytes()), None, at(NOW), &auth.attempts(None)).unwrap();
    write(dir.path(), "jwks", &jwks(&[&old, &new]));
    auth.reload().unwrap();
    assert!(caller.allows(Action::Publish, "orders"), "rotation goes over both");
    write(dir.path(), "jwks", &jwks(&[&new]));
    auth.reload().unwrap();
    assert!(!caller.allows(Action::Publish, "orders"));
    assert_eq!(
        authenticate(&auth, &header["Bearer ".len()..]),
        Err(Error::Jwt(Refusal::Key)),
        "the cache too"
    );
}

#[tokio::test(start_paused = true)]
async fn a_principals_quota_is_shared_by_its_calls_and_lasts_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let quota = "[[quota]]\nprincipals = [\"billing\"]\npublish_records_per_s = 10\nsubscriptions_max = 1";
    write(dir.path(), "policy", &format!("{POLICY}{quota}"));
    write(dir.path(), "tokens", &format!("{}\n{}", entry("billing", "b"), entry("ops", "o")));
    let limits = Limits { publish_bytes_per_s: 1000, ..Limits::default() };
    let auth = Auth::load(&Options { limits, ..options(dir.path()) }).unwrap();
    let call = |token: &str| {
        let header = format!("Bearer {token}");
        auth.authenticate(Some(header.as_bytes()), None, at(NOW), &auth.attempts(None)).unwrap()
    };
    assert_eq!(call("b").allowance(), Ok(Allowance { bytes: 1000, records: 10 }));
    call("b").consume(1, 30);
    let deficit = call("b").allowance().unwrap_err();
    assert_eq!(
        (deficit.quota, deficit.limit, deficit.subject().as_str()),
        ("publish_records_per_s", 10, "principal:billing")
    );
    assert_eq!(deficit.retry, Some(Duration::from_secs(2)));
    assert!(call("o").allowance().is_ok(), "another principal's");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(call("b").allowance().is_ok());
    // All together.
    call("o").consume(3500, 1);
    let deficit = call("b").allowance().unwrap_err();
    assert_eq!((deficit.quota, deficit.principal, deficit.limit), ("publish_bytes_per_s", None, 1000));
    let first = call("b").subscribe().unwrap();
    let refused = call("b").subscribe().unwrap_err();
    assert_eq!((refused.quota, refused.limit, refused.retry), ("subscriptions_max", 1, None));
    assert!(call("o").subscribe().is_ok());
    drop(first);
    assert!(call("b").subscribe().is_ok());
}

#[test]
fn nothing_shows_a_credential() {
    let signer = Signer::eddsa("d");
    let (dir, _) = issuer(&[&signer]);
    write(dir.path(), "tokens", &entry("ops", "secret-of-ops"));
    let auth = Auth::load(&options(dir.path())).unwrap();
    let jwt = signer.sign(&claims());
    for token in ["secret-of-ops", &jwt] {
        let header = format!("Bearer {token}");
        let caller = auth.authenticate(Some(header.as_bytes()), None, at(NOW), &auth.attempts(None)).unwrap();
        let shown = format!("{auth:?} {caller:?}");
        assert!(!shown.contains(token) && shown.contains(caller.principal()), "{shown}");
        let error = authenticate(&auth, &format!("{token}x")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(token));
    }
}

/// P9: whatever stands in the policy file, it is read or its faults are named; and callers without a
/// credential are never let in by a pattern.
#[test]
fn no_change_of_a_policy_makes_it_panic_or_lets_strangers_in() {
    crate::corpus::fuzz("policy", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match super::policy::Policy::parse(&text) {
            Err(faults) => assert!(!faults.is_empty()),
            Ok(policy) => {
                for name in [ANONYMOUS, "billing-eu", "spiffe://prod/x", "é\u{301}", ""] {
                    let granted = policy.granted(name);
                    for topic in ["orders", "orders.eu", "", "*"] {
                        let allowed = policy.allows(&granted, Action::Any, topic);
                        assert!(!allowed || name != ANONYMOUS || text.contains(ANONYMOUS), "{text}");
                    }
                }
            }
        }
    });
}

/// P9: the same of tokens and of keys, of which nothing is repeated in a fault.
#[test]
fn no_change_of_tokens_or_keys_makes_them_panic() {
    crate::corpus::fuzz("tokens", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(faults) = super::tokens::Tokens::parse(&text) {
            assert!(!faults.is_empty());
        }
    });
    crate::corpus::fuzz("jwks", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match super::jwks::parse(&text) {
            Err(faults) => assert!(!faults.is_empty()),
            Ok(keys) => keys.iter().for_each(|key| assert!(!key.verifies(b"message", b"signature"))),
        }
    });
}
