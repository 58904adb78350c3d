//! Services whose open request streams end with their connection and with their caller's identity.
//! Reflection answers for as long as its client asks, and one that never stops asking would hold every
//! drain until its deadline.
//! Never: cuts off an answer; what was asked is answered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::service::{Expiry, status};
use crate::topic::{self, Cause, ShutdownSignal};

/// Wraps a service of tonic.
#[derive(Clone, Debug)]
pub(super) struct StopOnShutdown<S> {
    service: S,
    shutdown: ShutdownSignal,
}

impl<S> StopOnShutdown<S> {
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
        let shutdown = request.extensions().get().unwrap_or(&self.shutdown);
        let begun = Box::pin(shutdown.cancelled());
        let expiry = request.extensions().get().and_then(Expiry::of);
        self.service.call(request.map(|body| Body::new(Until { body, begun, expiry })))
    }
}

/// A request's body that ends with its connection, and fails with its caller's identity, if not before.
struct Until {
    body: Body,
    begun: Pin<Box<WaitForCancellationFutureOwned>>,
    expiry: Option<Expiry>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.expiry.as_mut().is_some_and(|expiry| expiry.poll(cx).is_ready()) {
            self.expiry = None;
            let expired = topic::Error::from(Cause::IdentityExpired);
            let status = status::status(&expired.into(), &status::Context::default());
            return Poll::Ready(Some(Err(status)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.begun.as_mut().poll(cx).map(|()| None),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
