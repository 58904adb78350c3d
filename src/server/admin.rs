//! The admin port: plaintext, HTTP/1.1 and h2c told apart by the preface; gRPC health, probes, metrics.
//! So a gRPC port that is full, or speaks TLS only, never makes a pod look dead.
//! Never: anything a stranger must not see.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, service_fn};
use tracing::debug;

use super::connection::Tracked;
use super::health::{Board, Health};
use super::linger::Lingering;
use super::listener::Gate;
use super::preface::Ahead;
use crate::config::Config;
use crate::telemetry::prometheus;

/// Content type of the answers for people.
const TEXT: &str = "text/plain; charset=utf-8";
/// Calls at once on one connection: probes are few.
const STREAMS_MAX: u32 = 16;

/// Serves connections of the admin port.
pub(super) fn serve(
    board: &Board,
    config: &Config,
) -> impl Fn(TcpStream, Gate) -> futures_util::future::BoxFuture<'static, ()> + Send + 'static {
    let health = Routes::new(HealthServer::new(Health::new(board.clone()))).prepare();
    let (board, config) = (board.clone(), Arc::new(config.clone()));
    move |stream, gate| Box::pin(connection(stream, gate, board.clone(), health.clone(), Arc::clone(&config)))
}

async fn connection(mut stream: TcpStream, gate: Gate, board: Board, health: Routes, config: Arc<Config>) {
    // How long a peer may take to say its first word, and its request's headers. hyper-util has no
    // deadline of its own for telling the two protocols apart.
    let patience = config.preface_timeout;
    let ahead = tokio::select! {
        ahead = tokio::time::timeout(patience, Ahead::read(&mut stream)) => ahead,
        () = gate.leaving.cancelled() => return,
    };
    let Ok(Ok(ahead)) = ahead else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let (board, mut health) = (board.clone(), health.clone());
        async move {
            match probe(request.uri().path(), &board) {
                Some(answer) => Ok::<_, Infallible>(answer),
                None if is_grpc(&request) => health.call(request.map(Body::new)).await,
                None => Ok(plain(StatusCode::NOT_FOUND, "not found: /livez, /readyz, /metrics, /version\n")),
            }
        }
    });
    let mut builder = auto::Builder::new(Tracked(gate.tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(config.http2.keepalive_interval)
        .keep_alive_timeout(config.http2.keepalive_timeout)
        .max_header_list_size(config.http2.header_list_bytes_max)
        .max_concurrent_streams(STREAMS_MAX);
    let service = TowerToHyperService::new(service);
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(Lingering::new(stream, ahead)), service));
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "admin connection ended");
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

/// The plain HTTP paths.
fn probe(path: &str, board: &Board) -> Option<Response<Body>> {
    let (code, text) = match path {
        "/metrics" => return Some(metrics()),
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" if board.is_ready() => (StatusCode::OK, "ok\n"),
        "/readyz" => {
            let reason = board.reason().get().map(|reason| format!("not ready: {reason}\n"));
            let text = reason.unwrap_or_else(|| "not ready\n".into());
            return Some(answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text));
        }
        "/version" => return Some(answer(StatusCode::OK, "application/json", super::build::VERSION)),
        _ => return None,
    };
    Some(plain(code, text))
}

fn metrics() -> Response<Body> {
    let mut response = Response::new(Body::new(prometheus::text()));
    let kind = header::HeaderValue::from_static(prometheus::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Whether a gRPC client asks. gRPC answers what it does not know with 200 and its status beside it,
/// which a probe of a path with a typo would take for health.
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
