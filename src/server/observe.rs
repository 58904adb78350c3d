//! The layer that observes every call of the gRPC port: its duration, its status, its log lines and its span. Health and
//! reflection are not observed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::Service;
use tracing::{debug, info};

use crate::registry;
use crate::service::body_fn;
use crate::telemetry::audit::{self, Attempt};
use crate::telemetry::{CODES, METRICS, Method, trace};

/// Reason of a call that an operator has ended.
const DISCONNECTED: &str = "DISCONNECTED_BY_OPERATOR";

/// Settings of the observation, the same for all calls of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observer {
    /// Address of the client.
    pub(super) peer: Option<SocketAddr>,
    /// One call in this many is written to the access log; 0 for none.
    pub(super) access_log_every: u32,
}

/// Service whose calls are observed.
#[derive(Clone, Debug)]
pub(super) struct Observed<S> {
    inner: S,
    observer: Observer,
}

impl<S> Observed<S> {
    pub(super) const fn new(inner: S, observer: Observer) -> Self {
        Self { inner, observer }
    }
}

impl<S, B> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let registered = request.extensions().get::<Arc<registry::Call>>();
        let call = Method::of(request.uri().path()).map(|method| {
            Box::new(Call::begin(method, request.headers(), self.observer, registered.cloned()))
        });
        let _in_call = call.as_ref().and_then(|call| call.span.enter());
        Answer { inner: self.inner.call(request), call }
    }
}

/// Future of an observed call's answer.
#[derive(Debug)]
pub(super) struct Answer<F> {
    inner: F,
    call: Option<Box<Call>>,
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let response = {
            let _in_call = this.call.as_ref().and_then(|call| call.span.enter());
            let Ok(response) = ready!(Pin::new(&mut this.inner).poll(cx));
            response
        };
        let Some(mut call) = this.call.take() else { return Poll::Ready(Ok(response)) };
        if response.headers().contains_key(Status::GRPC_STATUS) {
            call.end(response.headers());
            return Poll::Ready(Ok(response));
        }
        Poll::Ready(Ok(response.map(|body| observed(body, call))))
    }
}

/// Makes the call end with the trailers of its answer.
fn observed(body: Body, mut call: Box<Call>) -> Body {
    body_fn(body, move |body, cx| {
        let frame = {
            let _in_call = call.span.enter();
            ready!(body.poll_frame(cx))
        };
        if let Some(Ok(frame)) = &frame {
            if let Some(trailers) = frame.trailers_ref() {
                call.end(trailers);
            } else if let Some((registered, data)) = call.registered.as_ref().zip(frame.data_ref()) {
                registered.sent(data.len());
            }
        }
        Poll::Ready(frame)
    })
}

/// One call, from its headers to its trailers. One that is dropped before its trailers was cancelled.
#[derive(Debug)]
struct Call {
    method: Method,
    begun: Instant,
    observer: Observer,
    /// The call in the registry, which lists it until it has ended.
    registered: Option<Arc<registry::Call>>,
    span: trace::Call,
    /// True if the call is written to the access log.
    logged: bool,
    ended: bool,
}

impl Call {
    fn begin(
        method: Method,
        headers: &HeaderMap,
        observer: Observer,
        registered: Option<Arc<registry::Call>>,
    ) -> Self {
        METRICS.calls.begin(method);
        let span = trace::Call::begin(method, headers, observer.peer);
        let every = observer.access_log_every;
        let logged = every > 0 && (every == 1 || fastrand::u32(..every) == 0);
        let begun = Instant::now();
        let call = Self { method, begun, observer, registered, span, logged, ended: false };
        if method.is_streaming() {
            call.span.opened();
            let _in_call = call.span.enter();
            let peer = call.observer.peer.map(tracing::field::display);
            if logged {
                info!(target: "streamway::access", method = method.name(), peer, "stream opened");
            } else {
                debug!(target: "streamway::access", method = method.name(), peer, "stream opened");
            }
        }
        call
    }

    fn end(&mut self, trailers: &HeaderMap) {
        let code =
            trailers.get(Status::GRPC_STATUS).map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        let status = (code != Code::Ok).then(|| Status::from_header_map(trailers)).flatten();
        let reason = status.as_ref().and_then(|status| Some(status.get_details_error_info()?.reason));
        // Calls without an identity, and those of a banned caller, are recorded where they are refused; those that an
        // operator ends are no attempts.
        let is_refused = code == Code::PermissionDenied && reason.as_deref() != Some(DISCONNECTED);
        if let (true, Some(status), Some(call)) = (is_refused, &status, &self.registered) {
            audit::attempted(Attempt::Denied, &call.actor(), status.message());
        }
        self.ended_with(code as usize, reason.as_deref());
    }

    fn ended_with(&mut self, code: usize, reason: Option<&str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.begun.elapsed();
        METRICS.calls.end(self.method, code, took);
        let status = CODES.get(code).copied().unwrap_or("UNKNOWN");
        let _in_call = self.span.enter();
        let (method, duration_ms) = (self.method.name(), took.as_millis() as u64);
        let peer = self.observer.peer.map(tracing::field::display);
        if self.logged {
            info!(target: "streamway::access", method, status, reason, duration_ms, peer, "call ended");
        } else {
            debug!(target: "streamway::access", method, status, reason, duration_ms, peer, "call ended");
        }
        self.span.end(code, reason);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ended_with(Code::Cancelled as usize, None);
    }
}
