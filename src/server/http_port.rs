//! One connection of the HTTP listener: HTTP/1.1 or HTTP/2 as its first bytes tell, with the limits, identities and drain
//! of the gRPC port. A request is a call of gRPC-Web or belongs to a route of [`crate::http`]; the guard sees both first.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service, ServiceExt};
use tracing::debug;

use super::activity::{Activity, Overdue};
use super::age::{Age, Step};
use super::bind;
use super::connection::{PONG_MAX, Tracked, header_bytes, registered};
use super::http_observe::Exchange;
use super::identity::{Identified, Identifier};
use super::io::{self, CoalescedWrite, Cork, FairRead, LingeringClose, Preface, PrefixedIo, Socket};
use super::listener::ConnectionLimiter;
use super::observe::{Observed, Observer};
use super::read_on::ReadOn;
use super::receive_budget::{ConnectionBudget, ReceiveBudget, counted};
use super::routes::Services;
use super::timed_body::timed;
use super::tls::{Port, Tls};
use crate::auth::PeerCertificate;
use crate::config::Config;
use crate::http::{Guard, Pass, Problem, Web, needs_identity, template};
use crate::registry::{Call, Client};
use crate::service::{body_fn, status};
use crate::telemetry::{METRICS, Method};
use crate::topic::{Cause, Connection};

/// Bytes that an HTTP/1.1 connection may buffer: the longest headers, and a piece of a body.
const BUFFER_BYTES: usize = 64 << 10;
/// A peer that only listens, to server-sent events, gives no sign of life; what is sent to it and not acknowledged ends
/// the connection, and so does the idle timeout.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The content types of gRPC-Web; no parameter may follow.
const GRPC_WEB: &str = "application/grpc-web, application/grpc-web+proto, application/grpc-web-text, application/grpc-web-text+proto";

/// What all connections of the listener share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) web: Web,
    pub(super) tls: Option<Tls>,
    pub(super) budget: ReceiveBudget,
    /// The services of the gRPC port.
    pub(super) services: Identified<Services>,
    /// The routes.
    pub(super) router: Router,
    pub(super) guard: Arc<Guard>,
}

/// Returns the function that serves a connection of the HTTP listener.
pub(super) fn serve(
    shared: Shared,
) -> impl Fn(TcpStream, ConnectionLimiter) -> BoxFuture<'static, ()> + Send + 'static {
    move |stream, limiter| {
        let shared = shared.clone();
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
        Box::pin(async move {
            let Some(tls) = port.shared.tls.clone() else { return port.serve(socket).await };
            let accepted = port.limiter.open_in_time(tls.accept(Port::Http, socket)).await.flatten();
            if let Some((stream, peer)) = accepted {
                Context { peer, ..port }.serve(stream).await;
            }
        })
    }
}

