//! GroupService over HTTP. tonic serves the unary calls. Consume is read by [`Incoming`], and its answer is a body of our
//! own, as those of StreamService are.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tower::{Service, service_fn};

use super::super::body;
use super::super::compression;
use super::super::incoming::Incoming;
use super::calls::GroupCalls;
use super::{admin, backup, consume, lease};
use crate::storage::BoxFuture;
use crate::wire::stubs::v1::group_service_server::SERVICE_NAME;
use crate::wire::{Codec, Wire};

/// Service of the calls of GroupService.
#[derive(Clone)]
pub struct GroupService(Arc<GroupCalls>);

impl GroupService {
    /// Name of the service, the first segment of its paths.
    pub const NAME: &'static str = SERVICE_NAME;

    /// Makes the service from the state of the calls, which the routes of the HTTP listener share.
    #[must_use]
    pub fn new(calls: Arc<GroupCalls>) -> Self {
        Self(calls)
    }
}

impl tonic::server::NamedService for GroupService {
    const NAME: &'static str = SERVICE_NAME;
}

/// Future of an answer.
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

impl Service<Request<Body>> for GroupService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let calls = Arc::clone(&self.0);
        match request.uri().path().rsplit_once('/').map(|(_, method)| method) {
            Some("CreateGroup") => unary(calls, request, admin::create),
            Some("GetGroup") => unary(calls, request, admin::get),
            Some("ListGroups") => unary(calls, request, admin::list),
            Some("UpdateGroup") => unary(calls, request, admin::update),
            Some("DeleteGroup") => unary(calls, request, admin::delete),
            Some("SeekGroup") => unary(calls, request, admin::seek),
            Some("RedriveDeadLetters") => unary(calls, request, admin::redrive),
            Some("ResetGroups") => unary(calls, request, admin::reset),
            Some("SaveGroups") => save(calls, request),
            Some("RestoreGroup") => restore(calls, request),
            Some("Lease") => unary(calls, request, lease::lease),
            Some("Settle") => unary(calls, request, lease::settle),
            Some("Consume") => {
                let answer = consume(&calls, request).unwrap_or_else(Status::into_http);
                Box::pin(std::future::ready(Ok(answer)))
            }
            _ => Box::pin(std::future::ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}

/// Answers a unary call.
fn unary<T, U, F>(
    calls: Arc<GroupCalls>,
    request: Request<Body>,
    answer: fn(Arc<GroupCalls>, tonic::Request<T>) -> F,
) -> Answer
where
    T: Wire + Sync,
    U: Wire + Sync,
    F: Future<Output = Result<U, Status>> + Send + 'static,
{
    let (mut grpc, request) = grpc(&calls, request);
    Box::pin(async move {
        let call = service_fn(move |request| {
            let answer = answer(Arc::clone(&calls), request);
            async move { answer.await.map(tonic::Response::new) }
        });
        Ok(grpc.unary(call, request).await)
    })
}

fn save(calls: Arc<GroupCalls>, request: Request<Body>) -> Answer {
    let (mut grpc, request) = grpc(&calls, request);
    Box::pin(async move {
        let call = service_fn(move |request| {
            let answer = backup::save(Arc::clone(&calls), request);
            async move { answer.await.map(tonic::Response::new) }
        });
        Ok(grpc.server_streaming(call, request).await)
    })
}

fn restore(calls: Arc<GroupCalls>, request: Request<Body>) -> Answer {
    let (mut grpc, request) = grpc(&calls, request);
    Box::pin(async move {
        let call = service_fn(move |request| {
            let answer = backup::restore(Arc::clone(&calls), request);
            async move { answer.await.map(tonic::Response::new) }
        });
        Ok(grpc.client_streaming(call, request).await)
    })
}

/// Makes the server side of a call that tonic serves, and its request.
fn grpc<T, U>(calls: &GroupCalls, request: Request<Body>) -> (Grpc<Codec<U, T>>, Request<Body>)
where
    T: Wire + Sync,
    U: Wire + Sync,
{
    let max = calls.streams.message_bytes_max;
    let grpc = Grpc::new(Codec::<U, T>::default()).max_decoding_message_size(max);
    let both = |grpc: Grpc<_>, encoding| grpc.accept_compressed(encoding).send_compressed(encoding);
    let grpc = compression::ENCODINGS.into_iter().fold(grpc, both);
    (grpc, compression::decompressed_request(request, max))
}

fn consume(calls: &Arc<GroupCalls>, request: Request<Body>) -> Result<Response<Body>, Status> {
    compression::check_request(request.headers())?;
    let answers_in = compression::of_answer(request.headers());
    let (parts, body) = request.into_parts();
    let encoding = compression::of_request(&parts.headers);
    let incoming = Incoming::new(body, encoding, calls.streams.message_bytes_max);
    let consume = consume::consume(calls, &parts.extensions, incoming)?;
    let unread = consume.unread();
    Ok(body::answer(consume, unread, answers_in))
}
