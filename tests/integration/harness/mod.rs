//! What every test needs: a server ([`Server`]), a checked subscription ([`Reader`]), messages
//! ([`make`]), statuses ([`refused`]) and peers that misbehave ([`raw`]).
//! Never: a mock.

pub mod certs;
pub mod cgroup;
pub mod faults;
pub mod frames;
pub mod haproxy;
pub mod identities;
pub mod jwt;
pub mod make;
#[allow(dead_code, reason = "the unit tests of the engine use all of it")]
#[path = "../../../src/storage/jetstream/server.rs"]
mod nats;
pub mod preload;
pub mod proxy;
pub mod raw;
mod reader;
mod server;
mod status;
pub mod vitals;

use std::future::Future;
use std::time::Duration;

pub use nats::{Nats, free_ports};
pub use reader::{Reader, Seen, read_all};
pub use server::{Server, StreamClient, TopicClient, connect, signal};
pub use status::{detail, metadata, refused};

/// Fails the test where something takes longer than it ever should.
pub async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("took more than {seconds} s: {what}"),
    }
}

/// The seed of a random test: printed, and taken from `TESTS_SEED` to repeat a run.
pub fn seed() -> u64 {
    let seed = number("TESTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed: TESTS_SEED={seed}");
    seed
}

/// A number that a variable sets.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Whether `tests/run --soak` asked for the long versions.
pub fn soak() -> bool {
    std::env::var_os("TESTS_SOAK").is_some()
}
