//! The real binary as a child process, on free ports and a data directory of its own. It is killed by its
//! pid when dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use streamway::proto::v1::stream_service_client::StreamServiceClient;
use streamway::proto::v1::topic_service_client::TopicServiceClient;
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::within;

/// A client of StreamService.
pub type StreamClient = StreamServiceClient<Channel>;
/// A client of TopicService.
pub type TopicClient = TopicServiceClient<Channel>;

/// Longest start, recovery included, on a busy machine.
const START_SECONDS: u64 = 60;
/// Last lines of the log that a failing test prints.
const LOG_LINES_SHOWN: usize = 40;

/// Addresses that the start log names as bound.
#[derive(Clone, Copy, Debug)]
struct Bound {
    listen: SocketAddr,
    /// `None` where the HTTP listener is off.
    http: Option<SocketAddr>,
    admin: SocketAddr,
}

/// One run of the binary.
struct Process {
    pid: u32,
    exited: watch::Receiver<Option<ExitStatus>>,
    /// A file and not a pipe, so that it holds what the process wrote before it answered a call.
    log: NamedTempFile,
}

/// A server that can be killed and started again on the same data and the same ports.
pub struct Server {
    data_dir: PathBuf,
    args: Vec<String>,
    /// Command that the server is started through, usually none.
    under: Vec<String>,
    process: Process,
    bound: Bound,
    _own_dir: Option<TempDir>,
}

impl Server {
    /// Starts one with defaults, on a data directory of its own.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one with more flags, on a data directory of its own.
    pub async fn with(args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut server = Self::on(dir.path(), args).await;
        server._own_dir = Some(dir);
        server
    }

    /// Starts one with more flags, on a data directory of the test's.
    pub async fn on(data_dir: &Path, args: &[&str]) -> Self {
        Self::under(Vec::new(), data_dir, args).await
    }

    /// [`Self::on`], started each time through a command that executes the server, as `env` does.
    pub async fn under(under: Vec<String>, data_dir: &Path, args: &[&str]) -> Self {
        Self::listening(SocketAddr::from(([127, 0, 0, 1], 0)), under, data_dir, args).await
    }

    /// [`Self::under`], on free ports of this address.
    pub async fn listening(any: SocketAddr, under: Vec<String>, data_dir: &Path, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let process = spawn(&under, data_dir, &args, Bound { listen: any, http: Some(any), admin: any });
        let bound = ready(&process).await;
        Self { data_dir: data_dir.to_owned(), args, under, process, bound, _own_dir: None }
    }

    /// Returns once the ports are bound, while the server still starts; with more flags, on a data directory of
    /// its own.
    pub async fn starting(args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let process = spawn(&[], dir.path(), &args, Bound { listen: any, http: Some(any), admin: any });
        let bound = named(&process).await;
        let data_dir = dir.path().to_owned();
        Self { data_dir, args, under: Vec::new(), process, bound, _own_dir: Some(dir) }
    }

    /// Starts again on the same data and ports, once the earlier process has ended.
    pub async fn restart(&mut self) {
        self.start_again();
        self.bound = ready(&self.process).await;
    }

    /// [`Self::restart`], until the ports are bound: damage may end readiness as soon as it has begun.
    pub async fn restart_to_ports(&mut self) {
        self.start_again();
        self.bound = named(&self.process).await;
    }

    /// [`Self::restart`], without waiting for anything.
    pub fn start_again(&mut self) {
        let under = self.under.clone();
        self.start_again_by(&under);
    }

    /// [`Self::start_again`], this time through a command such as `strace -D`.
    pub fn start_again_under(&mut self, command: &[&str]) {
        let under: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        self.start_again_by(&under);
    }

    fn start_again_by(&mut self, under: &[String]) {
        assert!(self.process.exited.borrow().is_some(), "still running");
        self.process = spawn(under, &self.data_dir, &self.args, self.bound);
    }

    /// Waits until the server is ready or has ended. Returns true if it is ready.
    pub async fn ready_or_ended(&mut self) -> bool {
        let mut exited = self.process.exited.clone();
        tokio::select! {
            _ = exited.wait_for(Option::is_some) => false,
            () = within(START_SECONDS, "readiness", serving_soon(self.bound.listen)) => true,
        }
    }

    /// Waits for an end that has been requested.
    pub async fn ended(&mut self) -> ExitStatus {
        within(START_SECONDS, "the server's end", self.process.ended()).await
    }