/// State of one connection.
struct Context {
    shared: Shared,
    limiter: ConnectionLimiter,
    observer: Observer,
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
        let reading =
            tokio::time::timeout(self.shared.web.config.preface_timeout, Preface::read(&mut stream));
        match self.limiter.open_in_time(reading).await {
            Some(Ok(Ok(preface))) if preface.is_whole_preface() || preface.is_http1() => {
                let stream = LingeringClose::new(PrefixedIo::new(stream, preface));
                let stream = FairRead::new(CoalescedWrite::new(stream));
                self.serve_http(stream, preface.is_http1()).await;
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
        // Pings make a connection of HTTP/2 look as if it sent headers, and h2 limits how many it sends.
        let headers = if is_http1 { config.preface_timeout } else { config.http.idle_timeout };
        let mut overdue = std::pin::pin!(activity.clone().overdue(peer, config.http.idle_timeout, headers));
        let requests = Requests::new(self, activity);
        let service = service_fn(move |request| requests.clone().answer(request));
        let builder = builder(&config, &limiter);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let (mut leaving, mut age) = (false, Age::start(&config));
        let (mut told, mut ending) = (false, std::pin::pin!(shutdown.cancelled()));
        loop {
            tokio::select! {
                ended = poll_fn(|cx| {
                    let polled = connection.as_mut().poll(cx);
                    cork.release();
                    polled
                }) => {
                    if let Err(error) = ended {
                        debug!(error = %error, "connection ended");
                    }
                    return;
                }
                () = limiter.leaving.cancelled(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut ending, if !told => {
                    told = true;
                    if let Some(Cause::Disconnected { .. }) = shutdown.cause() {
                        connection.as_mut().graceful_shutdown();
                        age.close_soon();
                    }
                }
                () = limiter.abort.cancelled() => return,
                overdue = &mut overdue, if !leaving => match overdue {
                    Overdue::Headers => return debug!("connection with headers that do not end closed"),
                    Overdue::Idle => {
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                        age.close_soon();
                    }
                },
                step = age.next() => match step {
                    Step::GoAway if leaving => {}
                    Step::GoAway => connection.as_mut().graceful_shutdown(),
                    Step::EndCalls => shutdown.cancel(Cause::MaxAge),
                    Step::Close => return debug!("connection past its time cut off"),
                },
            }
        }
    }
}

/// The gRPC calls of a connection, which gRPC-Web translates to.
type Calls = GrpcWebService<Counted<Observed<Identified<Services>>>>;

/// Answers the requests of one connection.
#[derive(Clone)]
struct Requests(Arc<Inner>);

struct Inner {
    shared: Shared,
    limiter: ConnectionLimiter,
    connection: Arc<Connection>,
    client: Arc<Client>,
    certificate: Option<PeerCertificate>,
    identifier: Identifier,
    calls: Calls,
    observer: Observer,
    activity: Activity,
}

impl Requests {
    fn new(context: Context, activity: Activity) -> Self {
        let Context { shared, limiter, observer, calls: connection, client, cork: _, peer: certificate } =
            context;
        let services = shared.services.clone().of_connection(observer.peer);
        let identifier = services.identifier().clone();
        let counted =
            Counted { service: Observed::new(services, observer), budget: shared.budget.connection() };
        let calls = GrpcWebLayer::new().layer(counted);
        Self(Arc::new(Inner {
            shared,
            limiter,
            connection,
            client,
            certificate,
            identifier,
            calls,
            observer,
            activity,
        }))
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let route = name(&parts);
        let mut exchange =
            Exchange::begin(parts.method.as_str(), route, self.0.observer, self.0.activity.open());
        let answer = match self.0.shared.guard.check(&parts) {
            Ok(pass) => {
                let mut answer = match pass.preflight() {
                    Some(code) => code.into_response().map(Body::new),
                    None => self.0.dispatch(Request::from_parts(parts, body), &mut exchange).await,
                };
                pass.protect(answer.headers_mut());
                answer
            }
            Err(problem) => {
                debug!(reason = problem.reason(), "request refused");
                let mut answer = refused(problem);
                Pass::default().protect(answer.headers_mut());
                answer
            }
        };
        exchange.answered(answer.status());
        Ok(answer.map(|body| observed(body, exchange)))
    }
}

impl Inner {
    /// Hands a request to gRPC-Web or to the routes.
    async fn dispatch(&self, mut request: Request<Incoming>, exchange: &mut Exchange) -> Response<Body> {
        let (config, limiter) = (&self.shared.web.config, &self.limiter);
        if limiter.streams() > config.streams_max {
            debug!(streams_max = config.streams_max, "request over the cap refused");
            return refused((&status::too_many_streams(config.streams_max)).into());
        }
        let headers_max = config.http2.header_list_bytes_max;
        if header_bytes(request.headers()) > headers_max as usize {
            return refused((&status::headers_too_large(headers_max)).into());
        }
        let is_call = is_grpc(request.headers());
        let call = registered(&self.client, exchange.route(), request.headers());
        request.extensions_mut().insert(Arc::clone(&self.connection));
        request.extensions_mut().insert(Arc::clone(&call));
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let (tasks, silence) = (limiter.tasks.clone(), config.http.body_timeout);
        let request = request.map(|body| ReadOn::new(body, tasks));
        if !is_call {
            exchange.register(Arc::clone(&call));
            return self.route(request.map(|body| timed(body, silence, Some(call)))).await;
        }
        if request.method() != http::Method::POST {
            let allow = HeaderValue::from_static("POST");
            return refused(Problem::method_not_allowed().header(header::ALLOW, allow));
        }
        if !is_grpc_web(request.headers()) {
            return refused(Problem::unsupported_media_type(GRPC_WEB));
        }
        exchange.is_call();
        let request = request.map(|body| timed(body, silence, None));
        // Boxed: a subscription would hold the room of the largest call.
        let Ok(answer) = Box::pin(self.calls.clone().oneshot(request)).await;
        answer
    }

    async fn route(&self, mut request: Request<Body>) -> Response<Body> {
        if needs_identity(request.uri().path())
            && let Err(error) = self.identifier.admit(&mut request)
        {
            return refused(Problem::of(&error, &status::Context::default()));
        }
        let request = request.map(axum::body::Body::new);
        let Ok(answer) = self.shared.router.clone().oneshot(request).await;
        answer.map(Body::new)
    }
}

/// Service whose partly received messages are counted.
#[derive(Clone)]
struct Counted<S> {
    service: S,
    budget: ConnectionBudget,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.service.poll_ready(cx))?;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let headers = header_bytes(request.headers());
        let budget = self.budget.clone();
        match request.extensions().get::<Arc<Call>>().cloned() {
            Some(call) => self.service.call(request.map(|body| counted(body, budget, headers, call))),
            None => self.service.call(request),
        }
    }
}

/// Makes the exchange last until the last byte was sent, or the peer went away.
fn observed(body: Body, mut exchange: Exchange) -> Body {
    if body.is_end_stream() {
        exchange.sent(None);
    }
    body_fn(body, move |mut body, cx| {
        let frame = ready!(body.as_mut().poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            exchange.sent(frame.data_ref().map(bytes::Bytes::len));
        }
        if frame.is_none() || body.is_end_stream() {
            exchange.sent(None);
        }
        Poll::Ready(frame)
    })
}

/// Name of a request in metrics: the template of its route, or the path of its method.
fn name(request: &http::request::Parts) -> &'static str {
    let path = request.uri.path();
    if is_grpc(&request.headers) { Method::name_of(path) } else { template(path) }
}

fn refused(problem: Problem) -> Response<Body> {
    problem.into_response().map(Body::new)
}

/// Returns true for the content types of gRPC and of gRPC-Web, and whatever begins like them.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let start = b"application/grpc";
    kind.get(..start.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(start))
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| GRPC_WEB.split(", ").any(|known| known == kind))
}

fn builder(config: &Config, limiter: &ConnectionLimiter) -> auto::Builder<Tracked> {
    let http2 = &config.http2;
    let mut builder = auto::Builder::new(Tracked(limiter.tasks.clone()));
    // Activity limits the time of headers, and that between requests.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES);
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
