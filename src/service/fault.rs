//! The layer around our services. It gives tonic's own errors their code and details, for example a message over the limit
//! or one that cannot be decoded, which tonic always answers in headers alone. It turns panics into statuses, decompresses
//! requests for tonic, and has answers compressed only if the client asked for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::{compression, panics, status};

/// Layer around a service.
#[derive(Clone, Debug)]
pub struct Served<S> {
    service: S,
    /// Most bytes of a message that is decompressed before the service reads it; `None` where it does so itself.
    decompressed_bytes_max: Option<usize>,
}

impl<S> Served<S> {
    /// Wraps a service that decompresses its requests.
    pub const fn new(service: S) -> Self {
        Self { service, decompressed_bytes_max: None }
    }

    /// Wraps a service of tonic, whose messages have at most `bytes_max` bytes.
    pub const fn tonic(service: S, bytes_max: usize) -> Self {
        Self { service, decompressed_bytes_max: Some(bytes_max) }
    }
}

impl<S: NamedService> NamedService for Served<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Served<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        compression::ask(request.headers_mut());
        if let Some(bytes_max) = self.decompressed_bytes_max {
            request = compression::decompressed_request(request, bytes_max);
        }
        Answer(self.service.call(request))
    }
}

/// Future of the answer.
#[derive(Debug)]
pub struct Answer<F>(F);

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match panics::caught(|| Pin::new(&mut self.0).poll(cx)) {
            Ok(polled) => {
                let Ok(response) = ready!(polled);
                rewritten(response)
            }
            Err(status) => status.into_http(),
        };
        Poll::Ready(Ok(response))
    }
}

fn rewritten(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(Status::GRPC_STATUS) || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(found) => {
            let code = found.code();
            let status = status::with_details(found);
            if status.details().is_empty() && status.code() == code { response } else { status.into_http() }
        }
        None => response,
    }
}
