//! The accept loop: a limit on connections, back-off where the system refuses them, and tasks that can be asked to end
//! and aborted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::bind;
use super::files::Spares;
use crate::backoff::Backoff;
use crate::telemetry::Connections;

/// First wait after the system refused a connection (EMFILE, ENFILE, ENOMEM).
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Time that a connection has to open once its port is closed: a round trip and a busy machine's delay. Its peer may
/// have sent a call before it could know.
const OPENING_GRACE: Duration = Duration::from_millis(250);
/// Most connections accepted when the port closes.
const BACKLOG: usize = bind::BACKLOG as usize;

/// Limit, shutdown and tasks of one port's connections.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimiter {
    /// Cancelled on drain: no new connections are accepted, and open ones end after their calls.
    pub(super) leaving: CancellationToken,
    /// Cancelled when connections must end at once.
    pub(super) abort: CancellationToken,
    /// The accept loop, every connection and every call.
    pub(super) tasks: TaskTracker,
    free: Arc<Semaphore>,
    connections_max: usize,
    spares: Spares,
}

impl ConnectionLimiter {
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            leaving: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
            free: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            spares: Spares::default(),
        }
    }

    /// Adds reserved descriptors, so that this port answers where the system has no more.
    pub(super) fn with_spares(self, spares: Spares) -> Self {
        Self { spares, ..self }
    }

    /// Number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections_max.saturating_sub(self.free.available_permits())
    }

    /// Number of open calls, give or take a task of the port's own.
    pub(super) fn streams(&self) -> usize {
        self.tasks.len().saturating_sub(self.connections())
    }

    /// Waits for `opening`. Returns `None` if the port has closed and `opening` takes longer than a grace period.
    pub(super) async fn open_in_time<F: Future>(&self, opening: F) -> Option<F::Output> {
        let late = async {
            self.leaving.cancelled().await;
            tokio::time::sleep(OPENING_GRACE).await;
        };
        tokio::select! {
            opened = opening => Some(opened),
            () = late => None,
        }
    }

    /// Ends the accept loop and asks every connection to end; `tasks.wait()` waits for them.
    pub(super) fn go_away(&self) {
        self.leaving.cancel();
        self.tasks.close();
    }
}

/// Accepts connections until the drain. One over the limit is closed at once, so that its client can try another
/// replica.
pub(super) async fn accept<S, F>(
    listener: TcpListener,
    limiter: ConnectionLimiter,
    counts: &'static Connections,
    serve: S,
) where
    S: Fn(TcpStream, ConnectionLimiter) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let admit = |stream: TcpStream| {
        let Ok(permit) = Arc::clone(&limiter.free).try_acquire_owned() else {
            counts.over_cap.inc();
            debug!(peer = ?bind::peer(&stream), "connection over the cap closed");
            return;
        };
        // Without it small answers wait for the peer's delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        counts.accepted.inc();
        let open = counts.active.hold();
        let (served, spares) = (serve(stream, limiter.clone()), limiter.spares.clone());
        limiter.tasks.spawn(async move {
            served.await;
            spares.refill();
            drop((permit, open));
        });
    };
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let accepted = tokio::select! {
            biased;
            () = limiter.leaving.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) if concerns_files(&error) && limiter.spares.release() => continue,
            Err(error) => {
                counts.system.inc();
                let delay = backoff.next_delay();
                warn!(%error, backoff_ms = delay.as_millis() as u64, "accepting a connection");
                tokio::select! {
                    () = limiter.leaving.cancelled() => break,
                    () = tokio::time::sleep(delay) => {}
                }
                continue;
            }
        };
        backoff.reset();
        admit(stream);
    }
    waiting(listener).for_each(admit);
}

/// Returns the connections in the backlog when the port closes. Closing would reset them, and a call that its peer, such
/// as a load balancer, has sent by then would fail with an unknown outcome.
fn waiting(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std().ok();
    let accepted = std::iter::from_fn(move || listener.as_ref()?.accept().ok());
    accepted.take(BACKLOG).filter_map(|(stream, _)| {
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    })
}

/// Returns true if the process or the system has no more descriptors.
fn concerns_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Returns true for errors of a connection that ended before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
