//! The admin port: gRPC health, probes and metrics without TLS, over HTTP/1.1 or h2c as the preface tells. It is apart from
//! the gRPC port, so that a server whose gRPC port is full, or speaks TLS only, does not look dead. At its limit a new
//! connection evicts another ([`super::residents`]), so that nobody can keep a probe out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, service_fn};
use tracing::debug;

use super::age::{Age, Step};
use super::bind;
use super::connection::Tracked;
use super::health::{Health, Readiness};
use super::io::{self, FairRead, LingeringClose, Preface, PrefixedIo};
use super::listener::ConnectionLimiter;
use super::residents::{Resident, Residents};
use crate::config::Config;
use crate::telemetry::prometheus;

/// Content type of plain answers.
const TEXT: &str = "text/plain; charset=utf-8";
/// Most calls at once on one connection: probes are few.
const STREAMS_MAX: u32 = 16;
/// Most answers with metrics that are not read yet: each is some hundred kilobytes, held by a peer that does not read.
const METRICS_MAX: usize = 8;
/// Age, give or take a tenth, at which a connection gets a GOAWAY: clients of health and metrics open another.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Time after the GOAWAY for calls that keep the connection open.
const AGE_GRACE: Duration = Duration::from_secs(60);

/// Returns the function that serves a connection of the admin port.
pub(super) fn serve(
    readiness: &Readiness,
    config: &Config,
) -> impl Fn(TcpStream, ConnectionLimiter) -> futures_util::future::BoxFuture<'static, ()> + Send + 'static {
    let health = Routes::new(HealthServer::new(Health::new(readiness.clone()))).prepare();
    let residents = Residents::new(config.admin_connections_max);
    let age = Config { connection_age_max: AGE_MAX, connection_age_grace: AGE_GRACE, ..config.clone() };
    let port = Port {
        readiness: readiness.clone(),
        health,
        config: Arc::new(age),
        metrics: Arc::new(Semaphore::new(METRICS_MAX)),
    };
    move |stream, limiter| {
        io::set_user_timeout(
            &stream,
            port.config.http2.keepalive_interval + port.config.http2.keepalive_timeout,
        );
        let resident = residents.enter(bind::peer(&stream).map(|peer| peer.ip()));
        Box::pin(connection(stream, limiter, port.clone(), resident))
    }
}

/// Most connections above the limit while the connections they evict are closing.
pub(super) const LEAVING_MAX: usize = 32;

/// Shared state of the connections.
#[derive(Clone)]
struct Port {
    readiness: Readiness,
    health: Routes,
    config: Arc<Config>,
    metrics: Arc<Semaphore>,
}

async fn connection(mut stream: TcpStream, limiter: ConnectionLimiter, port: Port, resident: Resident) {
    let Port { readiness, health, config, metrics } = port;
    // Timeout for the first bytes of a peer and for its request's headers. hyper-util has none for detecting the
    // protocol.
    let patience = config.preface_timeout;
    let preface = tokio::select! {
        preface = tokio::time::timeout(patience, Preface::read(&mut stream)) => preface,
        () = limiter.leaving.cancelled() => return,
        () = resident.evicted() => return,
    };
    let Ok(Ok(preface)) = preface else { return };
    let calls = resident.calls();
    let service = service_fn(move |request: Request<Incoming>| {
        let (readiness, mut health, metrics) = (readiness.clone(), health.clone(), Arc::clone(&metrics));
        calls.note();
        async move {
            match probe(request.uri().path(), &readiness, &metrics) {
                Some(answer) => Ok::<_, Infallible>(answer),
                None if is_grpc(&request) => health.call(request.map(Body::new)).await,
                None => Ok(plain(StatusCode::NOT_FOUND, "not found: /livez, /readyz, /metrics, /version\n")),
            }
        }
    });
    let mut builder = auto::Builder::new(Tracked(limiter.tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(config.http2.keepalive_interval)
        .keep_alive_timeout(config.http2.keepalive_timeout)
        .max_header_list_size(config.http2.header_list_bytes_max)
        .max_concurrent_streams(STREAMS_MAX);
    let service = TowerToHyperService::new(service);
    let stream = FairRead::new(LingeringClose::new(PrefixedIo::new(stream, preface)));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut leaving, mut age) = (false, Age::start(&config));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "admin connection ended");
                }
                return;
            }
            () = limiter.leaving.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = limiter.abort.cancelled() => return,
            () = resident.evicted() => return debug!("admin connection made room for another"),
            step = age.next() => match step {
                Step::GoAway if leaving => {}
                Step::GoAway => connection.as_mut().graceful_shutdown(),
                Step::EndCalls => {}
                Step::Close => return debug!("admin connection past its age cut off"),
            },
        }
    }
}

/// The plain HTTP paths.
fn probe(path: &str, readiness: &Readiness, metrics: &Arc<Semaphore>) -> Option<Response<Body>> {
    let (code, text) = match path {
        "/metrics" => return Some(self::metrics(metrics)),
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" if readiness.is_ready() => {
            // Ready for clients that read, trim or delete, which makes room.
            let reason =
                readiness.reason().get().map(|reason| format!("ok, but publishes are refused: {reason}\n"));
            return Some(answer(StatusCode::OK, TEXT, reason.unwrap_or_else(|| "ok\n".into())));
        }
        "/readyz" => {
            let reason = readiness.reason().get().map(|reason| format!("not ready: {reason}\n"));
            let text = reason.unwrap_or_else(|| "not ready\n".into());
            return Some(answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text));
        }
        "/version" => return Some(answer(StatusCode::OK, "application/json", super::build::VERSION)),
        _ => return None,
    };
    Some(plain(code, text))
}

fn metrics(free: &Arc<Semaphore>) -> Response<Body> {
    let Ok(permit) = Arc::clone(free).try_acquire_owned() else {
        return plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many answers with metrics are unread: ask again later\n",
        );
    };
    let text = Bytes::from_owner(Unread { text: prometheus::text(), _permit: permit });
    let mut response = Response::new(Body::new(Full(Some(text))));
    let kind = header::HeaderValue::from_static(prometheus::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Text of metrics that counts as unread until its last byte was sent.
struct Unread {
    text: String,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Body of one frame.
struct Full(Option<Bytes>);

impl http_body::Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// Returns true for a request of a gRPC client. gRPC answers an unknown path with HTTP status 200, which a probe of a
/// misspelled path would take for success.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    answer(code, TEXT, text)
}

fn answer(code: StatusCode, kind: &'static str, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::new(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
