//! Services whose open request streams end with their connection and with their caller's identity. Reflection answers
//! for as long as its client asks, and a client that never stops would hold every drain until its deadline. What was
//! asked before is still answered.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::Request;
use http_body::Body as _;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::service::{Expiry, body_fn, connection_shutdown, status};
use crate::topic::{self, Cause, ShutdownSignal};

/// Service of tonic whose request streams end on shutdown.
#[derive(Clone, Debug)]
pub(super) struct StopOnShutdown<S> {
    service: S,
    shutdown: ShutdownSignal,
}

impl<S> StopOnShutdown<S> {
    /// Wraps a service; `shutdown` is for requests that came by no [`topic::Connection`].
    pub(super) const fn new(service: S, shutdown: ShutdownSignal) -> Self {
        Self { service, shutdown }
    }
}

impl<S: NamedService> NamedService for StopOnShutdown<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for StopOnShutdown<S>
where
    S: Service<Request<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shutdown = connection_shutdown(request.extensions()).unwrap_or(&self.shutdown).clone();
        let expiry = request.extensions().get().and_then(Expiry::of);
        self.service.call(request.map(|body| stopping(body, &shutdown, expiry)))
    }
}

/// Makes the body end once the signal is cancelled and nothing more was sent before, and fail once the caller's
/// identity has expired.
fn stopping(body: Body, shutdown: &ShutdownSignal, mut expiry: Option<Expiry>) -> Body {
    let mut cancelled = Box::pin(shutdown.cancelled());
    body_fn(body, move |body, cx| {
        if expiry.as_mut().is_some_and(|expiry| expiry.poll(cx).is_ready()) {
            expiry = None;
            let expired = topic::Error::from(Cause::IdentityExpired);
            let status = status::status(&expired.into(), &status::Context::default());
            return Poll::Ready(Some(Err(status)));
        }
        match body.poll_frame(cx) {
            Poll::Pending => cancelled.as_mut().poll(cx).map(|()| None),
            frame => frame,
        }
    })
}
