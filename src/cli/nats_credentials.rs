//! `streamway nats-credentials`: generates the credentials of a fleet and its NATS servers where they are installed.
//! Existing credentials are not replaced, and no secret is printed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::json;

use super::format::Format;
use super::kubernetes::{self, Secret};
use super::{Failure, output};
use crate::client::printable;

/// File of the key's seed. It is written last, so everything is complete if it exists.
const SEED: &str = "seed";
/// Files that nats.conf includes.
const AUTHORIZATION: &str = "authorization.conf";
const ROUTES: &str = "routes.conf";
/// Mode of the files: readable for the owner and for the group of the NATS servers.
const MODE: u32 = 0o640;

/// Generate the credentials of a fleet and its NATS servers.
///
/// Creates three files: `seed`, the key of the replicas (--nats-nkey-file), which is never sent over the network;
/// `authorization.conf`, which makes NATS accept that key only; and `routes.conf`, the routes between the NATS
/// servers with their password. Include the last two in nats.conf, `routes.conf` inside cluster {}. Existing
/// credentials are not changed.
#[derive(Debug, Args)]
pub(super) struct NatsCredentials {
    /// Route addresses of the cluster's NATS servers, separated by commas.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true, value_parser = route)]
    routes: Vec<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Place of the credentials.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Write them to this directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write them to a Secret of this name in the namespace of this pod. Its service account needs only the permission to
    /// create secrets.
    #[arg(long, value_name = "NAME")]
    kubernetes_secret: Option<String>,
}

/// Names and contents of the files.
type Files = [(&'static str, String); 3];

impl NatsCredentials {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let files = files(&self.routes)?;
        let (made, place) = match (self.place.dir, self.place.kubernetes_secret) {
            (Some(dir), _) => {
                let place = dir.display().to_string();
                let made = write(&dir, &files)
                    .map_err(|error| Failure::failed(format!("cannot write to {place}: {error}")))?;
                (made, place)
            }
            (None, Some(name)) => {
                let made = kubernetes::create(&Secret { name: &name, data: &files }).await;
                (made.map_err(Failure::failed)?, format!("the Secret {name}"))
            }
            (None, None) => return Err(Failure::usage("--dir or --kubernetes-secret is required")),
        };
        let text = if self.format.is_json() {
            output::json_line(&json!({ "place": place, "made": made }))
        } else {
            format!("credentials {} {}\n", if made { "made in" } else { "already in" }, printable(&place))
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Checks an address, which must not hold characters that are special in the configuration.
fn route(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("write HOST:PORT")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
    if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().is_err() {
        return Err("write HOST:PORT".into());
    }
    Ok(text.to_owned())
}

fn files(routes: &[String]) -> Result<Files, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("no random bytes: {error}"));
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| failed(&error))?;
    let password = URL_SAFE_NO_PAD.encode(bytes);
    let mut raw = [0; 32];
    getrandom::fill(&mut raw).map_err(|error| failed(&error))?;
    let key = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, raw).map_err(|error| failed(&error))?;
    let seed = key.seed().map_err(|error| failed(&error))?;
    let urls: Vec<_> = routes.iter().map(|at| format!("  \"nats://route:{password}@{at}\"\n")).collect();
    Ok([
        (AUTHORIZATION, format!("authorization {{ users: [ {{ nkey: {} }} ] }}\n", key.public_key())),
        (
            ROUTES,
            format!(
                "authorization {{ user: route, password: \"{password}\" }}\nroutes: [\n{}]\n",
                urls.concat()
            ),
        ),
        (SEED, format!("{seed}\n")),
    ])
}

/// Writes the files, each by a rename and the seed last, and returns true; false if there is a seed already.
fn write(dir: &Path, files: &Files) -> io::Result<bool> {
    if dir.join(SEED).try_exists()? {
        return Ok(false);
    }
    fs::create_dir_all(dir)?;
    for (name, text) in files {
        let part = dir.join(format!("{name}.part"));
        // A file that an earlier attempt left may have another mode.
        if part.try_exists()? {
            fs::remove_file(&part)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, dir.join(name))?;
    }
    fs::File::open(dir)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{files, route, write};

    #[test]
    fn credentials_are_new_each_time_and_existing_ones_stay() {
        let routes = ["a:6222".to_owned(), "b:6222".to_owned()];
        let (one, other) = (files(&routes).unwrap(), files(&routes).unwrap());
        for ((name, one), (_, other)) in one.iter().zip(&other) {
            assert_ne!(one, other, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("new");
        assert!(write(&at, &one).unwrap());
        assert!(!write(&at, &other).unwrap());
        for (name, text) in &one {
            assert_eq!(std::fs::read_to_string(at.join(name)).unwrap(), *text);
        }
        let [_, (_, routes), (_, seed)] = one;
        let pair = nkeys::KeyPair::from_seed(seed.trim()).unwrap();
        assert!(std::fs::read_to_string(at.join("authorization.conf")).unwrap().contains(&pair.public_key()));
        assert_eq!(routes.matches("@a:6222").count() + routes.matches("@b:6222").count(), 2);
    }

    #[test]
    fn only_an_address_is_accepted_as_a_route() {
        assert!(route("nats-0.nats:6222").is_ok() && route("[::1]:6222").is_ok());
        for wrong in ["nats-0", ":6222", "a:b", "a\":6222", "a b:6222", "a:99999"] {
            assert!(route(wrong).is_err(), "{wrong}");
        }
    }
}
