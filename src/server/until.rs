//! Services whose open request streams end with their connection. Reflection answers for as long as its
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

use crate::topic::Ending;

/// Wraps a service of tonic.
#[derive(Clone, Debug)]
pub(super) struct UntilEnding<S> {
    service: S,
    ending: Ending,
}

impl<S> UntilEnding<S> {
    pub(super) const fn new(service: S, ending: Ending) -> Self {
        Self { service, ending }
    }
}

impl<S: NamedService> NamedService for UntilEnding<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for UntilEnding<S>
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
        let ending = request.extensions().get().unwrap_or(&self.ending);
        let begun = Box::pin(ending.begun());
        self.service.call(request.map(|body| Body::new(Until { body, begun })))
    }
}

/// A request's body that ends with its connection, if not before.
struct Until {
    body: Body,
    begun: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Until {
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
