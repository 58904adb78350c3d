//! One gRPC connection: HTTP/2 with every limit set, a GOAWAY on drain, and an end at the deadline.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::debug;

use super::bind;
use super::drive::{Ends, drive};
use super::identity::Identified;
use super::io::{self, CoalescedWrite, Cork, FairRead, LingeringClose, Preface, PrefixedIo, Socket};
use super::listener::ConnectionLimiter;
use super::observe::{Observed, Observer};
use super::read_on::ReadOn;
use super::receive_budget::{ConnectionBudget, ReceiveBudget, counted};
use super::routes::Services;
use super::tls::{Port, Tls};
use crate::auth::PeerCertificate;
use crate::config::{Config, Http2Config};
use crate::registry::{Call, Client, Registry};
use crate::service::status;
use crate::telemetry::{METRICS, Method};
use crate::topic::{Connection, Topics};

/// Answer to a client that speaks HTTP/1.
const SPEAKS_GRPC: &str =
    "this port speaks gRPC, over HTTP/2 without an upgrade; probes are on the admin port\n";

/// Executor that spawns a connection's calls on the tracker that the drain waits for.
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

/// Returns the function that serves a connection of the gRPC port. Its calls end when `topics` shut down.
pub(super) fn grpc(
    routes: Identified<Services>,
    config: &Config,
    topics: &Topics,
    registry: Registry,
    tls: Option<Tls>,
    budget: ReceiveBudget,
) -> impl Fn(TcpStream, ConnectionLimiter) -> BoxFuture<'static, ()> + Send + 'static {
    let (config, topics) = (Arc::new(config.clone()), topics.clone());
    let access_log_every = config.telemetry.access_log_every;
    move |stream, limiter| {
        let (config, connection_budget) = (Arc::clone(&config), budget.connection());
        let calls = Arc::new(Connection {
            shutdown: topics.shutdown_signal().child(),
            send_budget: topics.send_budget().for_connection(),
            admission: topics.admission().for_connection(config.connection_inflight_bytes_max),
        });
        let observer = Observer { peer: bind::peer(&stream), access_log_every };
        let client = registry.connect(observer.peer, tls.is_some(), calls.shutdown.clone());
        let routes = Observed::new(routes.clone().of_connection(observer.peer), observer);
        let patience = config.http2.keepalive_interval + config.http2.keepalive_timeout;
        io::set_user_timeout(&stream, patience);
        let socket = Socket::new(stream, patience).counted_by(Arc::clone(client.peer()));
        let cork = socket.cork();
        let port = Context { limiter, routes, config, connection_budget, calls, client, cork, peer: None };
        let Some(tls) = tls.clone() else { return Box::pin(port.serve(socket)) };
        Box::pin(async move {
            let accepted = port.limiter.open_in_time(tls.accept(Port::Grpc, socket)).await.flatten();
            if let Some((stream, peer)) = accepted {
                Context { peer, ..port }.serve(stream).await;
            }
        })
    }
}

/// State of one connection.
struct Context {
    limiter: ConnectionLimiter,
    routes: Observed<Identified<Services>>,
    config: Arc<Config>,
    connection_budget: ConnectionBudget,
    calls: Arc<Connection>,
    client: Arc<Client>,
    cork: Cork,
    /// Client certificate that TLS has verified.
    peer: Option<PeerCertificate>,
}

impl Context {
    async fn serve<S>(self, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let patience = self.config.preface_timeout;
        let reading = tokio::time::timeout(patience, Preface::read(&mut stream));
        let Some(preface) = self.limiter.open_in_time(reading).await else { return };
        match preface {
            Ok(Ok(preface)) if preface.is_whole_preface() => {
                let stream = LingeringClose::new(PrefixedIo::new(stream, preface));
                self.serve_http2(FairRead::new(CoalescedWrite::new(stream))).await;
            }
            Ok(Ok(preface)) if preface.is_http1() => {
                METRICS.connections.no_preface.inc();
                debug!("connection that speaks HTTP/1 refused");
                let refused = refuse_http1(LingeringClose::new(stream));
                let _ = tokio::time::timeout(patience, refused).await;
            }
            _ => {
                METRICS.connections.no_preface.inc();
                debug!("connection without a preface closed");
            }
        }
    }

