//! The requests of one connection of the HTTP listener: the guard sees each first; then it is a call of gRPC-Web, or belongs
//! to a route of [`crate::http`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use axum::Router;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service, ServiceExt};
use tracing::debug;

use super::activity::Activity;
use super::connection::{header_bytes, registered};
use super::http_observe::Exchange;
use super::identity::{Identified, Identifier};
use super::io::Cork;
use super::listener::ConnectionLimiter;
use super::observe::{Observed, Observer};
use super::read_on::ReadOn;
use super::receive_budget::{ConnectionBudget, ReceiveBudget, counted, gathered};
use super::routes::Services;
use super::timed_body::timed;
use super::tls::Tls;
use crate::auth::PeerCertificate;
use crate::http::{Following, Guard, Pass, Problem, Refusal, Web, needs_identity, template};
use crate::registry::{Call, Client};
use crate::service::{body_fn, status};
use crate::telemetry::{Method, trace};
use crate::topic::Connection;

/// The content types of gRPC-Web; no parameter may follow.
const GRPC_WEB: &str = "application/grpc-web, application/grpc-web+proto, application/grpc-web-text, application/grpc-web-text+proto";

/// State that all connections of the listener share.
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

/// State of one connection.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) limiter: ConnectionLimiter,
    pub(super) observer: Observer,
    pub(super) calls: Arc<Connection>,
    pub(super) client: Arc<Client>,
    pub(super) cork: Cork,
    /// Client certificate that TLS has verified.
    pub(super) peer: Option<PeerCertificate>,
}

/// The gRPC calls of a connection, which gRPC-Web translates to.
type Calls = GrpcWebService<Counted<Observed<Identified<Services>>>>;

/// Answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Requests(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    limiter: ConnectionLimiter,
    connection: Arc<Connection>,
    client: Arc<Client>,
    certificate: Option<PeerCertificate>,
    identifier: Identifier,
    /// The budget of bodies that are received in part.
    budget: ConnectionBudget,
    calls: Calls,
    observer: Observer,
    activity: Activity,
}

impl Requests {
    pub(super) fn new(context: Context, activity: Activity) -> Self {
        let Context { shared, limiter, observer, calls: connection, client, cork: _, peer: certificate } =
            context;
        let services = shared.services.clone().of_connection(observer.peer);
        let identifier = services.identifier().clone();
        let budget = shared.budget.connection();
        let counted = Counted { service: Observed::new(services, observer), budget: budget.clone() };
        let calls = GrpcWebLayer::new().layer(counted);
        Self(Arc::new(Inner {
            shared,
            limiter,
            connection,
            client,
            certificate,
            identifier,
            budget,
            calls,
            observer,
            activity,
        }))
    }

    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let route = name(&parts);
        let scheme = if self.0.shared.tls.is_some() { "https" } else { "http" };
        let named = (route, is_call(&parts));
        let mut exchange = Exchange::begin(&parts, named, scheme, self.0.observer, self.0.activity.open());
        let span = exchange.span().clone();
        let refusal = Refusal::of(&parts);
        let (answer, pass) = match self.0.shared.guard.check(&parts) {
            Ok(pass) if pass.preflight().is_some() => {
                (Ok(StatusCode::NO_CONTENT.into_response().map(Body::new)), pass)
            }
            Ok(pass) => {
                let request = Request::from_parts(parts, body);
                (within(&span, self.0.dispatch(request, &mut exchange)).await, pass)
            }
            Err(problem) => (Err(problem), Pass::default()),
        };
        let mut answer = answer.unwrap_or_else(|problem| {
            debug!(reason = problem.reason(), "request refused");
            refusal.answer(problem).map(Body::new)
        });
        pass.protect(answer.headers_mut());
        if answer.extensions().get::<Following>().is_some() {
            exchange.follow();
        }
        exchange.answered(answer.status());
        Ok(answer.map(|body| observed(body, exchange)))
    }
}

