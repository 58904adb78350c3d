//! The services of the classic tutorial, one call of each kind. They use no topic, and answer even while the log recovers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use http::Request as HttpRequest;
use http::uri::{PathAndQuery, Uri};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::call::connection_shutdown;
use super::echo_budget::charge;
use super::status::{Context as CallContext, status, with_details};
use crate::proto::example;
use crate::topic::{self, ShutdownSignal};
use crate::wire::stubs::example::example_service_server::ExampleService;
use crate::wire::stubs::example::my_service_server::MyService;

/// Most bytes of names that ClientStreamingRPCMethod remembers for its one answer.
const NAMES_BYTES_MAX: usize = 16 << 10;

/// Implements both services.
#[derive(Clone, Debug, Default)]
pub struct Tutorial {
    shutdown: ShutdownSignal,
}

impl Tutorial {
    /// Open calls end with their connection; `shutdown` is for calls that came by none.
    #[must_use]
    pub const fn new(shutdown: ShutdownSignal) -> Self {
        Self { shutdown }
    }

    fn shutdown<T>(&self, request: &Request<T>) -> ShutdownSignal {
        connection_shutdown(request.extensions()).unwrap_or(&self.shutdown).clone()
    }
}

/// Returns the status of a call that the server ends.
fn ended(shutdown: &ShutdownSignal) -> Option<Status> {
    let cause = shutdown.cause()?;
    Some(status(&topic::Error::from(cause).into(), &CallContext::default()))
}

#[tonic::async_trait]
impl ExampleService for Tutorial {
    async fn process_request(
        &self,
        request: Request<example::Request>,
    ) -> Result<Response<example::Response>, Status> {
        charge(request.extensions(), request.get_ref().message.len())?;
        let message = format!("Received message: {}", request.into_inner().message);
        Ok(Response::new(example::Response { message }))
    }
}

/// Stream of answers.
type Answers = Pin<Box<dyn Stream<Item = Result<example::MyResponse, Status>> + Send>>;

#[tonic::async_trait]
impl MyService for Tutorial {
    type ServerStreamingRPCMethodStream = Answers;

    async fn server_streaming_rpc_method(
        &self,
        request: Request<example::MyRequest>,
    ) -> Result<Response<Answers>, Status> {
        charge(request.extensions(), request.get_ref().name.len())?;
        let name = request.into_inner().name;
        let answers = stream::iter(1..=4)
            .map(move |i| Ok(example::MyResponse { message: format!("Response {i} for {name}") }));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn client_streaming_rpc_method(
        &self,
        request: Request<Streaming<example::MyRequest>>,
    ) -> Result<Response<example::MyResponse>, Status> {
        let shutdown = self.shutdown(&request);
        let (_, extensions, requests) = request.into_parts();
        let mut requests = requests.take_until(Box::pin(shutdown.cancelled()));
        let (mut names, mut count) = (String::new(), 0_u64);
        while let Some(request) = requests.next().await {
            let name = request?.name;
            charge(&extensions, name.len())?;
            if names.len() + name.len() > NAMES_BYTES_MAX {
                return Err(Status::resource_exhausted("names take more than 16 KiB"));
            }
            if count > 0 {
                names.push_str(", ");
            }
            names.push_str(&name);
            count += 1;
        }
        if let Some(status) = requests.take_result().and_then(|()| ended(&shutdown)) {
            return Err(status);
        }
        Ok(Response::new(example::MyResponse { message: format!("Received {count} requests: {names}") }))
    }

    type BidirectionalStreamingRPCMethodStream = Answers;

    async fn bidirectional_streaming_rpc_method(
        &self,
        request: Request<Streaming<example::MyRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let shutdown = self.shutdown(&request);
        let cancelled = shutdown.cancelled();
        let (_, extensions, requests) = request.into_parts();
        let answers = requests.map(move |request| {
            let name = request.map_err(with_details)?.name;
            charge(&extensions, name.len())?;
            Ok(example::MyResponse { message: format!("Response for {name}") })
        });
        let last = stream::once(async move { ended(&shutdown) });
        let last = last.filter_map(|status| std::future::ready(status.map(Err)));
        Ok(Response::new(Box::pin(answers.take_until(cancelled).chain(last))))
    }
}

/// Serves a service of package `example` under its name without package, as the tutorial's proto has none.
#[derive(Clone, Debug)]
pub struct Unpackaged<S>(pub S);

impl NamedService for Unpackaged<crate::wire::stubs::example::my_service_server::MyServiceServer<Tutorial>> {
    const NAME: &'static str = "MyService";
}

impl NamedService
    for Unpackaged<crate::wire::stubs::example::example_service_server::ExampleServiceServer<Tutorial>>
{
    const NAME: &'static str = "ExampleService";
}

impl<S, B> Service<HttpRequest<B>> for Unpackaged<S>
where
    S: Service<HttpRequest<B>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        let path = format!("/example.{}", request.uri().path().trim_start_matches('/'));
        if let Ok(path) = PathAndQuery::try_from(path) {
            *request.uri_mut() = Uri::from(path);
        }
        self.0.call(request)
    }
}
