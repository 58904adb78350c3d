//! Processor time of this process, and of a server on this machine.

use std::ops::Sub;
use std::time::Duration;

use crate::telemetry::Times;

/// The processes whose processor time is reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    pub(super) server: Option<u32>,
}

/// Processor time used so far, or between two points in time; none where it cannot be read.
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

fn of(pid: &str) -> Option<Duration> {
    Times::of(pid).map(|times| times.user + times.system)
}
