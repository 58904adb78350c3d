//! One connection of the HTTP listener: HTTP/1.1 or HTTP/2 as its first bytes tell, with the limits, identities and drain
//! of the gRPC port. A request is a call of gRPC-Web or belongs to a route of [`crate::http`]; the guard sees both first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::debug;

use super::activity::Activity;
use super::bind;
use super::connection::{PONG_MAX, Tracked};
use super::drive::{Ends, drive};
use super::http_requests::{Context, Requests, Shared};
use super::io::{self, CoalescedWrite, FairRead, LingeringClose, Preface, PrefixedIo, Socket};
use super::listener::ConnectionLimiter;
use super::observe::Observer;
use super::tls::Port;
use crate::config::Config;
use crate::telemetry::METRICS;
use crate::topic::Connection;

/// Bytes that an HTTP/1.1 connection may buffer: the longest headers, and a piece of a body.
const BUFFER_BYTES: usize = 64 << 10;
/// A peer that only listens, to server-sent events, gives no sign of life; what is sent to it and not acknowledged ends
/// the connection, and so does the idle timeout.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the function that serves a connection of the HTTP listener.
pub(super) fn serve(
    shared: Shared,
) -> impl Fn(TcpStream, ConnectionLimiter) -> BoxFuture<'static, ()> + Send + 'static {
    let shared = Arc::new(shared);
    move |stream, limiter| {
        let shared = Arc::clone(&shared);
        let (config, topics) = (&shared.web.config, &shared.web.topics);
        let calls = Arc::new(Connection {
            shutdown: topics.shutdown_signal().child(),
            send_budget: topics.send_budget().for_connection(),
            admission: topics.admission().for_connection(config.connection_inflight_bytes_max),
        });
        let peer = bind::peer(&stream);
        let observer = Observer { peer, access_log_every: config.telemetry.access_log_every };
        let client = shared.web.registry.connect(peer, shared.tls.is_some(), calls.shutdown.clone());
        io::set_user_timeout(&stream, config.http2.keepalive_interval + config.http2.keepalive_timeout);
        let socket = Socket::new(stream, SILENCE_MAX).counted_by(Arc::clone(client.peer()));
        let port = Context { cork: socket.cork(), shared, limiter, observer, calls, client, peer: None };
        // A future of its own: it would take the room of one with TLS.
        let Some(tls) = port.shared.tls.clone() else { return Box::pin(port.serve(socket)) };
        Box::pin(async move {
            let accepted = port.limiter.open_in_time(tls.accept(Port::Http, socket)).await.flatten();
            if let Some((stream, peer)) = accepted {
                Context { peer, ..port }.serve(stream).await;
            }
        })
    }
}

impl Context {
    async fn serve<S>(self, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let reading =
            tokio::time::timeout(self.shared.web.config.preface_timeout, Preface::read(&mut stream));
        match self.limiter.open_in_time(reading).await {
            // What is neither HTTP/2 nor a request is answered by 400.
            Some(Ok(Ok(preface))) if preface.is_whole_preface() || !preface.is_preface() => {
                let stream = LingeringClose::new(PrefixedIo::new(stream, preface));
                let stream = FairRead::new(CoalescedWrite::new(stream));
                self.serve_http(stream, !preface.is_preface()).await;
            }
            Some(_) => {
                METRICS.http_connections.no_preface.inc();
                debug!("connection without a request closed");
            }
            None => {}
        }
    }

    /// Serves requests until the peer closes, the drain is over, or the connection is too old or idle.
    async fn serve_http<S>(self, stream: S, is_http1: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (config, limiter, cork) =
            (Arc::clone(&self.shared.web.config), self.limiter.clone(), self.cork.clone());
        let (shutdown, peer) = (self.calls.shutdown.clone(), Arc::clone(self.client.peer()));
        let activity = Activity::new();
        let headers = is_http1.then_some(config.preface_timeout);
        let idle = activity.clone().overdue(peer, config.http.idle_timeout, headers);
        let left = activity.clone().left(cork.clone(), limiter.leaving.clone());
        let overdue = async {
            tokio::select! {
                overdue = idle => overdue,
                overdue = left, if is_http1 => overdue,
            }
        };
        let requests = Requests::new(self, activity);
        // Boxed: a request that follows a topic would hold the room of its beginning.
        let service = service_fn(move |request| Box::pin(requests.clone().answer(request)));
        // The protocol is known: to find out again, hyper would read a few bytes first, and double its buffer for the rest.
        let builder = builder(&config, &limiter);
        let builder = if is_http1 { builder.http1_only() } else { builder.http2_only() };
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ends = Ends { limiter: &limiter, config: &config, shutdown: &shutdown };
        drive(connection.as_mut(), ends, cork, overdue).await;
    }
}

fn builder(config: &Config, limiter: &ConnectionLimiter) -> auto::Builder<Tracked> {
    let http2 = &config.http2;
    let mut builder = auto::Builder::new(Tracked(limiter.tasks.clone()));
    // Activity limits the time of headers, and that between requests.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(http2.keepalive_interval)
        .keep_alive_timeout(PONG_MAX)
        .max_concurrent_streams(config.streams_per_connection_max)
        .initial_stream_window_size(http2.stream_window_bytes)
        .initial_connection_window_size(http2.connection_window_bytes)
        .max_send_buf_size(http2.send_buffer_bytes)
        .max_header_list_size(http2.header_list_bytes_max.saturating_mul(2))
        .max_local_error_reset_streams(http2.local_resets_max)
        .max_pending_accept_reset_streams(http2.pending_resets_max);
    builder
}
