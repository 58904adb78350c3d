//! A memory cgroup for one test, of version 1 or 2, with the effect of a container's memory limit. A test that
//! cannot create one fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Mount points of the cgroup file systems.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup that is removed when dropped, by which time its processes must have ended.
pub struct Cgroup {
    dir: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Creates a group with a limit in bytes, page cache included, and without swap.
    pub fn new(bytes_max: u64) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let root = Path::new(ROOT);
        let (version, parent) = match root.join("memory/memory.limit_in_bytes").exists() {
            true => (Version::One, root.join("memory")),
            false => (Version::Two, root.to_owned()),
        };
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("streamway-test-{}-{number}", std::process::id()));
        let made = match version {
            Version::One => Ok(()),
            Version::Two => delegated(&parent),
        };
        let made = made.and_then(|()| fs::create_dir(&dir));
        let group = Self { dir, version };
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let made = made.and_then(|()| fs::write(group.dir.join(limit), bytes_max.to_string()));
        if let Err(error) = made {
            panic!(
                "this test needs a memory cgroup of its own, and {} could not be made: {error}. It needs root, and {ROOT} \
                 writable with the memory controller (of a container: --privileged)",
                group.dir.display()
            );
        }
        if version == Version::Two {
            // The file does not exist on kernels without swap accounting.
            let _ = fs::write(group.dir.join("memory.swap.max"), "0");
        }
        group
    }

    /// Command through which a process is started in the group.
    pub fn under(&self) -> Vec<String> {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.dir.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec()
    }

    /// Peak memory use in bytes.
    pub fn peak(&self) -> u64 {
        self.number(match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    fn number(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// Enables the memory controller for the children of `parent`. A group with processes, such as a container's own,
/// cannot enable controllers, so its processes move into a leaf first.
fn delegated(parent: &Path) -> std::io::Result<()> {
    let control = parent.join("cgroup.subtree_control");
    if fs::read_to_string(&control)?.split_whitespace().any(|one| one == "memory") {
        return Ok(());
    }
    if fs::write(&control, "+memory").is_ok() {
        return Ok(());
    }
    let leaf = parent.join("streamway-tests-others");
    fs::create_dir_all(&leaf)?;
    for process in fs::read_to_string(parent.join("cgroup.procs"))?.lines() {
        // A process may have ended meanwhile.
        let _ = fs::write(leaf.join("cgroup.procs"), process);
    }
    fs::write(&control, "+memory")
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel removes ended processes from the group with a delay.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
