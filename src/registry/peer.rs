//! The other side of a connection, and what was transferred.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::topic::ShutdownSignal;

/// Maximum bytes that are kept of a user agent.
const USER_AGENT_MAX: usize = 128;

/// The other side of one connection.
#[derive(Debug)]
pub struct Peer {
    /// Number of the connection, which no other of this process has.
    pub number: u64,
    /// Address of the client.
    pub address: Option<SocketAddr>,
    /// The connection is encrypted.
    pub is_tls: bool,
    /// Time since when it is connected.
    pub since: Instant,
    /// Signal that the calls of the connection should end.
    pub shutdown: ShutdownSignal,
    user_agent: OnceLock<Arc<str>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Peer {
    pub(super) fn new(
        number: u64,
        address: Option<SocketAddr>,
        is_tls: bool,
        shutdown: ShutdownSignal,
    ) -> Self {
        Self {
            number,
            address,
            is_tls,
            since: Instant::now(),
            shutdown,
            user_agent: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// User agent of its first call.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        self.user_agent.get().map_or("", |agent| agent)
    }

    /// Bytes received from and sent to the socket, those of TLS and HTTP/2 included.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Adds bytes that were read from the socket.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds bytes that were written to the socket.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Returns the text of a user agent, which is the same for nearly all calls of a connection.
    pub(super) fn agent(&self, agent: &[u8]) -> Arc<str> {
        let agent = &agent[..agent.len().min(USER_AGENT_MAX)];
        let known = self.user_agent.get_or_init(|| String::from_utf8_lossy(agent).into());
        if known.as_bytes() == agent { Arc::clone(known) } else { String::from_utf8_lossy(agent).into() }
    }
}
