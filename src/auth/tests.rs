//! Callers, reloads and quotas through the handle; also what the tests of JWTs share.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::testing::{Signer, jwks};
use super::{
    ANONYMOUS, Action, Allowance, Auth, Error, FailureLimits, JwtOptions, Limits, Options, PeerCertificate,
    Refusal, Reloaded, entry,
};

pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "streamway", "sub": "billing", "exp": NOW + 600 })
}

pub(super) fn with(change: &Value) -> Value {
    let mut claims = claims();
    for (key, value) in change.as_object().unwrap() {
        claims[key] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(key);
        }
    }
    claims
}

pub(super) const POLICY: &str = r#"
    [[rule]]
    principals = ["billing", "ops"]
    topics = ["orders"]
    actions = ["publish"]
"#;

pub(super) fn write(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
}

/// Options of files in `dir`; each file that is there counts.
pub(super) fn options(dir: &Path) -> Options {
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

pub(super) fn authenticate(auth: &Auth, token: &str) -> Result<String, Error> {
    let header = format!("Bearer {token}");
    let caller = auth.authenticate(Some(header.as_bytes()), None, at(NOW), &auth.attempts(None));
    caller.map(|caller| caller.principal().to_owned())
}

pub(super) fn issuer(signers: &[&Signer]) -> (tempfile::TempDir, Auth) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "policy", POLICY);
    write(dir.path(), "jwks", &jwks(signers));
    let auth = Auth::load(&options(dir.path())).unwrap();
    (dir, auth)
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
    assert_eq!(
        closed.caller(None).unwrap_err(),
        Error::Missing,
        "a call that was not authenticated is refused"
    );
}

#[test]
fn anonymous_callers_may_do_what_the_policy_grants_them_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nprincipals = [\"anonymous\"]\ntopics = [\"news\"]\nactions = [\"subscribe\"]";
    write(dir.path(), "policy", rules);
    let auth = Auth::load(&options(dir.path())).unwrap();
    let caller = auth.authenticate(None, None, at(NOW), &auth.attempts(None)).unwrap();
    assert!(caller.allows(Action::Subscribe, "news") && !caller.allows(Action::Publish, "news"));
    // A credential that is shown must be valid.
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
    let is_notified = |replaced: std::pin::Pin<&mut _>| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        Future::poll(replaced, &mut cx).is_ready()
    };
    assert!(!is_notified(replaced.as_mut()));
    assert_eq!(auth.reload(), Ok(Reloaded::Changed));
    assert!(is_notified(replaced.as_mut()), "open calls are notified");
    assert_eq!(may(), (true, true));

    write(dir.path(), "policy", "[[rule]]\nprincipal = 1");
    let faults = auth.reload().unwrap_err();
    assert!(faults.to_string().contains("auth_policy"), "{faults}");
    assert_eq!((may(), auth.reload()), ((true, true), Ok(Reloaded::Unchanged)), "reported once");
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
