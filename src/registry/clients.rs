//! The connections of all clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bans::Bans;
use super::client::Client;
use super::slots::Slots;
use crate::topic::ShutdownSignal;

/// A cheap handle to all connections of the gRPC port.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Name of this host.
    host: String,
    /// Eight random hexadecimal digits, which begin the ids of this process.
    instance: String,
    connected: AtomicU64,
    clients: Arc<Slots<Client>>,
    bans: Bans,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            host: host(),
            instance: format!("{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id())),
            connected: AtomicU64::new(0),
            clients: Arc::default(),
            bans: Bans::default(),
        }
    }
}

/// Returns the name of this host; empty where the system does not tell.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

impl Registry {
    /// Returns the host and the instance of this process.
    #[must_use]
    pub fn replica(&self) -> (&str, &str) {
        (&self.0.host, &self.0.instance)
    }

    /// Returns the bans.
    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.0.bans
    }

    /// Looks at `limit` slots of connections from `first` on. Returns the connections in them, and the slot to continue at;
    /// none where there are no more.
    #[must_use]
    pub fn clients(&self, first: usize, limit: usize) -> (Vec<Arc<Client>>, Option<usize>) {
        self.0.clients.page(first, limit)
    }

    /// Registers a connection, until its last handle is dropped. Its calls end with `shutdown`.
    #[must_use]
    pub fn connect(
        &self,
        address: Option<SocketAddr>,
        is_tls: bool,
        shutdown: ShutdownSignal,
    ) -> Arc<Client> {
        let number = self.0.connected.fetch_add(1, Relaxed);
        let clients = &self.0.clients;
        clients.add(|slot| Client::new(number, (Arc::clone(clients), slot), (address, is_tls), shutdown))
    }
}
