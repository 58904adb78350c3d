//! Real nats-servers for tests: one, or a cluster of three, on loopback, syncing every message.
//! Never: leaves one running; dropping kills by pid.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::config::{Config, Engine};

/// Where `tests/run` puts it.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/nats/nats-server");

/// One nats-server, running or not.
pub struct NatsServer {
    config: PathBuf,
    pub port: u16,
    pub name: String,
    child: Option<Child>,
}

/// Servers that know each other.
pub struct Nats {
    pub servers: Vec<NatsServer>,
    is_cluster: bool,
    _dir: tempfile::TempDir,
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.servers.clear();
        if self.is_cluster {
            CLUSTER.store(false, Ordering::Release);
        }
    }
}

/// Ports that nobody is given by chance: below those the system hands out, and none twice.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

/// Held by the one cluster there is: several at once, each syncing every message, starve each other.
static CLUSTER: AtomicBool = AtomicBool::new(false);

impl NatsServer {
    fn new(dir: &Path, name: &str, port: u16, more: &str) -> Self {
        let store = dir.join(name);
        let text = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{port}\nmax_payload: 2MB\n\
             jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{more}"
        );
        let config = dir.join(format!("{name}.conf"));
        std::fs::write(&config, text).unwrap();
        let mut server = Self { config, port, name: name.to_owned(), child: None };
        server.start();
        server
    }

    pub fn start(&mut self) {
        let log = self.config.with_extension("log");
        let mut command = Command::new(BINARY);
        command.arg("-c").arg(&self.config).arg("-l").arg(log).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{BINARY}: {error}: run tests/run, which installs it"));
        self.child = Some(child);
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn listens(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Nats {
    /// One server; `more` is added to its configuration.
    pub fn single(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::new(dir.path(), "n1", free_ports(1)[0], more);
        let nats = Self { servers: vec![server], is_cluster: false, _dir: dir };
        nats.wait();
        nats
    }

    /// Three servers, once no other cluster runs.
    pub fn cluster() -> Self {
        while CLUSTER.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(6));
        let mut routes = String::new();
        for port in &ports[3..] {
            let _ = write!(routes, "nats://127.0.0.1:{port},");
        }
        let server = |n: usize| {
            let cluster = ports[3 + n];
            let more = format!("cluster {{ name: c, listen: 127.0.0.1:{cluster}, routes: [{routes}] }}");
            NatsServer::new(dir.path(), &format!("n{}", n + 1), ports[n], &more)
        };
        let nats = Self { servers: (0..3).map(server).collect(), is_cluster: true, _dir: dir };
        nats.wait();
        nats
    }

    /// Until every server that was started listens.
    pub fn wait(&self) {
        let begun = Instant::now();
        while !self.servers.iter().all(|server| server.child.is_none() || server.listens()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A configuration for these servers.
    pub fn config(&self) -> Config {
        let urls: Vec<_> = self.servers.iter().map(|s| format!("nats://127.0.0.1:{}", s.port)).collect();
        let mut config = Config { engine: Engine::JetStream, ..Config::default() };
        config.nats.url = urls.join(",");
        config.nats.replicas = self.servers.len();
        config
    }
}
