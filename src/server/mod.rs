//! The process that serves: ports, recovery, health, shutdown; everything wired together.
//! Never: a rule about topics or messages.
//!
//! ```text
//! starting (ports bound) → serving → draining (readiness off) → lame duck (GOAWAY) → abort → closed
//! ```

mod admin;
mod connection;
mod drain;
mod files;
mod health;
mod identity;
mod linger;
mod listener;
mod preface;
mod routes;
mod signals;
#[cfg(test)]
mod tests;
mod until;

pub use health::Board;
pub use signals::shutdown_on_signals;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::auth::{self, Auth};
use crate::config::Config;
use crate::storage::embedded::{EmbeddedLog, OpenError};
use crate::storage::{self, Log};
use crate::topic::Topics;
use listener::Gate;

/// Most connections of the admin port: probes and scrapers, each short.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files of identities and policy cannot be used.
    #[error("identities and policy: {0}")]
    Auth(auth::LoadError),
    /// A port could not be bound.
    #[error("listening on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The log could not be opened.
    #[error("opening the log: {0}")]
    Open(OpenError),
    /// The storage failed while serving; a person must look.
    #[error("the storage failed: {0}")]
    Storage(Arc<str>),
    /// What was accepted could not be made durable at the end.
    #[error("closing the log: {0}")]
    Close(storage::Error),
    /// The log did not close within the drain timeout.
    #[error("closing the log took longer than the drain timeout")]
    CloseTimeout,
    /// A fault of the server.
    #[error("the server's own task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Opens the log; blocking.
type Opener = Box<dyn FnOnce(&Config) -> Result<Arc<dyn Log>, OpenError> + Send>;

/// A server that was started. Dropping it begins the shutdown.
#[derive(Debug)]
pub struct Running {
    grpc: SocketAddr,
    admin: SocketAddr,
    board: Board,
    shutdown: CancellationToken,
    supervisor: Option<JoinHandle<Result<(), Error>>>,
}

/// Serves until `shutdown` is cancelled and the drain is over.
///
/// # Errors
/// The server could not start, or the storage failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    files::raise_limit(config.connections_max);
    let mut running = start(config).await?;
    let (asked, begun) = (shutdown, running.shutdown.clone());
    tokio::select! {
        () = asked.cancelled() => begun.cancel(),
        // Recovery failed: there is nothing to wait for.
        ended = running.ended() => return ended,
    }
    running.wait().await
}

/// Binds the ports and begins to serve on the embedded log. Answers while the log recovers.
///
/// # Errors
/// A port could not be bound.
pub async fn start(config: Config) -> Result<Running, Error> {
    start_with(config, Box::new(open_embedded)).await
}

fn open_embedded(config: &Config) -> Result<Arc<dyn Log>, OpenError> {
    let log: Arc<dyn Log> = EmbeddedLog::open(&config.data_dir, &config.storage, config.topics_max)?;
    Ok(log)
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn start_with(config: Config, open: Opener) -> Result<Running, Error> {
    let auth = Auth::load(&identity::options(&config)).map_err(Error::Auth)?;
    let (listener, grpc) = bind(config.listen).await?;
    let (admin_listener, admin) = bind(config.admin_listen).await?;
    let (topics, board, shutdown) = (Topics::new(&config), Board::default(), CancellationToken::new());

    let gate = Gate::new(config.connections_max);
    let serve = connection::grpc(routes::public(&config, &topics, &auth, &board), &config, topics.ending());
    if !auth.is_open() {
        gate.tasks.spawn(identity::keep_fresh(auth, config.reload_interval, gate.leaving.clone()));
    }
    gate.tasks.spawn(listener::accept(listener, gate.clone(), serve));
    let admin_gate = Gate::new(ADMIN_CONNECTIONS_MAX);
    let serve = admin::serve(&board);
    admin_gate.tasks.spawn(listener::accept(admin_listener, admin_gate.clone(), serve));
    info!(listen = %grpc, admin_listen = %admin, "listening");

    let server =
        Server { config, topics, board: board.clone(), gate, admin_gate, shutdown: shutdown.clone() };
    let supervisor = Some(tokio::spawn(server.supervise(open)));
    Ok(Running { grpc, admin, board, shutdown, supervisor })
}

/// What the supervisor holds.
struct Server {
    config: Config,
    topics: Topics,
    board: Board,
    gate: Gate,
    admin_gate: Gate,
    shutdown: CancellationToken,
}

impl Server {
    /// From recovery to the end.
    async fn supervise(self, open: Opener) -> Result<(), Error> {
        let config = self.config.clone();
        let mut opening = tokio::task::spawn_blocking(move || open(&config));
        let opened = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return self.abandon(opening).await,
            opened = &mut opening => opened?,
        };
        let log = match opened {
            Ok(log) => log,
            Err(error) => {
                self.drain(None).await?;
                return Err(Error::Open(error));
            }
        };
        self.topics.open(Arc::clone(&log));
        self.board.serve();
        info!("serving");
        let mut health = log.health();
        loop {
            // The engine has logged why.
            if matches!(&*health.borrow_and_update(), storage::Health::Failed(_)) {
                self.board.storage_failed();
            }
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                changed = health.changed() => if changed.is_err() {
                    self.shutdown.cancelled().await;
                    break;
                },
            }
        }
        self.drain(Some(log)).await
    }
}

impl Running {
    /// Where gRPC is served, with the port really bound.
    #[must_use]
    pub const fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where health and probes are served.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Resolves once the log has recovered and calls are served.
    ///
    /// # Errors
    /// The log could not be opened.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let board = self.board.clone();
        tokio::select! {
            () = board.ready() => Ok(()),
            ended = self.ended() => ended,
        }
    }

    /// Begins the shutdown; [`Self::wait`] tells when it is over.
    pub fn shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Resolves once the server has ended.
    ///
    /// # Errors
    /// It did not start, or did not end, well.
    pub async fn wait(mut self) -> Result<(), Error> {
        self.ended().await
    }

    async fn ended(&mut self) -> Result<(), Error> {
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        let ended = supervisor.await;
        self.supervisor = None;
        ended?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
