//! Services whose open request streams end when the server drains. Reflection answers for as long as its
//! client asks, and one that never stops asking would hold every drain until its deadline.
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

use crate::topic::Drain;

/// Wraps a service of tonic.
#[derive(Clone, Debug)]
pub(super) struct UntilDrain<S> {
    service: S,
    drain: Drain,
}

impl<S> UntilDrain<S> {
    pub(super) const fn new(service: S, drain: Drain) -> Self {
        Self { service, drain }
    }
}

impl<S: NamedService> NamedService for UntilDrain<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for UntilDrain<S>
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
        let begun = Box::pin(self.drain.begun());
        self.service.call(request.map(|body| Body::new(Ending { body, begun })))
    }
}

/// A request's body that ends with the drain, if not before.
struct Ending {
    body: Body,
    begun: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
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
