//! Helpers of all tests: a server ([`Server`]), a checked subscription ([`Reader`]), messages ([`make`]),
//! checks of statuses ([`refused`]) and peers that misbehave ([`raw`]). All of it is real; there are no mocks.

pub mod certs;
pub mod cgroup;
pub mod envoy;
pub mod faults;
pub mod frames;
pub mod haproxy;
pub mod identities;
pub mod jwt;
pub mod make;
pub mod member;
#[allow(dead_code, reason = "the unit tests of the engine use all of it")]
#[path = "../../../src/storage/jetstream/server.rs"]
mod nats;
pub mod owner;
pub mod preload;
pub mod proxy;
pub mod raw;
mod reader;
mod server;
mod status;
pub mod vitals;
pub mod web;

use std::future::Future;
use std::time::Duration;

pub use nats::{Nats, free_ports};
pub use reader::{Reader, Seen, read_all};
pub use server::{Server, StreamClient, TopicClient, connect, signal};
pub use status::{detail, metadata, refused};

/// Fails the test if a future takes longer than it ever should.
pub async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("took more than {seconds} s: {what}"),
    }
}

/// Seed of a random test. It is printed, and `TESTS_SEED` sets it to repeat a run.
pub fn seed() -> u64 {
    let seed = number("TESTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed: TESTS_SEED={seed}");
    seed
}

/// Number in an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Returns true under `tests/run --soak`, which runs the long versions of tests.
pub fn soak() -> bool {
    std::env::var_os("TESTS_SOAK").is_some()
}
