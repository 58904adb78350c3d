//! The accept loop: a cap on connections, back-off where the system refuses, tasks that can be
//! told to go and cut off.
//! Never: knows what is served.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::files::Spares;
use crate::backoff::Backoff;
use crate::telemetry::Connections;

/// First wait after the system refused a connection (EMFILE, ENFILE, ENOMEM), in place of a spin.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What a connection that is not open yet when its port closes gets to open: a round trip and a busy
/// machine's delay. Its peer may have sent a call before it could know.
const OPENING_GRACE: Duration = Duration::from_millis(250);
/// Connections taken in when the port closes, at most: what `tokio::net::TcpListener::bind` lets wait.
const BACKLOG: usize = 1024;

/// What rules over the connections of one port.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimiter {
    /// No new connections; those there are finish their calls and go.
    pub(super) leaving: CancellationToken,
    /// Connections end at once.
    pub(super) abort: CancellationToken,
    /// The accept loop, every connection, and every call on one.
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

    /// With descriptors put aside, so that this port answers where the system has no more.
    pub(super) fn with_spares(self, spares: Spares) -> Self {
        Self { spares, ..self }
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections_max.saturating_sub(self.free.available_permits())
    }

    /// Open calls, give or take a task of the port's own.
    pub(super) fn streams(&self) -> usize {
        self.tasks.len().saturating_sub(self.connections())
    }

    /// What `opening` makes; nothing where the port has closed and it is still not done a little later.
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

    /// Ends the accept loop and tells every connection to go; `tasks.wait()` tells when all are gone.
    pub(super) fn go_away(&self) {
        self.leaving.cancel();
        self.tasks.close();
    }
}

/// Accepts until the limiter is leaving. A connection over the cap is closed at once: its client then
/// knows, and may try another replica.
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
            debug!(peer = ?stream.peer_addr(), "connection over the cap closed");
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

/// Connections that wait to be accepted when the port closes. It would reset them: a call that its peer
/// has sent by then, a load balancer say, would fail without anybody knowing whether it was taken.
fn waiting(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std().ok();
    let accepted = std::iter::from_fn(move || listener.as_ref()?.accept().ok());
    accepted.take(BACKLOG).filter_map(|(stream, _)| {
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    })
}

/// Whether the process, or the system, has no more descriptors.
fn concerns_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Errors of a connection that ended before it was accepted; the next one may be well.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
