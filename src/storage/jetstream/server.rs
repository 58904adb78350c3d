//! Real nats-servers for tests: one, or a cluster of three, on the loopback interface. Each syncs every message to
//! disk. The integration tests include this file too, so it imports nothing of this crate. Dropping a server kills its
//! process by its pid.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Path of the newest nats-server that passes the tests, installed by `tests/run`. The variable `TESTS_NATS` names
/// another one.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/nats/nats-server");

fn binary() -> PathBuf {
    std::env::var_os("TESTS_NATS").map_or_else(|| BINARY.into(), PathBuf::from)
}

/// One nats-server, which may be running or stopped.
pub struct NatsServer {
    config: PathBuf,
    pub port: u16,
    pub name: String,
    /// Port of its monitoring endpoint.
    monitor: u16,
    child: Option<Child>,
}

/// Servers of one test: a single server, or the members of one cluster.
pub struct Nats {
    pub servers: Vec<NatsServer>,
    is_cluster: bool,
    _dir: tempfile::TempDir,
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- NATS, last lines of each log ---\n{}", self.report());
        }
        self.servers.clear();
        if self.is_cluster {
            CLUSTER.store(false, Ordering::Release);
        }
    }
}

/// Returns ports that the system assigns to nobody, because they are below its ephemeral range. No port is returned
/// twice. Each process starts at another port, because several processes may run at once.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 500) as u16 * 20;
    let ports = std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed));
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

/// Set while a cluster exists. Only one may run at a time, because several that sync every message would slow each
/// other down too much.
static CLUSTER: AtomicBool = AtomicBool::new(false);

