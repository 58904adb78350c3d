//! Processor time of this process, and of a server on this machine.
//! Never: guesses; what cannot be read is left out.

use std::ops::Sub;
use std::time::Duration;

/// Ticks a second of `/proc/PID/stat`: fixed at 100 on every Linux that is built today.
const TICKS: u64 = 100;

/// Whose processor time is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    pub(super) server: Option<u32>,
}

/// Processor time used so far, or between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) client: Option<Duration>,
    pub(super) server: Option<Duration>,
}

impl Cpu {
    pub(super) fn used(self) -> Used {
        Used { client: of("self"), server: self.server.and_then(|pid| of(&pid.to_string())) }
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let less = |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Self { client: less(self.client, before.client), server: less(self.server, before.server) }
    }
}

/// User and system time of a process (proc(5)): fields 14 and 15, counted behind the command's name,
/// which may hold anything.
fn of(pid: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn ones_own_time_is_found_and_a_strangers_is_not() {
        assert!(of("self").is_some());
        assert!(of("0").is_none());
    }
}
