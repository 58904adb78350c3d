//! Authentication between a replica and NATS: TLS, a client certificate, JWT and nkey of an operator's account, a token.
//! Each test publishes and subscribes through a real nats-server.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::harness::certs::Ca;
use crate::harness::make::{history, published, records, to_tail};
use crate::harness::{Nats, Reader, Server};

fn flags<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--engine", "jetstream", "--nats-replicas", "1", "--nats-url", url], more].concat()
}

/// Asserts that a published record can be read back.
async fn works(nats: &Nats, more: &[&str]) {
    let server = Server::with(&flags(&nats.url(), more)).await;
    let mut client = server.client().await;
    published(&mut client, "access", records("r", 3)).await;
    let mut reader = Reader::open(&mut client, to_tail(history("access"))).await.unwrap().sparse();
    let found = reader.rest().await.unwrap();
    assert_eq!(found.iter().map(crate::harness::Seen::text).collect::<Vec<_>>(), ["r0", "r1", "r2"]);
}

/// Output of a server that cannot use NATS, until it exits or waits.
fn log_without_access(nats: &Nats, more: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let any = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(any).args(flags(&nats.url(), more)).current_dir(dir.path());
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        log.push_str(&line);
        if line.contains("waiting for NATS") || line.contains("\"serving\"") {
            break;
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    assert!(!log.contains("\"serving\""), "{log}");
    log
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_over_tls_and_with_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "other"));
    let (at_nats, ours) = (ca.issue(dir.path(), "nats", 2040), ca.issue(dir.path(), "streamway", 2040));
    let theirs = other.issue(dir.path(), "stranger", 2040);
    let block = |verify: bool| {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
            at_nats.cert, at_nats.key, ca.file
        )
    };
    let with_ca = ["--nats-tls-ca", text(&ca.file)];
    let nats = Nats::single(&block(false));
    works(&nats, &with_ca).await;
    let log = log_without_access(&nats, &["--nats-tls-ca", text(&other.file)]);
    assert!(log.contains("certificate"), "{log}");

    let nats = Nats::single(&block(true));
    let showing = |pair: &crate::harness::certs::Pair| {
        let pair = [&pair.cert, &pair.key].map(|path| text(path).to_owned());
        [
            with_ca.map(str::to_owned).to_vec(),
            ["--nats-tls-cert", "--nats-tls-key"]
                .iter()
                .zip(pair)
                .flat_map(|(flag, path)| [(*flag).to_owned(), path])
                .collect(),
        ]
        .concat()
    };
    let (ours, theirs) = (showing(&ours), showing(&theirs));
    works(&nats, &ours.iter().map(String::as_str).collect::<Vec<_>>()).await;
    log_without_access(&nats, &with_ca);
    log_without_access(&nats, &theirs.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_with_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, token: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, token).unwrap();
        path
    };
    let nats = Nats::single("authorization { token: \"right\" }");
    works(&nats, &["--nats-token-file", text(&file("right", "right\n"))]).await;
    let log = log_without_access(&nats, &["--nats-token-file", text(&file("wrong", "wrong"))]);
    assert!(log.contains("refuses the credentials") && !log.contains("\"wrong\""), "{log}");
}

/// A NATS JWT with claims about `subject`, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": nats,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn account(operator: &KeyPair, account: &KeyPair, storage: i64) -> String {
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
    });
    jwt(operator, account, json!({"limits": limits, "type": "account", "version": 2}))
}

/// A credentials file as written by `nsc`.
fn credentials(dir: &Path, name: &str, account: &KeyPair) -> PathBuf {
    let user = KeyPair::new_user();
    let claims = json!({"subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2});
    let (jwt, seed) = (jwt(account, &user, claims), user.seed().unwrap());
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_in_operator_mode_with_a_credentials_file() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, system, ours) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let claims = json!({"system_account": system.public_key(), "type": "operator", "version": 2});
    let nats = Nats::single(&format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, claims),
        system.public_key(),
        account(&operator, &system, 0),
        ours.public_key(),
        account(&operator, &ours, -1),
    ));
    let right = credentials(dir.path(), "right.creds", &ours);
    works(&nats, &["--nats-creds-file", text(&right)]).await;
    let wrong = credentials(dir.path(), "wrong.creds", &KeyPair::new_account());
    let log = log_without_access(&nats, &["--nats-creds-file", text(&wrong)]);
    assert!(log.contains("refuses the credentials"), "{log}");
}
