//! The process that serves: ports, recovery, health, shutdown; everything wired together.
//! Never: a rule about topics or messages.
//!
//! ```text
//! starting (ports bound) → serving → draining (readiness off) → lame duck (GOAWAY) → abort → closed
//! ```

mod admin;
mod age;
mod build;
mod connection;
mod drain;
mod files;
mod framing;
mod health;
mod identity;
mod io;
mod listener;
mod observe;
mod read_on;
mod receive_budget;
mod request;
mod residents;
mod routes;
mod sample;
mod signals;
mod stop_on_shutdown;
#[cfg(test)]
mod tests;
mod tls;

pub use health::Readiness;
pub use signals::shutdown_on_signals;
pub use tls::Tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::auth::{self, Auth};
use crate::config::Config;
use crate::storage::{self, Log, OpenError};
use crate::telemetry::{METRICS, State, trace};
use crate::topic::Topics;
use files::Spares;
use listener::ConnectionLimiter;

/// Descriptors put aside for probes: liveness and readiness at once, of two who ask.
const ADMIN_SPARES: usize = 4;

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
    /// The files of TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
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
    tls: Option<Tls>,
    readiness: Readiness,
    shutdown: CancellationToken,
    supervisor: Option<JoinHandle<Result<(), Error>>>,
}

/// Serves until `shutdown` is cancelled and the drain is over.
///
/// # Errors
/// The server could not start, or the storage failed.
pub async fn run(mut config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    config.connections_max = files::connections_max(&config);
    let mut running = tokio::select! {
        started = start(config) => started?,
        // Nothing is served yet, and a file that the configuration names may be a pipe that is waited for.
        () = shutdown.cancelled() => return Ok(()),
    };
    let (asked, begun) = (shutdown, running.shutdown.clone());
    tokio::select! {
        () = asked.cancelled() => begun.cancel(),
        // Recovery failed: there is nothing to wait for.
        ended = running.ended() => return ended,
    }
    running.wait().await
}

/// Binds the ports and begins to serve on the log that is configured. Answers while the log recovers.
///
/// # Errors
/// A port could not be bound.
pub async fn start(config: Config) -> Result<Running, Error> {
    let (readiness, shutdown) = (Readiness::default(), CancellationToken::new());
    let (reason, stop) = (readiness.reason().clone(), shutdown.clone());
    let open: Opener = Box::new(move |config| storage::open(config, &reason, &stop));
    start_on(readiness, config, open, shutdown).await
}

#[cfg(test)]
async fn start_with(config: Config, open: Opener) -> Result<Running, Error> {
    start_on(Readiness::default(), config, open, CancellationToken::new()).await
}

/// Checks the files of TLS, identities and policy that the configuration names, as a start does. Blocking.
///
/// # Errors
/// One of them cannot be used.
pub fn check_files(config: &Config) -> Result<(), Error> {
    read_files(config).map(drop)
}

fn read_files(config: &Config) -> Result<(Option<(Tls, tls::Source)>, Auth), Error> {
    let tls = Tls::open(&config.tls).map_err(Error::Tls)?;
    Ok((tls, Auth::load(&identity::options(config)).map_err(Error::Auth)?))
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn start_on(
    readiness: Readiness,
    config: Config,
    open: Opener,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let named = config.clone();
    let (opened, auth) = tokio::task::spawn_blocking(move || read_files(&named)).await??;
    let (tls, source) = opened.unzip();
    let (listener, grpc) = bind(config.listen).await?;
    let (admin_listener, admin) = bind(config.admin_listen).await?;
    let topics = Topics::new(&config);

    let limiter = ConnectionLimiter::new(config.connections_max);
    let routes = routes::public(&config, &topics, &auth, &readiness);
    let serve = connection::grpc(routes, &config, &topics, tls.clone());
    limiter.tasks.spawn(listener::accept(listener, limiter.clone(), &METRICS.connections, serve));
    if let Some((tls, source)) = tls.clone().zip(source) {
        let (leaving, interval) = (limiter.leaving.clone(), config.reload_interval);
        limiter.tasks.spawn(async move { leaving.run_until_cancelled(tls.follow(source, interval)).await });
    }
    if !auth.is_open() {
        limiter.tasks.spawn(identity::keep_fresh(auth, config.reload_interval, limiter.leaving.clone()));
    }
    let admin_limiter =
        ConnectionLimiter::new(config.admin_connections_max.saturating_add(admin::LEAVING_MAX))
            .with_spares(Spares::hold(ADMIN_SPARES));
    let serve = admin::serve(&readiness, &config);
    let counts = &METRICS.admin_connections;
    admin_limiter.tasks.spawn(listener::accept(admin_listener, admin_limiter.clone(), counts, serve));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %grpc,
        admin_listen = %admin,
        engine = %config.engine,
        kept_in = config.storage_location(),
        tls = tls.is_some(),
        identities = config.has_identities(),
        telemetry = trace::is_on(),
        "listening"
    );

    let server = Server {
        config,
        topics,
        readiness: readiness.clone(),
        limiter,
        admin_limiter,
        shutdown: shutdown.clone(),
    };
    let supervisor = Some(tokio::spawn(server.supervise(open)));
    Ok(Running { grpc, admin, tls, readiness, shutdown, supervisor })
}

/// What the supervisor holds.
struct Server {
    config: Config,
    topics: Topics,
    readiness: Readiness,
    limiter: ConnectionLimiter,
    admin_limiter: ConnectionLimiter,
    shutdown: CancellationToken,
}

impl Server {
    /// From recovery to the end.
    async fn supervise(self, open: Opener) -> Result<(), Error> {
        METRICS.life.enter(State::Starting);
        sample::before_collecting(&self.config, &self.topics, &self.readiness);
        let begun = Instant::now();
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
        METRICS.storage.recovery_us.set(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.readiness.serve();
        METRICS.life.enter(State::Serving);
        let sampling = sample::spawn(&self.config, Arc::clone(&log));
        info!("serving");
        let mut health = log.health();
        loop {
            let is_full = matches!(&*health.borrow(), storage::Health::Full(_));
            self.readiness.storage_is_full(is_full);
            // The engine has logged why.
            let serves = match &*health.borrow_and_update() {
                storage::Health::Serving => Some((true, None)),
                // Whoever reads, trims or deletes is served; publishes are told why they are not.
                storage::Health::Full(reason) => Some((true, Some(reason.to_string()))),
                storage::Health::Unavailable(reason) | storage::Health::Failed(reason) => {
                    Some((false, Some(reason.to_string())))
                }
                storage::Health::Closed => None,
            };
            if let Some((serves, reason)) = serves {
                self.readiness.reason().set(reason);
                self.readiness.storage_serves(serves);
                METRICS.storage.failed.set(u64::from(!serves));
            }
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                changed = health.changed() => if changed.is_err() {
                    self.shutdown.cancelled().await;
                    break;
                },
            }
        }
        let drained = self.drain(Some(log)).await;
        sampling.abort();
        drained
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

    /// TLS of the gRPC port, where it is on: how long its certificate is still valid.
    #[must_use]
    pub const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Resolves once the log has recovered and calls are served.
    ///
    /// # Errors
    /// The log could not be opened.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let readiness = self.readiness.clone();
        tokio::select! {
            () = readiness.ready() => Ok(()),
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
