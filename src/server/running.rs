//! The start of the server, and the handle to it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::Error;
use super::files::{self, Spares};
use super::health::Readiness;
use super::http_requests::Shared;
use super::listener::{self, ConnectionLimiter};
use super::receive_budget::ReceiveBudget;
use super::supervisor::{Opener, Server};
use super::tls::{self, Tls};
use super::{admin, bind, connection, http_port, identity, routes};
use crate::auth::Auth;
use crate::config::{Config, HttpListen};
use crate::group::Groups;
use crate::http::{self, Guard, Web};
use crate::registry::Registry;
use crate::service::{Administration, GroupCalls, Streams};
use crate::storage;
use crate::telemetry::{METRICS, trace};
use crate::topic::Topics;

/// Descriptors reserved for probes: liveness and readiness at once, of two clients.
const ADMIN_SPARES: usize = 4;

/// Running server. Dropping it starts the shutdown.
#[derive(Debug)]
pub struct Running {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
    admin: SocketAddr,
    tls: Option<Tls>,
    pub(super) readiness: Readiness,
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
    let running_shutdown = running.shutdown.clone();
    tokio::select! {
        () = shutdown.cancelled() => running_shutdown.cancel(),
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
pub(super) async fn start_with(config: Config, open: Opener) -> Result<Running, Error> {
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

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind { address, source };
    let listener = bind::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Binds the HTTP listener, if there is to be one. Where another program has its default address, which hardly anybody asked
/// for, the server does without.
fn bind_http(listen: HttpListen) -> Result<Option<(TcpListener, SocketAddr)>, Error> {
    let Some(address) = listen.address() else { return Ok(None) };
    match bind(address) {
        Err(Error::Bind { source, .. })
            if listen == HttpListen::default() && source.kind() == ErrorKind::AddrInUse =>
        {
            warn!(http_listen = %address, "the default port of the HTTP listener is taken: no HTTP; set --http-listen to another or off");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// Makes the rules for the requests of browsers.
fn guard(config: &Config, tls: Option<&Tls>) -> Arc<Guard> {
    let certified = tls.cloned().map(|tls| Box::new(move |host: &str| tls.names(host)) as _);
    let (origins, hosts) = (config.http.origins.clone(), config.http.hosts.clone());
    Arc::new(Guard::new(origins, hosts, config.has_identities(), certified))
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
    let (listener, grpc) = bind(config.listen)?;
    let (admin_listener, admin) = bind(config.admin_listen)?;
    let http_listener = bind_http(config.http.listen)?;
    let http = http_listener.as_ref().map(|(_, bound)| *bound);
    let (topics, registry) = (Topics::new(&config), Registry::default());
    let groups = Groups::new(&config, topics.clone());

    let limiter = ConnectionLimiter::new(config.connections_max);
    let administration = Administration::new(topics.clone(), auth.clone(), &config);
    let streams = Streams::new(topics.clone(), auth.clone(), &config);
    let group_calls = Arc::new(GroupCalls::new(streams, groups.clone()));
    let routes =
        routes::public(&config, (&topics, &group_calls, &administration), &auth, &registry, &readiness);
    let budget = ReceiveBudget::new(config.connection_inflight_bytes_max, config.inflight_bytes_max);
    if let Some((listener, _)) = http_listener {
        let web = Web {
            topics: topics.clone(),
            groups: group_calls,
            administration,
            auth: auth.clone(),
            registry: registry.clone(),
            config: Arc::new(config.clone()),
            encoded: http::Shared::default(),
        };
        let serve = http_port::serve(Shared {
            tls: tls.clone(),
            budget: budget.clone(),
            services: routes.clone(),
            router: http::router(web.clone()),
            guard: guard(&config, tls.as_ref()),
            web,
        });
        let counts = &METRICS.http_connections;
        limiter.tasks.spawn(listener::accept(listener, limiter.clone(), counts, serve));
    }
    let serve = connection::grpc(routes, &config, &topics, registry, tls.clone(), budget);
    limiter.tasks.spawn(listener::accept(listener, limiter.clone(), &METRICS.connections, serve));
    if let Some((tls, source)) = tls.clone().zip(source) {
        let (leaving, interval) = (limiter.leaving.clone(), config.reload_interval);
        limiter.tasks.spawn(async move { leaving.run_until_cancelled(tls.follow(source, interval)).await });
    }
    if !auth.is_open() {
        limiter.tasks.spawn(identity::reload(auth, config.reload_interval, limiter.leaving.clone()));
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
        http_listen = http.map_or_else(|| "off".to_owned(), |bound| bound.to_string()),
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
        groups,
        readiness: readiness.clone(),
        limiter,
        admin_limiter,
        shutdown: shutdown.clone(),
    };
    let supervisor = Some(tokio::spawn(server.supervise(open)));
    Ok(Running { grpc, http, admin, tls, readiness, shutdown, supervisor })
}

impl Running {
    /// Address of the gRPC port, as bound.
    #[must_use]
    pub const fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Address of the HTTP listener, as bound; none where there is none.
    #[must_use]
    pub const fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Address of the admin port, as bound.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// TLS of the gRPC port, if it is on.
    #[must_use]
    pub const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Waits until the log has recovered and calls are served.
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

    /// Starts the shutdown; [`Self::wait`] waits for its end.
    pub fn shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Waits until the server has ended.
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
