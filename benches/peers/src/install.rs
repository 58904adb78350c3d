//! Finds, builds and installs what is measured: inside the clone, but for Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contestant::Contestant;
use crate::outcome::Outcome;
use crate::peer::{cache, clone_dir};

/// The version of s2-lite that is built.
const S2_LITE: &str = "0.43.4";

pub struct Installed {
    pub streamway: PathBuf,
    pub nats: PathBuf,
    pub s2: PathBuf,
    pub python: PathBuf,
    /// Of each contestant, as it says itself.
    pub versions: Vec<(&'static str, String)>,
}

pub fn install(contestants: &[Contestant], streamway: Option<PathBuf>) -> Outcome<Installed> {
    let top = clone_dir().canonicalize()?;
    let wants = |contestant: Contestant| contestants.contains(&contestant);
    let streamway = match streamway {
        Some(binary) => binary.canonicalize()?,
        None => {
            run(Command::new("cargo")
                .args(["build", "--locked", "--profile", "dist", "--bin", "streamway"])
                .current_dir(&top))?;
            top.join("target/dist/streamway")
        }
    };
    if wants_nats(&wants) {
        tools(&top, "need_nats")?;
    }
    if wants(Contestant::RedisAlways) || wants(Contestant::RedisEverysec) {
        tools(&top, "need 'redis-server --version' redis-server")?;
    }
    if contestants.iter().any(|contestant| Contestant::is_durable(contestant.name())) {
        tools(&top, "need 'strace --version' strace")?;
    }
    if wants(Contestant::Python) {
        tools(&top, "need_venv")?;
    }
    let s2 = cache().join("s2/bin/server");
    if wants(Contestant::S2Lite) && !s2.exists() {
        let mut command = Command::new("cargo");
        command.args(["install", "s2-lite", "--version", S2_LITE, "--locked", "--quiet", "--bin", "server"]);
        run(command.arg("--root").arg(cache().join("s2")))?;
    }
    let nats = top.join("tests/.cache/nats/nats-server");
    let python = top.join("tests/.cache/venv/bin/python");
    let versions = versions(&wants, &streamway, &nats, &python)?;
    Ok(Installed { streamway, nats, s2, python, versions })
}

fn wants_nats(wants: &impl Fn(Contestant) -> bool) -> bool {
    use Contestant::{Fleet, NatsAlways, NatsDefault, NatsR3};
    [NatsDefault, NatsAlways, Fleet, NatsR3].into_iter().any(wants)
}

fn versions(
    wants: &impl Fn(Contestant) -> bool,
    streamway: &Path,
    nats: &Path,
    python: &Path,
) -> Outcome<Vec<(&'static str, String)>> {
    let mut versions = vec![("Streamway", says(Command::new(streamway).arg("--version"))?)];
    if wants(Contestant::Limit) {
        versions.push(("limit", format!("tonic {}", locked("tonic"))));
    }
    if wants(Contestant::RedisAlways) || wants(Contestant::RedisEverysec) {
        let words = says(Command::new("redis-server").arg("--version"))?;
        let version = words.split_whitespace().find(|word| word.starts_with("v=")).unwrap_or("unknown");
        versions.push(("Redis", version.trim_start_matches("v=").to_owned()));
    }
    if wants_nats(wants) {
        versions.push(("NATS", says(Command::new(nats).arg("--version"))?));
        versions.push(("client of NATS", format!("async-nats {}", locked("async-nats"))));
    }
    if wants(Contestant::S2Lite) {
        versions.push(("s2-lite", format!("{S2_LITE}, s2-sdk {}", locked("s2-sdk"))));
    }
    if wants(Contestant::Python) {
        let program =
            "import grpc, platform; print('grpcio', grpc.__version__, 'on', platform.python_version())";
        versions.push(("Python", says(Command::new(python).args(["-c", program]))?));
    }
    Ok(versions)
}

/// The version that this crate is built with.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")));
    package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

fn tools(top: &Path, command: &str) -> Outcome<()> {
    let script = format!("set -euo pipefail; source tests/tools.sh; {command}");
    run(Command::new("bash").args(["-c", &script]).current_dir(top))
}

fn run(command: &mut Command) -> Outcome<()> {
    match command.status()?.success() {
        true => Ok(()),
        false => Err(format!("{command:?} failed").into()),
    }
}

fn says(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    Ok(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default().to_owned())
}
