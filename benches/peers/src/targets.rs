//! The target ratios: Streamway's figure divided by another's.

use crate::groups;
use crate::restart::{START_2, START_10};
use crate::workload::{FLEET_FANOUT, FLEET_P50, FLEET_P50_CALM, FLEET_PIPELINED, SLOW_SYNC};

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Want {
    AtLeast,
    AtMost,
}
use Want::{AtLeast, AtMost};

impl Want {
    /// The sign of an aim.
    pub const fn sign(self) -> char {
        match self {
            AtLeast => '≥',
            AtMost => '≤',
        }
    }

    /// Returns true if a measured value reaches the aim.
    pub fn is_met(self, measured: f64, aim: f64) -> bool {
        match self {
            AtLeast => measured >= aim,
            AtMost => measured <= aim,
        }
    }
}

const PIPELINED: &str = "pipelined publish, records/s";
const PUBLISHERS: &str = "64 publishers, records/s";
const UNARY: &str = "64 concurrent requests, requests/s";
const BULK: &str = "bulk publish, MiB/s";
const FANOUT_100: &str = "fan-out 1 to 100, deliveries/s";
const FANOUT_10: &str = "fan-out 1 to 10, deliveries/s";
const REPLAY: &str = "replay, records/s";
const REPLAY_TYPED: &str = "replay into typed messages, records/s";
const P50: &str = "latency at 5,000/s, p50, µs";
const P99: &str = "latency at 5,000/s, p99, µs";
const IDLE: &str = "idle subscription, shared connection, bytes";
const MANY: &str = "256 publishers, 1,000 topics, requests/s";

/// A figure, the other server, the ratio to reach.
pub const TARGETS: &[(&str, &str, Want, f64)] = &[
    (PIPELINED, "limit", AtLeast, 0.6),
    (PIPELINED, "Redis always", AtLeast, 3.5),
    (PIPELINED, "NATS default", AtLeast, 5.0),
    (PIPELINED, "NATS always", AtLeast, 40.0),
    (PIPELINED, "s2-lite", AtLeast, 15.0),
    (PUBLISHERS, "Redis always", AtLeast, 1.3),
    (PUBLISHERS, "NATS default", AtLeast, 2.0),
    (UNARY, "limit", AtLeast, 0.65),
    (UNARY, "NATS always", AtLeast, 3.0),
    (UNARY, "s2-lite", AtLeast, 5.0),
    (UNARY, "Python", AtLeast, 5.0),
    (BULK, "limit", AtLeast, 0.25),
    (BULK, "Redis always", AtLeast, 1.0),
    (BULK, "NATS always", AtLeast, 1.0),
    (BULK, "s2-lite", AtLeast, 1.0),
    (FANOUT_100, "limit", AtLeast, 0.75),
    (FANOUT_100, "Redis always", AtLeast, 7.0),
    (FANOUT_100, "s2-lite", AtLeast, 3.0),
    (FANOUT_100, "NATS default", AtLeast, 15.0),
    (FANOUT_10, "Redis always", AtLeast, 5.0),
    (FANOUT_10, "s2-lite", AtLeast, 4.0),
    (FANOUT_10, "NATS default", AtLeast, 7.0),
    (REPLAY_TYPED, "limit", AtLeast, 0.75),
    (REPLAY, "Redis always", AtLeast, 8.0),
    (REPLAY, "NATS default", AtLeast, 8.0),
    (REPLAY, "s2-lite", AtLeast, 8.0),
    (P50, "limit", AtMost, 2.2),
    (P50, "Redis always", AtMost, 0.7),
    (P99, "Redis always", AtMost, 1.0),
    (P99, "s2-lite", AtMost, 0.125),
    (P99, "NATS always", AtMost, 0.1),
    (SLOW_SYNC, "Redis always", AtLeast, 1.0),
    (SLOW_SYNC, "NATS always", AtLeast, 1.0),
    (SLOW_SYNC, "s2-lite", AtLeast, 1.0),
    (IDLE, "NATS default", AtMost, 0.25),
    (MANY, "NATS always", AtLeast, 1.0),
    (FLEET_PIPELINED, "NATS R3 always", AtLeast, 5.0),
    (FLEET_FANOUT, "NATS R3 always", AtLeast, 5.0),
    (FLEET_P50_CALM, "NATS R3 always", AtMost, 1.5),
    (FLEET_P50, "NATS R3 always", AtMost, 1.5),
    (groups::BATCHES, "Redis always", AtLeast, 3.0),
    (groups::BATCHES, "NATS always", AtLeast, 8.0),
];

/// Limits on Streamway's own figures.
pub const OWN: &[(&str, Want, f64)] = &[
    (IDLE, AtMost, 2_500.0),
    ("idle subscription, own connection, bytes", AtMost, 24_000.0),
    (START_2, AtMost, 500.0),
    (START_10, AtMost, 1_000.0),
    (groups::BATCHES, AtLeast, 300_000.0),
    (groups::SINGLES, AtLeast, 60_000.0),
    (groups::STUCK_MEMORY, AtMost, 32.0),
    (groups::BLOCKED_MEMORY, AtMost, 32.0),
    (groups::IDLE_MEMORY, AtMost, 6_144.0),
    (groups::FLEET, AtLeast, 100_000.0),
    (groups::FLEET_REMOTE, AtLeast, 100_000.0),
];

/// Ratios of two of Streamway's own figures.
pub const RATIOS: &[(&str, &str, Want, f64)] = &[
    (MANY, "256 publishers, one topic, requests/s", AtLeast, 0.4),
    (groups::LIVE, groups::LIVE_SUBSCRIBER, AtLeast, 0.4),
    (groups::MEMBERS, groups::BATCHES, AtLeast, 0.5),
    (groups::KEYS, groups::BATCHES, AtLeast, 0.5),
    (groups::STUCK, groups::STUCK_ALONE, AtLeast, 0.9),
    (groups::P50, groups::P50_SUBSCRIBER, AtMost, 1.3),
    (groups::FLEET_P50, groups::FLEET_P50_SUBSCRIBER, AtMost, 1.5),
    (groups::FLEET_P50_REMOTE, groups::FLEET_P50_SUBSCRIBER, AtMost, 1.5),
];

/// True if a smaller figure is better.
pub fn less_is_better(what: &str) -> bool {
    ["idle", "start"].iter().any(|start| what.starts_with(start))
        || ["latency", "memory"].iter().any(|word| what.contains(word))
}
