//! `streamway nats-credentials`: what a fleet and its NATS servers show each other, made where they are installed.
//! Never: replaces what is there, or prints a secret.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;

use super::Failure;
use super::kubernetes::{self, Secret};

/// File of the key's seed: it is there once everything else is.
const SEED: &str = "seed";
/// Files that nats.conf includes.
const AUTHORIZATION: &str = "authorization.conf";
const ROUTES: &str = "routes.conf";
/// For the owner, and the group that the NATS servers are of.
const MODE: u32 = 0o640;

/// Make what a fleet and its NATS servers show each other
///
/// Makes three files: `seed`, the replicas' key (--nats-nkey-file), which never crosses the network;
/// `authorization.conf`, by which NATS lets in that key and nobody else; and `routes.conf`, the routes between the
/// NATS servers with the password they show each other. nats.conf includes the last two, `routes.conf` inside of
/// cluster {}. Where they are there already, nothing changes.
#[derive(Debug, Args)]
pub(super) struct NatsCredentials {
    /// The cluster's servers, HOST:PORT of their routes, with commas between them.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true, value_parser = route)]
    routes: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Where they are kept.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Keep them in this directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep them in a Secret of this name, in the namespace of the pod that this runs in. Its service account needs the
    /// right to create secrets, and no other.
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
            (None, None) => return Err(Failure::usage("--dir or --kubernetes-secret is needed")),
        };
        let done = if made { "made in" } else { "already in" };
        writeln!(io::stdout(), "credentials {done} {place}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An address as it is written into a configuration: nothing that means something there.
fn route(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT is needed")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
    if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().is_err() {
        return Err("HOST:PORT is needed".into());
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

/// Writes them, the seed last, by a rename: where that is there, so is everything. Answers whether it did.
fn write(dir: &Path, files: &Files) -> io::Result<bool> {
    if dir.join(SEED).try_exists()? {
        return Ok(false);
    }
    fs::create_dir_all(dir)?;
    for (name, text) in files {
        let part = dir.join(format!("{name}.part"));
        // What an earlier attempt left may have another mode.
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
    fn credentials_are_new_each_time_and_those_that_are_there_stay() {
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
    fn a_route_is_an_address_and_nothing_else() {
        assert!(route("nats-0.nats:6222").is_ok() && route("[::1]:6222").is_ok());
        for wrong in ["nats-0", ":6222", "a:b", "a\":6222", "a b:6222", "a:99999"] {
            assert!(route(wrong).is_err(), "{wrong}");
        }
    }
}
