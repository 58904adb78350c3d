//! StreamService over HTTP. tonic serves Publish, and the response of Ingest. It keeps the largest buffer that a call
//! ever needed for as long as the call lasts. Therefore requests of many messages are read by [`Incoming`], and the
//! responses of Subscribe and Exchange are bodies of our own ([`body`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use http::{Request, Response};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::Grpc;
use tonic::{Status, Streaming};
use tower::{Service, service_fn};

use super::body;
use super::incoming::Incoming;
use super::streams::Streams;
use super::{compression, exchange, ingest, publish, subscribe};
use crate::storage::BoxFuture;
use crate::wire::stubs::v1::stream_service_server::SERVICE_NAME;
use crate::wire::{Codec, IngestRequest, Wire};

/// Service of the four calls of StreamService.
#[derive(Clone)]
pub struct StreamService(Arc<Streams>);

impl StreamService {
    /// Name of the service, the first segment of its paths.
    pub const NAME: &'static str = SERVICE_NAME;

    /// Makes the service from the state of the calls.
    #[must_use]
    pub fn new(streams: Streams) -> Self {
        Self(Arc::new(streams))
    }
}

impl Service<Request<Body>> for StreamService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let streams = Arc::clone(&self.0);
        match request.uri().path().rsplit_once('/').map(|(_, method)| method) {
            Some("Publish") => Box::pin(async move { Ok(publish(streams, request).await) }),
            Some("Ingest") => Box::pin(async move { Ok(ingest(streams, request).await) }),
            Some("Subscribe") => Box::pin(async move { Ok(or_status(subscribe(streams, request).await)) }),
            Some("Exchange") => Box::pin(std::future::ready(Ok(or_status(exchange(&streams, request))))),
            _ => Box::pin(std::future::ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

fn or_status(answer: Result<Response<Body>, Status>) -> Response<Body> {
    answer.unwrap_or_else(Status::into_http)
}

fn grpc<T: Wire + Sync, U: Wire + Sync>(streams: &Streams) -> Grpc<Codec<T, U>> {
    let grpc = Grpc::new(Codec::default()).max_decoding_message_size(streams.message_bytes_max);
    let both = |grpc: Grpc<_>, encoding| grpc.accept_compressed(encoding).send_compressed(encoding);
    compression::ENCODINGS.into_iter().fold(grpc, both)
}

async fn publish(streams: Arc<Streams>, request: Request<Body>) -> Response<Body> {
    let request = compression::decompressed_request(request, streams.message_bytes_max);
    let mut grpc = grpc(&streams);
    let call = service_fn(move |request| publish::publish(Arc::clone(&streams), request));
    grpc.unary(call, request).await
}

async fn ingest(streams: Arc<Streams>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let encoding = compression::of_request(&parts.headers);
    let mut incoming = Some(Incoming::new(body, encoding, streams.message_bytes_max));
    let mut grpc = grpc(&streams);
    let call = service_fn(move |request: tonic::Request<Streaming<IngestRequest>>| {
        let incoming = incoming.take().expect("tonic makes one call of one request");
        let streams = Arc::clone(&streams);
        async move { ingest::ingest(&streams, request.metadata(), request.extensions(), incoming).await }
    });
    grpc.client_streaming(call, Request::from_parts(parts, Body::empty())).await
}

async fn subscribe(streams: Arc<Streams>, request: Request<Body>) -> Result<Response<Body>, Status> {
    compression::check_request(request.headers())?;
    let answers_in = compression::of_answer(request.headers());
    let (parts, body) = request.into_parts();
    let encoding = compression::of_request(&parts.headers);
    let mut incoming = Incoming::new(body, encoding, streams.message_bytes_max);
    let asked = incoming.next().await.ok_or_else(|| Status::internal("Missing request message."))??;
    // This waits for the end of the request. An error of the body fails the call, and a second message is ignored.
    if let Some(more) = incoming.next().await {
        more?;
    }
    let deliveries = subscribe::subscribe(&streams, &parts.extensions, asked).await?;
    let unread = deliveries.unread();
    Ok(body::answer(deliveries, unread, answers_in))
}

fn exchange(streams: &Streams, request: Request<Body>) -> Result<Response<Body>, Status> {
    compression::check_request(request.headers())?;
    let answers_in = compression::of_answer(request.headers());
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body, compression::of_request(&parts.headers), streams.message_bytes_max);
    let metadata = MetadataMap::from_headers(parts.headers);
    let exchange = exchange::exchange(streams, &metadata, &parts.extensions, incoming)?;
    let unread = exchange.unread();
    Ok(body::answer(exchange, unread, answers_in))
}
