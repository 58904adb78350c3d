//! The interface between workloads and peers, and the process of a peer.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::outcome::{Failure, Outcome};
use crate::pace::{Pace, Progress};

/// Time allowed for a peer to start listening.
const START_MAX: Duration = Duration::from_secs(30);

/// A server under measurement. Every method gets a topic that nothing else uses.
#[tonic::async_trait]
pub trait Peer: Send + Sync {
    fn process(&self) -> &Process;

    /// Creates topics, for a peer that does not create them on first use.
    async fn create(&self, _topics: &[String]) -> Outcome<()> {
        Ok(())
    }

    /// Publishes in order over its own connection or stream, until the pace ends.
    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()>;

    /// Publishes to the topics in turn, waiting for each answer before the next request.
    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()>;

    /// Reads the topic from the beginning until dropped.
    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()>;

    /// Creates a group that begins with the topic's first record, for a peer that has groups.
    async fn create_group(&self, _topic: &str, _group: &str, _order: Order) -> Outcome<()> {
        Err("it has no groups".into())
    }

    /// Starts what a member needs besides the server, so that it is not part of its time.
    async fn prepare(&self, _member: &Member) -> Outcome<()> {
        Ok(())
    }

    /// Takes part in a group until dropped.
    async fn consume(&self, _topic: &str, _group: &str, _member: Member) -> Outcome<()> {
        Err("it has no groups".into())
    }
}

/// Order in which a group hands out records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    None,
    /// By key, for peers that have keys.
    Key,
}

/// A member of a group.
#[derive(Clone)]
pub struct Member {
    pub index: usize,
    pub connection: Connection,
    /// Most records that it holds unsettled.
    pub credit: usize,
    pub settle: Settle,
    /// Records whose settlement was confirmed.
    pub settled: Arc<Progress>,
    /// Records that were received.
    pub received: Arc<Progress>,
    /// True for a member at the replica that does not own the group, in a fleet.
    pub is_remote: bool,
}

/// Way in which a member settles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// In the largest units that the protocol has: ranges of a stored batch, lists of ids.
    Together,
    /// Each record by a message of its own.
    OneByOne,
    /// Not at all: it holds what it got.
    Never,
}

/// One subscriber.
#[derive(Clone)]
pub struct Reader {
    pub index: usize,
    pub connection: Connection,
    pub decode: Decode,
    pub progress: Arc<Progress>,
}

/// Connection of a subscriber, for peers whose protocol has a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// One of [`SHARED`], by the subscriber's index.
    Shared,
    Own,
}

/// Way in which a gRPC subscriber reads deliveries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// Skips over the fields, like the readers of the other protocols.
    Walk,
    /// Decodes into the generated messages.
    Typed,
}

/// Connections that subscribers share.
pub const SHARED: usize = 10;

/// True if servers started from now on sync slowly.
static SLOW_SYNCS: AtomicBool = AtomicBool::new(false);

/// Makes every sync of servers started from now on take 1 ms longer.
pub fn slow_syncs(slow: bool) {
    SLOW_SYNCS.store(slow, Ordering::Relaxed);
}

/// Wraps a command so that every sync is delayed by 1 ms. Only those system calls are traced, and strace is the grandchild,
/// so that killing the child ends both.
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

/// A server process with its own data directory; dropping it removes both.
pub struct Process {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Process {
    /// Starts the command for a free port and an empty directory, and waits until it listens.
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
        // It may have exited by itself; the directory is removed in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Directory on the disk of the clone, because the temporary directory may be in memory.
fn data_dir() -> Outcome<tempfile::TempDir> {
    let parent = cache();
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("data-").tempdir_in(parent)?)
}

pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Directory for everything the tool installs and writes, outside version control.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache")
}

/// The top of the clone.
pub fn clone_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
