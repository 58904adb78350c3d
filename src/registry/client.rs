//! One connection of a client with its open calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::call::Call;
use super::peer::Peer;
use super::slots::Slots;
use crate::topic::ShutdownSignal;

/// One connection of a client, registered until its last handle is dropped.
#[derive(Debug)]
pub struct Client {
    peer: Arc<Peer>,
    siblings: Arc<Slots<Client>>,
    slot: usize,
    /// Calls so far.
    opened: AtomicU64,
    calls: Arc<Slots<Call>>,
}

impl Client {
    pub(super) fn new(
        number: u64,
        (siblings, slot): (Arc<Slots<Self>>, usize),
        (address, is_tls): (Option<SocketAddr>, bool),
        shutdown: ShutdownSignal,
    ) -> Self {
        let peer = Arc::new(Peer::new(number, address, is_tls, shutdown));
        Self { peer, siblings, slot, opened: AtomicU64::new(0), calls: Arc::default() }
    }

    /// The other side of the connection.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Slot of the connection.
    #[must_use]
    pub const fn slot(&self) -> usize {
        self.slot
    }

    /// Looks at `limit` slots of calls from `first` on. Returns the calls in them, and the slot to continue at; none where
    /// there are no more.
    #[must_use]
    pub fn calls(&self, first: usize, limit: usize) -> (Vec<Arc<Call>>, Option<usize>) {
        self.calls.page(first, limit)
    }

    /// Number of calls so far.
    #[must_use]
    pub fn calls_opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Number of open calls.
    #[must_use]
    pub fn calls_open(&self) -> usize {
        self.calls.len()
    }

    /// Registers a call, until its last handle is dropped.
    #[must_use]
    pub fn call(&self, method: &'static str, user_agent: Option<&[u8]>) -> Arc<Call> {
        let number = self.opened.fetch_add(1, Relaxed);
        let agent = user_agent.map(|agent| self.peer.agent(agent));
        self.calls.add(|slot| {
            let place = (Arc::clone(&self.calls), slot);
            Call::new(Arc::clone(&self.peer), place, number, method, agent)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.siblings.remove(self.slot);
    }
}
