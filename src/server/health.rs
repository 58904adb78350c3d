//! The server's readiness, and the gRPC health protocol that reports it. The service is our own: the Watch of tonic-health
//! answers NOT_FOUND for an unknown service, for which the protocol has SERVICE_UNKNOWN and later updates.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use crate::service::status::{Context, status};
use crate::service::{Administration, GroupService, Operator, StreamService, Tutorial, connection_shutdown};
use crate::storage::Reason;
use crate::topic::{self, Cause, ShutdownSignal};
use crate::wire::stubs::example::example_service_server::ExampleServiceServer;
use crate::wire::stubs::example::my_service_server::MyServiceServer;
use crate::wire::stubs::v1::admin_service_server::AdminServiceServer;
use crate::wire::stubs::v1::topic_service_server::TopicServiceServer;

/// Names of the gRPC port's services, which health answers for.
pub(super) const SERVICES: [&str; 7] = [
    StreamService::NAME,
    GroupService::NAME,
    <AdminServiceServer<Operator> as NamedService>::NAME,
    <TopicServiceServer<Administration> as NamedService>::NAME,
    <ExampleServiceServer<Tutorial> as NamedService>::NAME,
    <MyServiceServer<Tutorial> as NamedService>::NAME,
    <HealthServer<Health> as NamedService>::NAME,
];

/// Handle to the server's readiness.
#[derive(Clone)]
pub struct Readiness(Arc<watch::Sender<State>>, Reason);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    serving: bool,
    storage_failed: bool,
    storage_full: bool,
    draining: bool,
    watches_end: bool,
}

impl State {
    const fn is_ready(self) -> bool {
        self.serving && !self.storage_failed && !self.draining
    }

    /// Returns the status of a service, or `None` for an unknown one.
    fn of(self, service: &str) -> Option<ServingStatus> {
        let up = match service {
            "liveness" => true,
            "" | "readiness" => self.is_ready(),
            "publishing" => self.is_ready() && !self.storage_full,
            service if SERVICES.contains(&service) => self.is_ready(),
            _ => return None,
        };
        Some(if up { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::channel(State::default()).0), Reason::default())
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().fmt(f)
    }
}

impl Readiness {
    /// Notes that recovery is done.
    pub(super) fn serve(&self) {
        self.0.send_modify(|state| state.serving = true);
    }

    /// Notes if the storage takes writes.
    pub(super) fn set_storage_serves(&self, serves: bool) {
        self.0.send_modify(|state| state.storage_failed = !serves);
    }

    /// Sets whether the storage refuses publishes for lack of room.
    pub(super) fn storage_is_full(&self, full: bool) {
        self.0.send_modify(|state| state.storage_full = full);
    }

    /// Notes that the shutdown has begun.
    pub(super) fn drain(&self) {
        self.0.send_modify(|state| state.draining = true);
    }

    /// Ends the watches, so that connections can end.
    pub(super) fn end_watches(&self) {
        self.0.send_modify(|state| state.watches_end = true);
    }

    /// Returns true while calls are served and the storage takes writes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_ready()
    }

    /// Reason why the storage cannot be used, if it cannot.
    pub(super) const fn reason(&self) -> &Reason {
        &self.1
    }

    /// Waits until the server is ready.
    pub(super) async fn ready(&self) {
        // The sender lives as long as this handle.
        let _ = self.0.subscribe().wait_for(|state| state.is_ready()).await;
    }
}

/// Service of the health protocol.
#[derive(Clone, Debug)]
pub(super) struct Health(Readiness);

impl Health {
    pub(super) const fn new(readiness: Readiness) -> Self {
        Self(readiness)
    }
}

/// Stream of one Watch's updates.
type Updates = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let state = *self.0.0.borrow();
        match state.of(&request.get_ref().service) {
            Some(status) => Ok(Response::new(answer(status))),
            None => Err(Status::not_found("unknown service")),
        }
    }

    type WatchStream = Updates;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Updates>, Status> {
        // Connections of the admin port have no signal.
        let shutdown = connection_shutdown(request.extensions()).cloned().unwrap_or_default();
        let watch = Watch {
            service: request.into_inner().service,
            state: self.0.0.subscribe(),
            shutdown,
            told: None,
            ended: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

struct Watch {
    service: String,
    state: watch::Receiver<State>,
    shutdown: ShutdownSignal,
    told: Option<ServingStatus>,
    ended: bool,
}

impl Watch {
    /// Returns the next update. The watch ends with an error that tells the client to reconnect.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        while !self.ended {
            let state = *self.state.borrow_and_update();
            let status = state.of(&self.service).unwrap_or(ServingStatus::ServiceUnknown);
            if self.told.replace(status) != Some(status) {
                return Some((Ok(answer(status)), self));
            }
            if let Some(cause) = self.end(state.watches_end).await {
                self.ended = true;
                let error = topic::Error::from(cause).into();
                return Some((Err(self::status(&error, &Context::default())), self));
            }
        }
        None
    }

    /// Waits for the next change, and returns the cause if the watch ends.
    async fn end(&mut self, watches_end: bool) -> Option<Cause> {
        if watches_end {
            return Some(Cause::Draining);
        }
        tokio::select! {
            changed = self.state.changed() => changed.is_err().then_some(Cause::Draining),
            // A drain is reported by `watches_end`, after the update that precedes it.
            () = self.shutdown.cancelled() => match self.shutdown.cause() {
                Some(Cause::Draining) | None => {
                    let changed = self.state.changed().await;
                    changed.is_err().then_some(Cause::Draining)
                }
                cause => cause,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, Readiness};
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_server::Health as _;

    /// Readers are served, and trims make room: only who asks for publishing is told otherwise.
    #[tokio::test]
    async fn a_full_storage_ends_the_readiness_of_publishing_alone() {
        let readiness = Readiness::default();
        let of = async |service: &str| {
            let request = HealthCheckRequest { service: service.into() };
            let answer = Health::new(readiness.clone()).check(Request::new(request)).await.unwrap();
            answer.into_inner().status() == ServingStatus::Serving
        };
        assert!(!of("publishing").await, "it starts");
        readiness.serve();
        assert!(of("publishing").await && of("readiness").await);
        readiness.storage_is_full(true);
        assert!(!of("publishing").await && of("readiness").await && of("").await && readiness.is_ready());
        readiness.storage_is_full(false);
        assert!(of("publishing").await);
        readiness.set_storage_serves(false);
        assert!(!of("publishing").await && !of("readiness").await);
    }
}
