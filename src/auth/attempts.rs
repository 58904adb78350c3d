//! Limits of failed checks of signatures, by connection and by peer: whoever sends many bad ones is refused for
//! a while before the next is checked. Static tokens and JWTs that were verified before cost only a hash, and are
//! never refused. Peers that are gone are forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::{Error, TooMany};
use super::options::FailureLimits;
use super::rate_limiter::{Bucket, now_ns};

/// Number of peers from which on those without a deficit are removed: some 100 bytes each.
const SWEEP_AT: usize = 1024;
/// Maximum peers with a bucket of their own; all others share one.
const PEERS_MAX: usize = 65_536;
/// Shortest wait that is asked for, so that clients do not come back by the millisecond.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Failures of all peers.
#[derive(Debug)]
pub(super) struct Failures {
    limits: FailureLimits,
    peers: Mutex<Peers>,
    /// Bucket that the peers beyond [`PEERS_MAX`] share.
    others: Arc<Bucket>,
}

#[derive(Debug)]
struct Peers {
    by_address: HashMap<IpAddr, Arc<Bucket>>,
    sweep_at: usize,
}

/// Failures of one connection and of its peer.
#[derive(Clone, Debug)]
pub struct Attempts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    failures: Arc<Failures>,
    connection: Bucket,
    peer: Option<IpAddr>,
}

impl Failures {
    pub(super) fn new(limits: FailureLimits) -> Arc<Self> {
        let peers = Peers { by_address: HashMap::new(), sweep_at: SWEEP_AT };
        Arc::new(Self { limits, peers: Mutex::new(peers), others: Arc::default() })
    }

    /// Returns the counter of a new connection of this peer.
    pub(super) fn of_connection(self: &Arc<Self>, peer: Option<IpAddr>) -> Attempts {
        let (failures, peer) = (Arc::clone(self), peer.map(network));
        Attempts(Arc::new(Inner { failures, connection: Bucket::default(), peer }))
    }

    /// Returns this peer's bucket; none where it never failed.
    fn known(&self, peer: IpAddr) -> Option<Arc<Bucket>> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = peers.by_address.len() >= PEERS_MAX;
        peers.by_address.get(&peer).cloned().or_else(|| is_full.then(|| Arc::clone(&self.others)))
    }

    fn of_peer(&self, peer: IpAddr, now: u64) -> Arc<Bucket> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Peers { by_address, sweep_at } = &mut *peers;
        if let Some(known) = by_address.get(&peer) {
            return Arc::clone(known);
        }
        if by_address.len() >= *sweep_at {
            by_address.retain(|_, bucket| !bucket.is_full(now));
            *sweep_at = (2 * by_address.len()).clamp(SWEEP_AT, PEERS_MAX);
        }
        if by_address.len() >= PEERS_MAX {
            return Arc::clone(&self.others);
        }
        Arc::clone(by_address.entry(peer).or_default())
    }
}

impl Attempts {
    /// Admits the check of one more signature.
    ///
    /// # Errors
    /// Too many were wrong lately, on this connection or of this peer.
    pub(super) fn admit(&self) -> Result<(), Error> {
        let Inner { failures, connection, peer } = &*self.0;
        let (limits, now) = (failures.limits, now_ns());
        let too_many = |of, limit, flag, deficit: Duration| {
            Err(Error::TooManyFailures(TooMany { of, limit, flag, retry: deficit.max(WAIT_MIN) }))
        };
        let deficit = connection.deficit(now);
        if limits.connection > 0 && !deficit.is_zero() {
            return too_many("connection", limits.connection, "--auth-connection-failures-per-s", deficit);
        }
        let deficit = peer.filter(|_| limits.peer > 0).and_then(|peer| failures.known(peer));
        let deficit = deficit.map(|bucket| bucket.deficit(now)).unwrap_or_default();
        if deficit.is_zero() {
            Ok(())
        } else {
            too_many("address", limits.peer, "--auth-peer-failures-per-s", deficit)
        }
    }

    /// Counts a signature that was wrong.
    pub(super) fn failed(&self) {
        let Inner { failures, connection, peer } = &*self.0;
        let now = now_ns();
        connection.consume(1, failures.limits.connection, now);
        if let Some(peer) = peer.filter(|_| failures.limits.peer > 0) {
            failures.of_peer(peer, now).consume(1, failures.limits.peer, now);
        }
    }
}

/// Maps an address to the one that its host is counted by: a host of IPv6 has a network of 2^64 addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::{FailureLimits, Failures, PEERS_MAX, network};
    use crate::auth::Error;
    use std::net::IpAddr;
    use std::time::Duration;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Counts the failures before the first that is refused.
    fn pass(attempts: &super::Attempts) -> (usize, &'static str) {
        for passed in 0..1000 {
            match attempts.admit() {
                Ok(()) => attempts.failed(),
                Err(Error::TooManyFailures(too_many)) => return (passed, too_many.of),
                Err(other) => panic!("{other}"),
            }
        }
        panic!("nothing limits it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_and_a_peer_are_limited_and_recover() {
        let failures = Failures::new(FailureLimits { connection: 5, peer: 12 });
        let of = |peer: &str| failures.of_connection(Some(address(peer)));
        // A second's worth, and one into deficit.
        let first = of("10.0.0.1");
        assert_eq!(pass(&first), (6, "connection"));
        assert_eq!(pass(&of("10.0.0.1")), (6, "connection"));
        assert_eq!(pass(&of("10.0.0.1")), (1, "address"), "a new connection of the same peer");
        assert_eq!(pass(&of("::ffff:10.0.0.1")), (0, "address"), "the same, written otherwise");
        assert_eq!(pass(&of("10.0.0.2")), (6, "connection"), "another's");
        assert_eq!(pass(&of("2001:db8::1")), (6, "connection"));
        assert_eq!(pass(&of("2001:db8::ffff:1")), (6, "connection"));
        assert_eq!(pass(&of("2001:db8::2:1")), (1, "address"), "one host has a whole network");
        assert_eq!(pass(&failures.of_connection(None)), (6, "connection"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pass(&first), (5, "connection"));
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_are_gone_are_forgotten_and_too_many_share_a_bucket() {
        let failures = Failures::new(FailureLimits { connection: 0, peer: 2 });
        let fail = |i: usize| {
            failures.of_connection(Some(IpAddr::from(u32::try_from(i).unwrap().to_be_bytes()))).failed();
        };
        (0..PEERS_MAX + 100).for_each(fail);
        let count = || failures.peers.lock().unwrap().by_address.len();
        assert_eq!(count(), PEERS_MAX);
        let more = failures.of_connection(Some(address("200.0.0.1")));
        assert!(more.admit().is_err(), "what is over the limit shares a bucket");
        tokio::time::advance(Duration::from_secs(100)).await;
        fail(PEERS_MAX + 1000);
        assert!(count() < 10, "{}", count());
        assert!(more.admit().is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let attempts = Failures::new(FailureLimits::default()).of_connection(Some(address("10.0.0.1")));
        (0..10_000).for_each(|_| attempts.failed());
        assert!(attempts.admit().is_ok());
        assert_eq!(network(address("2001:db8:1:2:3:4:5:6")), address("2001:db8:1:2::"));
    }
}