impl NatsServer {
    fn new(dir: &Path, name: &str, port: u16, monitor: u16, limits: &str, more: &str) -> Self {
        let store = dir.join(name);
        let text = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\nmax_payload: 2MB\n\
             jetstream {{ store_dir: {store:?}, sync_interval: always {limits} }}\n{more}"
        );
        let config = dir.join(format!("{name}.conf"));
        std::fs::write(&config, text).unwrap();
        Self { config, port, monitor, name: name.to_owned(), child: None }
    }

    pub fn start(&mut self) {
        let log = self.config.with_extension("log");
        let binary = binary();
        let mut command = Command::new(&binary);
        command.arg("-c").arg(&self.config).arg("-l").arg(log).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{binary:?}: {error}: run tests/run, which installs it"));
        self.child = Some(child);
    }

    /// Returns the last lines of its log and the servers that it counts, which explain a failed start.
    fn report(&self) -> String {
        let log = std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(REPORT_LINES)..].join("\n");
        let health = self.ask("/healthz");
        let health = health.lines().last().unwrap_or_default();
        let counts = self.monitored("/jsz")["meta_cluster"].to_string();
        format!("--- {}: {health}\n{counts}\n{last}\n", self.name)
    }

    /// Starts it with routes to nobody. It answers clients, but the other servers never hear of it.
    pub fn start_apart(&mut self) {
        let apart = self.config.with_extension("apart.conf");
        let text = std::fs::read_to_string(&self.config).unwrap();
        let (alone, _) = text.split_once("cluster {").unwrap();
        let alone = alone.replace(&format!("/{}\"", self.name), &format!("/{}-apart\"", self.name));
        let ports = free_ports(2);
        let cluster = format!(
            "cluster {{ name: c, listen: 127.0.0.1:{}, routes: [nats://127.0.0.1:{}] }}",
            ports[0], ports[1]
        );
        std::fs::write(&apart, alone + &cluster).unwrap();
        let config = std::mem::replace(&mut self.config, apart);
        self.start();
        self.config = config;
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Returns the answer of its monitoring endpoint; empty if there is none within a second.
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

    /// Returns true if it serves clients and, in a cluster, follows its leader.
    fn is_healthy(&self) -> bool {
        self.ask("/healthz").starts_with("HTTP/1.0 200")
    }

    /// Returns true if it leads the cluster and both other servers are up to date. Until it has received the resources
    /// of a server, which happens a little later, it treats that server as offline and places no stream there.
    fn leads(&self) -> bool {
        let state = self.monitored("/jsz");
        let replicas = state["meta_cluster"]["replicas"].as_array().map_or(&[][..], Vec::as_slice);
        replicas.len() == 2 && replicas.iter().all(|r| r["current"] == true && r["offline"] != true)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
        if signal == rustix::process::Signal::STOP {
            // Its other threads may still run and answer for a moment.
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            until("it is stopped", || {
                std::fs::read_to_string(&stat).is_ok_and(|stat| {
                    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
                })
            });
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Nats {
    /// Starts one server. `more` is added to its configuration.
    pub fn single(more: &str) -> Self {
        Self::single_of("", more)
    }

    /// Starts one server whose store has this maximum size, for example "64MB".
    pub fn single_with_store(max: &str) -> Self {
        Self::single_of(&format!(", max_file_store: {max}"), "")
    }

    fn single_of(limits: &str, more: &str) -> Self {
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(2));
        let mut server = NatsServer::new(dir.path(), "n1", ports[0], ports[1], limits, more);
        server.start();
        let mut nats = Self { servers: vec![server], is_cluster: false, _dir: dir };
        nats.wait();
        nats
    }

    /// Starts three servers, and waits until they have found each other and a leader. Waits first until no other
    /// cluster runs.
    pub fn cluster() -> Self {
        Self::cluster_of(3)
    }

    /// Does the same as [`Self::cluster`], but starts only the first `started` servers.
    pub fn cluster_of(started: usize) -> Self {
        while CLUSTER.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let attempts = if std::env::var_os("TESTS_NATS").is_some() { OLD_CLUSTER_ATTEMPTS } else { 1 };
        for _ in 1..attempts {
            let mut nats = Self::new_cluster(started, started);
            if nats.is_healthy_within(START_MAX / attempts) {
                return nats;
            }
            println!("a new cluster counts too few of its servers, and is begun anew:\n{}", nats.report());
            nats.is_cluster = false;
        }
        let mut nats = Self::new_cluster(started, started);
        nats.wait();
        nats
    }

    /// Starts two servers of a new cluster that waits for a third.
    pub fn without_leader() -> Self {
        while CLUSTER.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let nats = Self::new_cluster(2, 3);
        for server in &nats.servers[..2] {
            until("nats-server listens", || TcpStream::connect(("127.0.0.1", server.port)).is_ok());
        }
        nats
    }

    /// Creates a cluster of three servers, starts the first `started` of them, and lists the first `listed` as routes.
    /// The cluster waits for all listed servers.
    fn new_cluster(started: usize, listed: usize) -> Self {
        let (dir, ports) = (tempfile::tempdir().unwrap(), free_ports(9));
        let mut nats = Self { servers: Vec::new(), is_cluster: true, _dir: dir };
        for n in 0..3 {
            // The settings are those of the Kubernetes manifests: every server is in the routes of each server, there
            // is one route per pair, and no other addresses are advertised, because the given ones may be those of a
            // proxy.
            let routes: Vec<_> =
                ports[3..3 + listed].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
            let more = format!(
                "cluster {{ name: c, listen: 127.0.0.1:{}, no_advertise: true, pool_size: -1, routes: [{}] }}",
                ports[3 + n],
                routes.join(", ")
            );
            let name = format!("n{}", n + 1);
            let mut server = NatsServer::new(nats._dir.path(), &name, ports[n], ports[6 + n], "", &more);
            if n < started {
                server.start();
            }
            nats.servers.push(server);
        }
        nats
    }

    /// Waits until every started server is healthy. If all servers of a cluster are started, it also waits for a leader
    /// that both others follow.
    pub fn wait(&mut self) {
        let healthy = self.is_healthy_within(START_MAX);
        assert!(healthy, "NATS is not healthy within {START_MAX:?}:\n{}", self.report());
    }

    fn report(&self) -> String {
        self.servers.iter().map(NatsServer::report).collect()
    }

    fn is_healthy_within(&self, most: Duration) -> bool {
        let begun = Instant::now();
        while !self.is_healthy() {
            if begun.elapsed() >= most {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn is_healthy(&self) -> bool {
        let all = self.servers.iter().all(|server| server.child.is_some());
        let mut running = self.servers.iter().filter(|server| server.child.is_some());
        running.all(NatsServer::is_healthy)
            && (!self.is_cluster || !all || self.servers.iter().any(NatsServer::leads))
    }

    /// Returns the server that leads this stream. Waits until there is one.
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

    /// Returns the addresses for `--nats-url`.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(|s| format!("nats://127.0.0.1:{}", s.port)).collect();
        urls.join(",")
    }
}

/// Number of attempts to start a new cluster of the oldest version. One in ten such clusters counts only two of its
/// three servers for ever.
const OLD_CLUSTER_ATTEMPTS: u32 = 3;
/// Number of lines that are shown of each server's log after a failed start.
const REPORT_LINES: usize = 25;
/// Maximum time for servers to start on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < START_MAX, "not within {START_MAX:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
