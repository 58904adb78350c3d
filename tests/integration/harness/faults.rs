//! Faults of the disk under a running server: system calls that fail or take long, by strace, and a
//! file system that is small.
//! Never: outlives the test; what was begun is ended when dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{signal, within};

/// A fault that lasts until it is dropped.
pub struct Fault(Child);

impl Fault {
    /// Injects into the process `pid`: `what` is strace's, `fdatasync:error=EIO` for one.
    pub async fn inject(pid: u32, what: &str) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("inject={what}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed: tests/run installs it");
        let stderr = child.stderr.take().expect("piped");
        let attached = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
            lines.find(|line| line.contains("attached") || line.contains("not permitted"))
        });
        let said = within(10, "strace", attached).await.expect("no panic");
        let said = said.expect("strace says whether it is attached");
        assert!(said.contains("attached"), "strace may trace: {said}");
        Self(child)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // A tracer that is told to end lets go of its process first.
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

/// A file system in memory, mounted until it is dropped. Takes root, or sudo without a password.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(bytes: u64) -> Self {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let options = format!("size={bytes},mode=0777");
        let mounted = root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs"], dir.path());
        assert!(mounted, "a tmpfs can be mounted");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        root(&["umount", "-l"], self.0.path());
    }
}

fn root(command: &[&str], path: &Path) -> bool {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let all = [sudo, command].concat();
    Command::new(all[0]).args(&all[1..]).arg(path).status().is_ok_and(|status| status.success())
}