impl Inner {
    /// Hands a request to gRPC-Web or to the routes.
    async fn dispatch(
        &self,
        mut request: Request<Incoming>,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Problem> {
        let (config, limiter) = (&self.shared.web.config, &self.limiter);
        let is_call = exchange.is_call();
        if limiter.streams() > config.streams_max {
            return Err((&status::too_many_streams(config.streams_max)).into());
        }
        let headers_max = config.http2.header_list_bytes_max;
        if header_bytes(request.headers()) > headers_max as usize {
            return Err((&status::headers_too_large(headers_max)).into());
        }
        let call = registered(&self.client, exchange.route(), request.headers());
        request.extensions_mut().insert(Arc::clone(&self.connection));
        request.extensions_mut().insert(Arc::clone(&call));
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let (tasks, silence) = (limiter.tasks.clone(), config.http.body_timeout);
        let shutdown = self.connection.shutdown.clone();
        let request = request.map(|body| ReadOn::new(body, tasks));
        if !is_call {
            exchange.register(Arc::clone(&call));
            if is_compressed(request.headers()) {
                return Err(Problem::unsupported_encoding());
            }
            let (mut parts, body) = request.into_parts();
            let body = timed(body, silence, shutdown, Some(call));
            let (body, held) = gathered(body, self.budget.clone(), config.message_bytes_max);
            parts.extensions.insert(held);
            return self.route(Request::from_parts(parts, body)).await;
        }
        if request.method() != http::Method::POST {
            let allow = HeaderValue::from_static("POST");
            return Err(Problem::method_not_allowed().header(header::ALLOW, allow));
        }
        if !is_grpc_web(request.headers()) {
            return Err(Problem::unsupported_media_type(GRPC_WEB));
        }
        exchange.observe_as_call();
        let is_streaming = Method::of(request.uri().path()).is_some_and(Method::is_streaming);
        let request = request.map(|body| timed(body, silence, shutdown, None));
        // Boxed: a subscription would hold the room of the largest call.
        let Ok(mut answer) = Box::pin(self.calls.clone().oneshot(request)).await;
        if is_streaming {
            answer.extensions_mut().insert(Following);
        }
        Ok(answer)
    }

    async fn route(&self, mut request: Request<Body>) -> Result<Response<Body>, Problem> {
        if needs_identity(request.uri().path())
            && let Err(error) = self.identifier.admit(&mut request)
        {
            return Err(Problem::of(&error, &status::Context::default()));
        }
        let request = request.map(axum::body::Body::new);
        let Ok(answer) = self.shared.router.clone().oneshot(request).await;
        Ok(answer.map(Body::new))
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
        let frame = {
            let _in_request = exchange.span().enter();
            ready!(body.as_mut().poll_frame(cx))
        };
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
    if is_call(request) { Method::name_of(path) } else { template(path) }
}

/// Returns true for a call, whatever its content type says.
fn is_call(request: &http::request::Parts) -> bool {
    is_grpc(&request.headers) || is_method(request.uri.path())
}

/// Polls a future within the context of a span.
async fn within<F: Future>(span: &trace::Call, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _in_request = span.enter();
        future.as_mut().poll(cx)
    })
    .await
}

/// Returns true for a path of the form `/package.Service/Method`, which no route has.
fn is_method(path: &str) -> bool {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    parts.is_some_and(|(service, method)| service.contains('.') && !method.contains('/'))
}

/// Returns true for the content types of gRPC and of gRPC-Web, and whatever begins like them.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let start = b"application/grpc";
    kind.get(..start.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(start))
}

/// Returns true for a body that has another coding than the chunks of HTTP/1.1, or has been cut into chunks twice.
fn is_compressed(headers: &HeaderMap) -> bool {
    let is_other = |name, plain: &str| {
        headers.get_all(name).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    is_other(header::CONTENT_ENCODING, "identity")
        || is_other(header::TRANSFER_ENCODING, "chunked")
        || headers.get_all(header::TRANSFER_ENCODING).iter().count() > 1
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| GRPC_WEB.split(", ").any(|known| known == kind))
}
