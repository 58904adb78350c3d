//! State of the connection to NATS as the client reports it. The client reconnects by itself.

use std::future::Future;
use std::sync::Arc;

use async_nats::Event;
use tokio::sync::watch;
use tracing::{info, warn};

/// State of the connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Set while there is a connection.
    pub up: bool,
    /// Number of connections made so far. Requests on an earlier connection are never answered.
    pub connections: u64,
    /// Number of servers that announced their stop (lame duck mode).
    pub warnings: u64,
}

/// Connection to NATS. All clones refer to the same connection.
#[derive(Clone, Debug)]
pub struct Link(Arc<watch::Sender<State>>);

impl Default for Link {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State { up: false, connections: 0, warnings: 0 })))
    }
}

impl Link {
    /// Records an event of the client.
    pub fn notice(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.0.send_modify(|state| {
                    *state = State { up: true, connections: state.connections + 1, ..*state };
                });
                info!("connected to NATS");
            }
            Event::Disconnected | Event::Closed => {
                let was = self.0.send_replace(State { up: false, ..self.state() });
                if was.up {
                    warn!("the connection to NATS is lost; trying again");
                }
            }
            Event::LameDuckMode => {
                self.0.send_modify(|state| state.warnings += 1);
                info!("the NATS server is about to stop");
            }
            Event::SlowConsumer(_) => warn!("NATS sends faster than this server reads"),
            Event::ServerError(error) => warn!(%error, "NATS reports an error"),
            Event::ClientError(error) => warn!(%error, "the NATS client reports an error"),
            Event::Draining => {}
        }
    }

    /// Returns the current state of the connection.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Resolves once there is a connection.
    pub fn up(&self) -> impl Future<Output = State> + Send + use<> {
        let mut changes = self.0.subscribe();
        let last = self.state();
        async move { changes.wait_for(|state| state.up).await.map_or(last, |state| *state) }
    }

    /// Resolves once a further server announces its stop.
    pub fn warned(&self, known: State) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.0.subscribe();
        async move {
            if changes.wait_for(|state| state.warnings != known.warnings).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Resolves once this connection is lost.
    pub fn lost(&self, connection: State) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.0.subscribe();
        async move {
            let _ = changes.wait_for(|state| !state.up || state.connections != connection.connections).await;
        }
    }
}
