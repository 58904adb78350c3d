//! One gRPC connection: HTTP/2 with every limit set, told to go on drain, cut off at the deadline.
//! Never: waits without a deadline for a peer that says nothing.

use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::debug;

use super::identity::Identified;
use super::linger::Lingering;
use super::listener::Gate;
use super::preface::Ahead;
use crate::config::Config;
use crate::topic::Ending;

/// How long a client may take to say it.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent peer is asked this often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// and has this long to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one call may send ahead. Much less than a connection's, so that no call starves the others.
const STREAM_WINDOW: u32 = 256 << 10;
/// What all calls of a connection may send ahead.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes buffered for a call whose peer does not read, before the next message is made: a subscriber
/// that is stuck costs this and one delivery.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes of a request's headers: gRPC's customary limit is 8 KiB, tokens and baggage need more.
const HEADER_LIST: u32 = 32 << 10;
/// Streams the peer had the server reset (h2's default), and
const LOCAL_RESETS: usize = 1024;
/// streams the peer reset before they were accepted (CVE-2023-44487; h2's default): beyond, GOAWAY.
const PENDING_RESETS: usize = 20;

/// Spawns a connection's calls where the drain waits for them.
#[derive(Clone, Debug)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Serves connections of the gRPC port, whose calls end with `ending` if not before.
pub(super) fn grpc(
    routes: Identified<Routes>,
    config: &Config,
    ending: &Ending,
) -> impl Fn(TcpStream, Gate) -> futures_util::future::BoxFuture<'static, ()> + Send + 'static {
    let (streams_max, ending) = (config.streams_per_connection_max, ending.clone());
    move |stream, gate| Box::pin(serve(stream, gate, routes.clone(), ending.child(), streams_max))
}

async fn serve<S>(mut stream: S, gate: Gate, routes: Identified<Routes>, ending: Ending, streams_max: u32)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let ahead = tokio::select! {
        ahead = tokio::time::timeout(PREFACE_TIMEOUT, Ahead::read(&mut stream)) => ahead,
        () = gate.leaving.cancelled() => return,
    };
    let ahead = match ahead {
        Ok(Ok(ahead)) if ahead.is_whole_preface() => ahead,
        _ => return debug!("connection without a preface closed"),
    };
    let service = TowerToHyperService::new(routes.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ending.clone());
        request.map(Body::new)
    }));
    let mut builder = http2::Builder::new(Tracked(gate.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(streams_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    let stream = TokioIo::new(Lingering::new(stream, ahead));
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = gate.leaving.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = gate.abort.cancelled() => return,
        }
    }
}