    /// Ends the process as a power cut would, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.process.signal("KILL");
        within(10, "SIGKILL", self.process.ended()).await;
    }

    /// Sends a signal and waits for the end. Returns the exit status and the time that it took.
    pub async fn stop(&mut self, name: &str, seconds_max: u64) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.process.signal(name);
        let status = within(seconds_max, "end after a signal", self.process.ended()).await;
        (status, begun.elapsed())
    }

    /// Sends SIGTERM, after which the server must exit with code 0 within the default drain timeout.
    pub async fn sigterm(&mut self) {
        let (status, took) = self.stop("TERM", 10).await;
        assert!(status.success(), "exit {status:?} after {took:?}\n{}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn listen(&self) -> SocketAddr {
        self.bound.listen
    }

    pub fn admin(&self) -> SocketAddr {
        self.bound.admin
    }

    /// Address of the HTTP listener.
    pub fn http(&self) -> SocketAddr {
        self.bound.http.expect("the HTTP listener is on")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.bound.listen)
    }

    /// Answers of the admin port to `/readyz` and `/livez`.
    pub async fn ready_and_alive(&self) -> (bool, bool) {
        (self.probe("/readyz").await, self.probe("/livez").await)
    }

    async fn probe(&self, path: &str) -> bool {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin()).await.expect("the admin port");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer.starts_with("HTTP/1.1 200")
    }

    /// Log of this run.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("running");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }

    /// Has clients connect to this address, behind which the server is.
    pub fn behind(mut self, at: SocketAddr) -> Self {
        self.bound.listen = at;
        self
    }

    /// Opens a new connection.
    pub async fn channel(&self) -> Channel {
        connect(self.bound.listen).await
    }

    pub async fn client(&self) -> StreamClient {
        StreamClient::new(self.channel().await)
    }

    /// Client that connects when it is first used, when the server may be gone.
    pub fn client_of_maybe_gone(&self) -> StreamClient {
        StreamClient::new(endpoint(self.bound.listen).connect_lazy())
    }

    pub async fn topics(&self) -> TopicClient {
        TopicClient::new(self.channel().await)
    }
}

impl Process {
    fn signal(&self, name: &str) {
        if self.exited.borrow().is_none() {
            signal(self.pid, name);
        }
    }

    async fn ended(&mut self) -> ExitStatus {
        let seen = self.exited.wait_for(Option::is_some).await.expect("the waiting thread lives");
        seen.expect("checked")
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).expect("a file of ours");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- server log, last lines ---\n{}", lines[shown..].join("\n"));
        }
    }
}

/// Sends a signal to a process the test started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.expect("sh").success(), "kill -{name} {pid}");
}

fn spawn(under: &[String], data_dir: &Path, args: &[String], at: Bound) -> Process {
    let command: Vec<&str> =
        under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_streamway")]).collect();
    let http = at.http.map_or_else(|| "off".to_owned(), |address| address.to_string());
    // A test may choose an address itself.
    let http: &[&str] =
        if args.iter().any(|arg| arg == "--http-listen") { &[] } else { &["--http-listen", &http] };
    let log = NamedTempFile::new().expect("a temporary file");
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg("serve")
        .args(["--listen", &at.listen.to_string(), "--admin-listen", &at.admin.to_string()])
        .args(http)
        .arg("--data-dir")
        .arg(data_dir)
        .args(args)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.reopen().expect("a file of ours"))
        .spawn()
        .expect("the binary starts");
    let pid = child.id();
    let (exited_tx, exited) = watch::channel(None);
    std::thread::spawn(move || exited_tx.send_replace(Some(child.wait().expect("a child of ours"))));
    Process { pid, exited, log }
}

/// Parses a log line. The fields may be at the top level or under `fields`.
fn bound_in(line: &str) -> Option<Bound> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let address = |name: &str| fields.get(name)?.as_str()?.parse::<SocketAddr>().ok();
    let http = address("http_listen");
    let found = Bound { listen: address("listen")?, http, admin: address("admin_listen")? };
    (found.listen.port() != 0 && found.admin.port() != 0).then_some(found)
}

/// Waits until the ports are named.
async fn named(process: &Process) -> Bound {
    let named = async {
        loop {
            // Looked at before the log, as a process may end just after it has named them.
            let ended = process.exited.borrow().is_some();
            let found = process.log().lines().find_map(bound_in);
            if found.is_some() || ended {
                return found;
            }
            // Nothing tells when another process writes to a file.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = within(START_SECONDS, "the start log", named).await;
    found.unwrap_or_else(|| panic!("the server ended at its start:\n{}", process.log()))
}

/// Waits until the ports are named and the server says that it is serving.
async fn ready(process: &Process) -> Bound {
    let at = named(process).await;
    // The admin port answers in plaintext whatever the other one speaks.
    within(START_SECONDS, "readiness", serving(at.admin)).await;
    at
}

/// Waits until a server at this address is serving.
async fn serving_soon(at: SocketAddr) {
    loop {
        if let Ok(channel) = endpoint(at).connect().await {
            let mut health = HealthClient::new(channel);
            let asked = health.check(HealthCheckRequest { service: String::new() }).await;
            if asked.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
                return;
            }
        }
        // Nothing tells when a port of another process is bound.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn serving(at: SocketAddr) {
    let mut health = HealthClient::new(connect(at).await);
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request).await.expect("health is always served").into_inner();
    while let Some(now) = watch.message().await.expect("the watch goes on until it is serving") {
        if now.status() == ServingStatus::Serving {
            return;
        }
    }
    panic!("the health watch ended");
}

/// Connects to a server.
pub async fn connect(at: SocketAddr) -> Channel {
    endpoint(at).connect().await.expect("the server is there")
}

fn endpoint(at: SocketAddr) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("a URL");
    endpoint.connect_timeout(Duration::from_secs(10))
}
