//! The services of the gRPC port by their paths.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;
use tracing::warn;

use super::health::{Health, Readiness};
use super::identity::Identified;
use super::stop_on_shutdown::StopOnShutdown;
use crate::auth::Auth;
use crate::config::Config;
use crate::proto;
use crate::registry::Registry;
use crate::service::{
    Administration, Deadlines, ENCODINGS, EchoBudget, GroupCalls, GroupService, Operator, Served,
    StreamService, Streams, Tutorial, Unpackaged,
};
use crate::topic::{ShutdownSignal, Topics};
use crate::wire::stubs::example::example_service_server::ExampleServiceServer;
use crate::wire::stubs::example::my_service_server::MyServiceServer;
use crate::wire::stubs::v1::admin_service_server::AdminServiceServer;
use crate::wire::stubs::v1::topic_service_server::TopicServiceServer;

/// Most bytes of a message to reflection, to health and to AdminService, which are names. tonic keeps a call's largest message for as long
/// as the call lasts, and nothing counts that but the number of calls.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// Makes a server of tonic with the message limit and the encodings. tonic's servers share no trait for these.
macro_rules! service {
    ($server:ident($service:expr), $message_bytes_max:expr) => {{
        let server = $server::new($service).max_decoding_message_size($message_bytes_max);
        let both =
            |server: $server<_>, encoding| server.accept_compressed(encoding).send_compressed(encoding);
        ENCODINGS.into_iter().fold(server, both)
    }};
}

/// The services of the gRPC port, each call within its deadline.
pub(super) type Services = Deadlines<Paths>;

/// Services by their paths. The calls of StreamService, which are most, need no router.
#[derive(Clone)]
pub(super) struct Paths {
    streams: Served<StreamService>,
    others: Routes,
}

impl Service<Request<Body>> for Paths {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <Served<StreamService> as Service<Request<Body>>>::Future,
        <Routes as Service<Request<Body>>>::Future,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(Service::<Request<Body>>::poll_ready(&mut self.streams, cx))?;
        Service::<Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match service {
            Some((StreamService::NAME, _)) => Either::Left(self.streams.call(request)),
            _ => Either::Right(self.others.call(request)),
        }
    }
}

/// Makes the services of the gRPC port.
pub(super) fn public(
    config: &Config,
    (topics, groups, administration): (&Topics, &Arc<GroupCalls>, &Administration),
    auth: &Auth,
    registry: &Registry,
    readiness: &Readiness,
) -> Identified<Services> {
    let max = config.message_bytes_max;
    let groups = GroupService::new(Arc::clone(groups));
    let streams = StreamService::new(Streams::new(topics.clone(), auth.clone(), config));
    let tutorial = Tutorial::new(topics.shutdown_signal().clone());
    let example = service!(ExampleServiceServer(tutorial.clone()), max);
    let tutorial = service!(MyServiceServer(tutorial), max);
    let small = max.min(SMALL_BYTES_MAX);
    let health = HealthServer::new(Health::new(readiness.clone())).max_decoding_message_size(small);
    let shutdown = topics.shutdown_signal();
    let operator = service!(AdminServiceServer(Operator::new(registry.clone(), auth.clone())), small);
    let routes = Routes::new(Served::tonic(service!(TopicServiceServer(administration.clone()), max), max))
        .add_service(Served::new(groups))
        .add_service(Served::tonic(operator, small))
        .add_service(EchoBudget::new(Served::tonic(Unpackaged(example.clone()), max)))
        .add_service(EchoBudget::new(Served::tonic(example, max)))
        .add_service(stopping(EchoBudget::new(Served::tonic(Unpackaged(tutorial.clone()), max)), shutdown))
        .add_service(stopping(EchoBudget::new(Served::tonic(tutorial, max)), shutdown))
        .add_service(health);
    let routes = if config.reflection { with_reflection(routes, topics.shutdown_signal()) } else { routes };
    let services = Paths { streams: Served::new(streams), others: routes.prepare() };
    Identified::new(Deadlines(services), auth.clone(), registry.clone())
}

fn stopping<S>(service: S, shutdown: &ShutdownSignal) -> StopOnShutdown<S> {
    StopOnShutdown::new(service, shutdown.clone())
}

fn with_reflection(mut routes: Routes, shutdown: &ShutdownSignal) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details of errors, so that callers can decode them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            routes = routes
                .add_service(stopping(v1.max_decoding_message_size(SMALL_BYTES_MAX), shutdown))
                .add_service(stopping(v1alpha.max_decoding_message_size(SMALL_BYTES_MAX), shutdown));
        }
        // This cannot happen: the descriptors are compiled in, and a test serves them.
        (v1, v1alpha) => warn!(v1 = ?v1.err(), v1alpha = ?v1alpha.err(), "no reflection"),
    }
    routes
}
