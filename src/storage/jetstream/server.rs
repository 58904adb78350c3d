//! Real nats-servers for tests: one, or a cluster of three, on loopback, syncing every message.
//! The tests through the public door include this file, so it imports nothing of ours.
//! Never: leaves one running; dropping kills by pid.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Where `tests/run` puts it.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/nats/nats-server");

/// One nats-server, running or not.
pub struct NatsServer {
    config: PathBuf,
    pub port: u16,
    pub name: String,
    /// Of its monitoring endpoint.
    monitor: u16,
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

/// Ports that nobody is given by chance: below those the system hands out, and none twice. Each
/// process begins elsewhere, as several may run at once.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 500) as u16 * 20;
    let ports = std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed));
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

/// Held by the one cluster there is: several at once, each syncing every message, starve each other.
static CLUSTER: AtomicBool = AtomicBool::new(false);

impl NatsServer {
    fn new(dir: &Path, name: &str, port: u16, monitor: u16, more: &str) -> Self {
        let store = dir.join(name);
        let text = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\nmax_payload: 2MB\n\
             jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{more}"
        );
        let config = dir.join(format!("{name}.conf"));
        std::fs::write(&config, text).unwrap();
        Self { config, port, monitor, name: name.to_owned(), child: None }
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

    /// What its monitoring endpoint answers; empty where it does not in a second.
    fn ask(&self, path: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.monitor))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }

    fn monitored(&self, path: &str) -> serde_json::Value {
        let answer = self.ask(path);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// Whether it serves clients and, in a cluster, follows its leader.
    fn is_healthy(&self) -> bool {
        self.ask("/healthz").starts_with("HTTP/1.0 200")
    }

    /// Whether it leads the cluster, and both others are up to date. Until it has heard of one's
    /// resources, which is a little later, it takes that one for offline and places no stream there.
    fn leads(&self) -> bool {
        let state = self.monitored("/jsz");
        let replicas = state["meta_cluster"]["replicas"].as_array().map_or(&[][..], Vec::as_slice);
        replicas.len() == 2 && replicas.iter().all(|r| r["current"] == true && r["offline"] != true)
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
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(2));
        let mut server = NatsServer::new(dir.path(), "n1", ports[0], ports[1], more);
        server.start();
        let mut nats = Self { servers: vec![server], is_cluster: false, _dir: dir };
        nats.wait();
        nats
    }

    /// Three servers that have found each other and a leader, once no other cluster runs.
    pub fn cluster() -> Self {
        Self::cluster_of(3)
    }

    /// The same, of which only so many are started.
    pub fn cluster_of(started: usize) -> Self {
        while CLUSTER.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(9));
        let mut nats = Self { servers: Vec::new(), is_cluster: true, _dir: dir };
        for n in 0..3 {
            // A client uses the addresses it was given and no others, as these may be a proxy's. Nobody
            // has a route to itself, and each is there before the next one calls: servers that call each
            // other at once close each other's routes as duplicates. One route a pair, as several of a
            // pool are more to lose that way.
            let others = (0..3).filter(|other| *other != n);
            let routes: Vec<_> =
                others.map(|other| format!("nats://127.0.0.1:{}", ports[3 + other])).collect();
            let more = format!(
                "cluster {{ name: c, listen: 127.0.0.1:{}, no_advertise: true, pool_size: -1, routes: [{}] }}",
                ports[3 + n],
                routes.join(", ")
            );
            let name = format!("n{}", n + 1);
            let mut server = NatsServer::new(nats._dir.path(), &name, ports[n], ports[6 + n], &more);
            if n < started {
                server.start();
                until("nats-server listens", || TcpStream::connect(("127.0.0.1", server.port)).is_ok());
            }
            nats.servers.push(server);
        }
        nats.wait();
        nats
    }

    /// Until every server that was started serves; a cluster of which none is down has a leader that
    /// both others follow. A server of 2.10 that joins may close its routes as duplicates of each other
    /// again and again, and never hear of the leader: it is restarted, as an orchestrator's probe does.
    pub fn wait(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(15);
        let all = self.servers.iter().all(|server| server.child.is_some());
        let mut since = Instant::now();
        until("NATS is healthy", || {
            let running = self.servers.iter_mut().filter(|server| server.child.is_some());
            let stuck: Vec<_> = running.filter(|server| !server.is_healthy()).collect();
            let none = stuck.is_empty();
            if since.elapsed() >= PATIENCE {
                since = Instant::now();
                for server in stuck {
                    server.kill();
                    server.start();
                }
            }
            none && (!self.is_cluster || !all || self.servers.iter().any(NatsServer::leads))
        });
    }

    /// Which server leads this stream; waits until one does.
    pub fn leader(&mut self, stream: &str) -> &mut NatsServer {
        let mut found = None;
        until("the stream has a leader", || {
            let mut running = self.servers.iter().filter(|server| server.child.is_some());
            found = running.find_map(|server| {
                let state = server.monitored("/jsz?accounts=true&streams=true");
                let accounts = state["account_details"].as_array()?;
                let mut streams = accounts.iter().filter_map(|a| a["stream_detail"].as_array()).flatten();
                let detail = streams.find(|detail| detail["name"] == stream)?;
                let leader = detail["cluster"]["leader"].as_str()?.to_owned();
                self.servers.iter().position(|server| server.name == leader && server.child.is_some())
            });
            found.is_some()
        });
        &mut self.servers[found.expect("waited for")]
    }

    /// For `--nats-url`.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(|s| format!("nats://127.0.0.1:{}", s.port)).collect();
        urls.join(",")
    }
}

/// Longest start of servers on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < START_MAX, "not within {START_MAX:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
