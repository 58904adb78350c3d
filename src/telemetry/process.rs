//! Memory, processor time and files of this process, from /proc. Values that cannot be read are left out.

use std::time::Duration;

/// Clock ticks a second in /proc: Linux's USER_HZ, fixed for user space.
const TICKS: u64 = 100;

/// Usage of the process now.
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
    /// Limit of open files and sockets.
    pub files_max: Option<u64>,
    /// Number of threads.
    pub threads: Option<u64>,
    /// Time since the process started.
    pub uptime: Option<Duration>,
}

impl Process {
    /// Reads it.
    #[must_use]
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let times = Times::of("self");
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            memory: number("VmRSS:").map(|kib| kib * 1024),
            cpu_user: times.map(|times| times.user.as_secs_f64()),
            cpu_system: times.map(|times| times.system.as_secs_f64()),
            files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
            files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            threads: number("Threads:"),
            uptime: times.and_then(|times| uptime(times.started)),
        }
    }
}

/// Times of a process in `/proc/PID/stat` (proc(5)).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Processor time in the program.
    pub user: Duration,
    /// Processor time in the system.
    pub system: Duration,
    /// Start of the process, counted from the start of the machine.
    pub started: Duration,
}

impl Times {
    /// Reads the times of the process with this id, or `self`.
    #[must_use]
    pub fn of(pid: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Counted behind the command's name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let time = |index: usize| {
            let ticks: u64 = fields.get(index)?.parse().ok()?;
            Some(Duration::from_millis(ticks * 1000 / TICKS))
        };
        Some(Self { user: time(11)?, system: time(12)?, started: time(19)? })
    }
}

fn uptime(started: Duration) -> Option<Duration> {
    let system = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = system.split_whitespace().next()?.parse().ok()?;
    Some(Duration::try_from_secs_f64(now).ok()?.saturating_sub(started))
}

#[cfg(test)]
mod tests {
    use super::{Process, Times};

    #[test]
    fn values_of_this_process_are_read() {
        let process = Process::read();
        assert!(process.memory.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.files.is_some_and(|files| files > 2) && process.files_max.is_some());
        assert!(process.threads.is_some() && process.uptime.is_some());
        assert!(process.cpu_user.is_some() && process.cpu_system.is_some());
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_times() {
        assert!(Times::of("0").is_none());
    }
}
