//! What a workload asks of a peer, and the process that a peer is. Never: measures.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::pace::{Pace, Progress};
use crate::{Failure, Outcome};

/// How long a peer may take to listen.
const START_MAX: Duration = Duration::from_secs(30);

/// A server under measurement. Every method takes a topic that nothing else uses.
#[tonic::async_trait]
pub trait Peer: Send + Sync {
    fn process(&self) -> &Process;

    /// Makes topics that are not made by their first use.
    async fn create(&self, _topics: &[String]) -> Outcome<()> {
        Ok(())
    }

    /// Publishes in order over a connection (or a stream) of its own, until the pace ends.
    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()>;

    /// Publishes request by request, each answered before the next, to the topics in turn.
    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()>;

    /// Reads the topic from its beginning until it is dropped.
    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()>;
}

/// One subscriber.
#[derive(Clone)]
pub struct Reader {
    pub index: usize,
    pub connection: Connection,
    pub decode: Decode,
    pub progress: Arc<Progress>,
}

/// Where a subscriber's deliveries arrive, where the peer's protocol has a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// One of [`SHARED`], by the subscriber's index.
    Shared,
    Own,
}

/// How a gRPC subscriber looks at what it gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// Walks over the fields, as the other protocols' readers here do.
    Walk,
    /// Into the generated messages.
    Typed,
}

/// Connections that shared subscribers are spread over.
pub const SHARED: usize = 10;

/// Whether servers started from now on sync slowly.
static SLOW_SYNCS: AtomicBool = AtomicBool::new(false);

/// Whether each sync of servers that are started from now on takes 1 ms longer.
pub fn slow_syncs(slow: bool) {
    SLOW_SYNCS.store(slow, Ordering::Relaxed);
}

/// The same command with 1 ms before every sync: only those calls are stopped at, and strace is the grandchild, so
/// that killing the child ends both.
fn slowed(command: &Command) -> Command {
    let mut slow = Command::new("strace");
    slow.args(["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,msync"]);
    slow.args(["-e", "inject=fsync,fdatasync,msync:delay_enter=1000"]);
    slow.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => slow.env(name, value),
            None => slow.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        slow.current_dir(dir);
    }
    slow
}

/// A server process with a data directory of its own; both end with it.
pub struct Process {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Process {
    /// Starts what `command` makes of a free port and an empty directory, and waits until it listens.
    pub async fn start(command: impl Fn(u16, &Path) -> Outcome<Command>) -> Outcome<Self> {
        Self::start_in(data_dir()?, command).await
    }

    pub async fn start_in(
        dir: tempfile::TempDir,
        command: impl Fn(u16, &Path) -> Outcome<Command>,
    ) -> Outcome<Self> {
        let port = free_port()?;
        let log = std::fs::File::create(dir.path().join("server.log"))?;
        let mut command = command(port, dir.path())?;
        if SLOW_SYNCS.load(Ordering::Relaxed) {
            command = slowed(&command);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut process = Self { child, port, dir };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || begin.elapsed() > START_MAX {
                let log = std::fs::read_to_string(process.dir.path().join("server.log"))?;
                return Err(format!("{command:?} does not listen ({ended:?}): {log}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(process)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no resident size")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Kills the process and keeps its directory.
    pub fn kill(mut self) -> Outcome<tempfile::TempDir> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(std::mem::replace(&mut self.dir, data_dir()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; the directory goes either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On the disk of the clone, not in a directory that may be memory.
fn data_dir() -> Outcome<tempfile::TempDir> {
    let parent = cache();
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("data-").tempdir_in(parent)?)
}

pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// What the tool installs and writes, outside version control.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache")
}

/// The top of the clone.
pub fn clone_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
