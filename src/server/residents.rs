//! The connections of a port that must answer everybody. At the limit a new connection evicts another: of the peer with
//! the most connections, the least recently used one. So a peer that opens many, and answers pings on each, evicts only
//! its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::telemetry::METRICS;

/// All connections of the port.
#[derive(Clone, Debug)]
pub(super) struct Residents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    /// Counts every connection and every call; a lower number was used longer ago.
    uses: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    peer: Option<IpAddr>,
    used: Arc<AtomicU64>,
    evicted: CancellationToken,
}

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Resident {
    all: Residents,
    number: u64,
    used: Arc<AtomicU64>,
    evicted: CancellationToken,
}

/// Handle that notes the calls on one connection.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    all: Residents,
    used: Arc<AtomicU64>,
}

impl Calls {
    /// Notes a call.
    pub(super) fn note(&self) {
        self.used.store(self.all.use_once(), Ordering::Relaxed);
    }
}

impl Residents {
    /// Allows at most `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Inner { max, uses: AtomicU64::new(0), open: Mutex::default() }))
    }

    fn use_once(&self) -> u64 {
        self.0.uses.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection of this peer, and evicts another where that makes one too many.
    pub(super) fn enter(&self, peer: Option<IpAddr>) -> Resident {
        let number = self.use_once();
        let (used, evicted) = (Arc::new(AtomicU64::new(number)), CancellationToken::new());
        let mut open = self.open();
        if open.len() >= self.0.max
            && let Some(least) = victim(&open)
            && let Some(evicted) = open.remove(&least)
        {
            METRICS.admin_connections.over_cap.inc();
            evicted.evicted.cancel();
        }
        open.insert(number, Open { peer, used: Arc::clone(&used), evicted: evicted.clone() });
        drop(open);
        Resident { all: self.clone(), number, used, evicted }
    }
}

/// Returns the least recently used connection of the peer with the most connections.
fn victim(open: &HashMap<u64, Open>) -> Option<u64> {
    let mut of_peer: HashMap<Option<IpAddr>, usize> = HashMap::new();
    for resident in open.values() {
        *of_peer.entry(resident.peer).or_default() += 1;
    }
    let most = of_peer.values().copied().max()?;
    open.iter()
        .filter(|(_, resident)| of_peer.get(&resident.peer) == Some(&most))
        .min_by_key(|(_, resident)| resident.used.load(Ordering::Relaxed))
        .map(|(number, _)| *number)
}

impl Resident {
    /// Waits until the connection is evicted.
    pub(super) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }

    /// Returns the handle that notes its calls.
    pub(super) fn calls(&self) -> Calls {
        Calls { all: self.all.clone(), used: Arc::clone(&self.used) }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.all.open().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::{Resident, Residents};
    use std::net::{IpAddr, Ipv4Addr};

    fn peer(number: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(10, 0, 0, number).into())
    }

    fn evicted(residents: &[Resident]) -> Vec<bool> {
        residents.iter().map(|resident| resident.evicted.is_cancelled()).collect()
    }

    #[test]
    fn the_least_used_connection_of_the_peer_with_the_most_is_evicted() {
        let all = Residents::new(4);
        let mut open = vec![all.enter(peer(1)), all.enter(peer(2)), all.enter(peer(2)), all.enter(peer(2))];
        open[1].calls().note();
        assert_eq!(evicted(&open), [false; 4]);
        open.push(all.enter(peer(3)));
        assert_eq!(evicted(&open), [false, false, true, false, false]);
        // A peer with many connections evicts its own.
        open.push(all.enter(peer(2)));
        assert_eq!(evicted(&open), [false, false, true, true, false, false]);
        // A connection that closed makes room too.
        drop(open.remove(0));
        open.push(all.enter(peer(4)));
        assert_eq!(evicted(&open), [false, true, true, false, false, false]);
    }

    #[test]
    fn closed_connections_are_forgotten() {
        let all = Residents::new(2);
        for number in 0..10 {
            let open = [all.enter(peer(number)), all.enter(peer(number)), all.enter(peer(number))];
            assert_eq!(evicted(&open), [true, false, false]);
        }
        assert!(all.open().is_empty());
    }
}
