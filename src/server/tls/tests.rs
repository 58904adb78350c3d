//! Tests of the files that TLS starts with, and of the messages with which it refuses others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::{EXPIRES_SOON, REMIND_EVERY, Tls, Validity, remind};
use crate::config::TlsConfig;

struct Pair {
    cert: String,
    key: String,
}

/// Makes a self-signed certificate that is valid in these years.
fn pair(years: std::ops::Range<i32>) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(years.start, 1, 1), rcgen::date_time_ymd(years.end, 1, 1));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Pair { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn config(dir: &Path, pair: &Pair) -> TlsConfig {
    let write = |name: &str, text: &str| -> Option<PathBuf> {
        fs::write(dir.join(name), text).unwrap();
        Some(dir.join(name))
    };
    TlsConfig {
        cert: write("cert.pem", &pair.cert),
        key: write("key.pem", &pair.key),
        ..TlsConfig::default()
    }
}

fn refused(config: &TlsConfig) -> String {
    Tls::open(config).map(|_| ()).unwrap_err()
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (pair(2020..2040), pair(2020..2040));
    assert!(Tls::open(&TlsConfig::default()).unwrap().is_none());
    assert!(Tls::open(&config(dir.path(), &one)).unwrap().is_some());
    let truncated = Pair { cert: one.cert[..one.cert.len() / 2].to_owned(), key: one.key.clone() };
    let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (cert, key, told) in [
        (one.cert.as_str(), other.key.as_str(), "key.pem does not belong to the first certificate in"),
        ("", &one.key, "cert.pem holds no certificate"),
        (&one.key, &one.key, "cert.pem holds no certificate"),
        (&truncated.cert, &one.key, "cert.pem is damaged"),
        (garbage, &one.key, "cert.pem cannot be read"),
        (&one.cert, &one.cert, "key.pem holds no private key"),
        (&one.cert, &encrypted, "key.pem holds no private key in PEM form that is not encrypted"),
    ] {
        let error = refused(&config(dir.path(), &Pair { cert: cert.to_owned(), key: key.to_owned() }));
        assert!(error.contains(told), "{told}: {error}");
        assert!(!error.contains("MIG"), "nothing of a key is shown: {error}");
    }
    let mut missing = config(dir.path(), &one);
    missing.key = Some(dir.path().join("nowhere.pem"));
    assert!(refused(&missing).contains("nowhere.pem: No such file"));
    let mut client_ca = config(dir.path(), &one);
    client_ca.client_ca = client_ca.key.clone();
    assert!(refused(&client_ca).contains("key.pem holds no certificate"));
    client_ca.client_ca = client_ca.cert.clone();
    assert!(Tls::open(&client_ca).unwrap().is_some());
}

#[test]
fn an_expired_certificate_is_told_of_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let (expired, _) = Tls::open(&config(dir.path(), &pair(2020..2021))).unwrap().unwrap();
    assert!(expired.seconds_to_expiry() < -86_400, "{expired:?}");
    let (valid, _) = Tls::open(&config(dir.path(), &pair(2020..2040))).unwrap().unwrap();
    assert!(valid.seconds_to_expiry() > 86_400, "{valid:?}");
}

#[tokio::test]
async fn a_changed_certificate_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, source) = Tls::open(&config(dir.path(), &pair(2020..2021))).unwrap().unwrap();
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let renewed = async {
        config(dir.path(), &pair(2020..2040));
        while tls.seconds_to_expiry() < 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = tls.follow(source, Duration::from_millis(1)) => panic!("it follows for ever"),
        done = tokio::time::timeout(Duration::from_secs(30), renewed) => done.unwrap(),
    }
}

#[test]
fn a_certificate_is_warned_of_before_and_after_its_time() {
    const DAY: Duration = Duration::from_secs(86_400);
    let begins = SystemTime::UNIX_EPOCH + 1000 * DAY;
    let expires = begins + 90 * DAY;
    let at = |now| Validity::of(begins, expires, now);
    let second = Duration::from_secs(1);
    assert_eq!((at(begins - second), at(begins)), (Validity::NotYet, Validity::Valid));
    assert_eq!(at(expires - EXPIRES_SOON), Validity::Valid);
    assert_eq!(at(expires - EXPIRES_SOON + second), Validity::ExpiresSoon { days: 13 });
    assert_eq!((at(expires), at(expires + second)), (Validity::ExpiresSoon { days: 0 }, Validity::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_running_server_reminds_every_day() {
    let mut told = 0;
    let _ = tokio::time::timeout(REMIND_EVERY * 3 + REMIND_EVERY / 2, remind(|| told += 1)).await;
    assert_eq!(told, 4, "at once, and after each of three days");
}
