//! Servers with identities and a policy, and calls by name.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Status};

use super::jwt::{Signer, jwks};
use super::make::{publish, records};
use super::{Server, within};

/// Files of identities and a policy, and the flags that name them.
pub struct Setup {
    dir: TempDir,
    pub args: Vec<String>,
}

pub fn hash_line(name: &str, token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{name}\" = \"sha256:{hex}\"\n")
}

pub fn rule(principals: &str, topics: &str, actions: &str) -> String {
    format!("[[rule]]\nprincipals = {principals}\ntopics = {topics}\nactions = {actions}\n")
}

impl Setup {
    /// Creates tokens `NAME-secret` for these names, and a policy.
    pub fn new(names: &[&str], policy: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut setup = Self { args: Vec::new(), dir };
        setup.tokens(names);
        setup.policy(policy);
        setup.args = ["--reload-interval", "100ms"].map(str::to_owned).to_vec();
        setup.flag("--auth-tokens", "tokens");
        setup.flag("--auth-policy", "policy");
        setup
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn flag(&mut self, flag: &str, file: &str) {
        self.args.extend([flag.to_owned(), self.path(file).to_string_lossy().into_owned()]);
    }

    /// Replaces a file atomically.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub fn tokens(&self, names: &[&str]) {
        let lines: String = names.iter().map(|name| hash_line(name, &format!("{name}-secret"))).collect();
        self.write("tokens", &lines);
    }

    pub fn policy(&self, text: &str) {
        self.write("policy", text);
    }

    pub fn jwks(&mut self, signers: &[&Signer]) {
        self.write("jwks", &jwks(signers));
        self.flag("--auth-jwks", "jwks");
        for (flag, value) in [
            ("--auth-jwt-issuer", "https://issuer"),
            ("--auth-jwt-audience", "streamway"),
            ("--auth-jwt-leeway", "0"),
        ] {
            self.args.extend([flag.to_owned(), value.to_owned()]);
        }
    }

    pub async fn start(&self, more: &[&str]) -> Server {
        let args: Vec<&str> = self.args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::with(&args).await
    }
}

pub fn bearer<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Request with the token of this name.
pub fn of<T>(name: &str, message: T) -> Request<T> {
    bearer(&format!("{name}-secret"), message)
}

pub async fn publish_as(server: &Server, name: &str, topic: &str) -> Result<(), Status> {
    server.client().await.publish(of(name, publish(topic, records("x", 1)))).await.map(|_| ())
}

/// Repeats a call until the answer is the expected one, since the server checks the files every 100 ms.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(20, what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Claims of the principal `billing`, until a time in seconds since 1970.
pub fn claims(exp: u64) -> Value {
    json!({ "iss": "https://issuer", "aud": "streamway", "sub": "billing", "exp": exp })
}
