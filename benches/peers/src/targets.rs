//! The target ratios: Streamway's figure divided by another's.

use crate::restart::{START_2, START_10};
use crate::workload::{FLEET_FANOUT, FLEET_P50, FLEET_P50_CALM, FLEET_PIPELINED, SLOW_SYNC};

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Want {
    AtLeast,
    AtMost,
}
use Want::{AtLeast, AtMost};

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
];

/// Limits on Streamway's own figures.
pub const OWN: &[(&str, f64)] = &[
    (IDLE, 2_500.0),
    ("idle subscription, own connection, bytes", 24_000.0),
    (START_2, 500.0),
    (START_10, 1_000.0),
];

/// True if a smaller figure is better.
pub fn less_is_better(what: &str) -> bool {
    ["latency", "idle", "start", "fleet latency"].iter().any(|start| what.starts_with(start))
}