    /// Serves HTTP/2 until the peer closes, the drain is over, or the connection is too old.
    async fn serve_http2<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { limiter, routes, config, connection_budget, calls, client, cork, peer } = self;
        let (shutdown, tasks) = (calls.shutdown.clone(), limiter.tasks.clone());
        let (open, streams_max) = (limiter.clone(), config.streams_max);
        let headers_max = config.http2.header_list_bytes_max;
        let service = service_fn(move |mut request: Request<Incoming>| {
            if open.streams() > streams_max {
                debug!(streams_max, "call over the cap refused");
                let refused = status::too_many_streams(streams_max).into_http();
                return Either::Left(std::future::ready(Ok(refused)));
            }
            let call = registered(&client, Method::name_of(request.uri().path()), request.headers());
            request.extensions_mut().insert(calls.clone());
            request.extensions_mut().insert(call.clone());
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let headers = header_bytes(request.headers());
            if headers > headers_max as usize {
                return Either::Left(std::future::ready(Ok(
                    status::headers_too_large(headers_max).into_http()
                )));
            }
            let read_on = |body| ReadOn::new(body, tasks.clone());
            let request =
                request.map(|body| counted(read_on(body), connection_budget.clone(), headers, call));
            // Boxed: in the task of the call it would take its room for as long as a subscription lasts.
            Either::Right(Box::pin(routes.clone().oneshot(request)))
        });
        let builder = builder(&config, &limiter);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ends = Ends { limiter: &limiter, config: &config, shutdown: &shutdown };
        drive(connection.as_mut(), ends, cork, std::future::pending()).await;
    }
}

/// Registers the call of a request with these headers.
pub(super) fn registered(client: &Client, method: &'static str, headers: &HeaderMap) -> Arc<Call> {
    /// Header by which clients and proxies name a request in their logs.
    const REQUEST_ID: &str = "x-request-id";
    /// Maximum bytes that are kept of it.
    const REQUEST_ID_MAX: usize = 128;
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    let call = client.call(method, agent);
    let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    if let Some(id) = id.and_then(|id| id.get(..id.len().min(REQUEST_ID_MAX))) {
        call.name_request(id);
    }
    call
}

/// Returns the bytes of a request's headers, as HTTP/2 counts them.
pub(super) fn header_bytes(headers: &HeaderMap) -> usize {
    /// Overhead of one field (RFC 9113, section 6.5.2).
    const EACH: usize = 32;
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + EACH).sum()
}

/// Longest wait for the answer to a ping. The socket detects earlier that a peer is gone, and a ping to a slow reader
/// takes as long as all that is queued before it.
pub(super) const PONG_MAX: Duration = Duration::from_secs(24 * 60 * 60);

fn builder(config: &Config, limiter: &ConnectionLimiter) -> http2::Builder<Tracked> {
    let Http2Config {
        keepalive_interval,
        keepalive_timeout: _,
        stream_window_bytes,
        connection_window_bytes,
        send_buffer_bytes,
        header_list_bytes_max,
        local_resets_max,
        pending_resets_max,
    } = config.http2;
    let mut builder = http2::Builder::new(Tracked(limiter.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive_interval)
        .keep_alive_timeout(PONG_MAX)
        .max_concurrent_streams(config.streams_per_connection_max)
        .initial_stream_window_size(stream_window_bytes)
        .initial_connection_window_size(connection_window_bytes)
        .max_send_buf_size(send_buffer_bytes)
        // h2 answers longer ones by HTTP status 431, which clients of gRPC take for a fault of the server.
        .max_header_list_size(header_list_bytes_max.saturating_mul(2))
        .max_local_error_reset_streams(local_resets_max)
        .max_pending_accept_reset_streams(pending_resets_max);
    builder
}

/// Answers in HTTP/1 that this port speaks gRPC, and closes.
async fn refuse_http1<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: LingeringClose<S>,
) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{SPEAKS_GRPC}",
        SPEAKS_GRPC.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
