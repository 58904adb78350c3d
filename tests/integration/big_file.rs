//! A large real text passes through the command line, with a kill -9 in the middle of each direction.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use streamway::proto::v1::GetTopicRequest;

use crate::harness::{Server, within};

/// Large enough for many batches, segments and checkpoints, small enough for every run.
const BYTES_MAX: usize = 40 << 20;
const BYTES_MIN: usize = 10 << 20;

/// P1, P2, P3, P5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_text_survives_kill_9_in_both_directions_byte_for_byte() {
    let text = real_text();
    let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    println!("{} bytes, {lines} lines", text.len());
    let dir = tempfile::TempDir::new().unwrap();
    let (sent, back) = (dir.path().join("sent"), dir.path().join("back"));
    fs::write(&sent, &text).unwrap();

    let mut server = Server::start().await;
    let mut publish = Running::start(&server, &["publish", "big", "--file"], &sent, None);
    within(120, "a third published", tail_reaches(&server, lines / 3)).await;
    server.kill9().await;
    assert!(publish.is_running(), "the kill was in the middle");
    server.restart().await;
    publish.finish(300).await;
    assert_eq!(tail(&server).await, lines, "each line is one record, once");

    let max = lines.to_string();
    let args = ["subscribe", "big", "--from", "earliest", "--max", &max];
    let mut subscribe = Running::start(&server, &args, Path::new(""), Some(&back));
    within(120, "a third received", grows(&back, text.len() as u64 / 3)).await;
    server.kill9().await;
    assert!(subscribe.is_running(), "the kill was in the middle");
    server.restart().await;
    subscribe.finish(300).await;
    let back = fs::read(&back).unwrap();
    assert_eq!(back.len(), text.len());
    assert!(back == text, "byte for byte");
}

/// The package index of this machine; without one, the sources of our dependencies.
fn real_text() -> Vec<u8> {
    let mut text = Vec::new();
    for path in walk(Path::new("/var/lib/apt/lists"), "_Packages") {
        let output = Command::new("/usr/lib/apt/apt-helper").arg("cat-file").arg(path).output();
        text.extend(output.map(|output| output.stdout).unwrap_or_default());
    }
    if text.len() < BYTES_MIN {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).expect("a home");
        for path in walk(&home.join("registry/src"), ".rs") {
            text.extend(fs::read(path).unwrap_or_default());
            if text.len() > BYTES_MAX {
                break;
            }
        }
    }
    text.truncate(BYTES_MAX);
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.truncate(end);
    assert!(text.len() >= BYTES_MIN, "no real text of {BYTES_MIN} bytes on this machine: run apt-get update");
    text
}

fn walk(root: &Path, part: &str) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if entry.file_name().to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A command of the binary against a server; killed by pid if the test fails.
struct Running(Child);

impl Running {
    fn start(server: &Server, args: &[&str], file: &Path, out: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
        command.args(args).env("STREAMWAY_SERVER", server.url()).stdin(Stdio::null());
        if !file.as_os_str().is_empty() {
            command.arg(file);
        }
        let stdout = out.map_or_else(Stdio::null, |path| File::create(path).unwrap().into());
        Self(command.stdout(stdout).spawn().unwrap())
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    async fn finish(&mut self, seconds: u64) {
        let ended = async {
            while self.is_running() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(seconds, "the command", ended).await;
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

async fn tail(server: &Server) -> u64 {
    let request = GetTopicRequest { name: "big".into() };
    let answer = server.topics().await.get_topic(request).await;
    answer.map_or(0, |answer| answer.into_inner().topic.expect("the topic").tail)
}

async fn tail_reaches(server: &Server, n: u64) {
    while tail(server).await < n {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn grows(path: &Path, bytes: u64) {
    while fs::metadata(path).map_or(0, |file| file.len()) < bytes {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
