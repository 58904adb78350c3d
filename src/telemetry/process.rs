//! What the system says of this process.
//! Never: fails; what cannot be read is not shown.

use std::time::Duration;

/// Clock ticks a second in /proc: Linux's USER_HZ, fixed for user space.
const TICKS: f64 = 100.0;

/// The process now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Bytes of memory held.
    pub memory: Option<u64>,
    /// Seconds of processor time in the program.
    pub cpu_user: Option<f64>,
    /// Seconds of processor time in the system.
    pub cpu_system: Option<f64>,
    /// Open files and sockets.
    pub files: Option<u64>,
    /// How many there may be.
    pub files_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Since the process began.
    pub uptime: Option<Duration>,
}

impl Process {
    /// Looks now.
    #[must_use]
    pub fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name before the last parenthesis may hold spaces.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            memory: number("VmRSS:").map(|kib| kib * 1024),
            cpu_user: ticks(11),
            cpu_system: ticks(12),
            files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
            files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            threads: number("Threads:"),
            uptime: uptime(ticks(19)),
        }
    }
}

fn uptime(started: Option<f64>) -> Option<Duration> {
    let system = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = system.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64((now - started?).max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::Process;

    #[test]
    fn this_process_is_seen() {
        let process = Process::look();
        assert!(process.memory.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.files.is_some_and(|files| files > 2) && process.files_max.is_some());
        assert!(process.threads.is_some() && process.uptime.is_some());
        assert!(process.cpu_user.is_some() && process.cpu_system.is_some());
    }
}
