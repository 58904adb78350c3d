//! The layer that authenticates every call, before any service sees it and without its credential afterwards. It also
//! reloads the files of identities and policy while the server runs.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::Either;
use http::{HeaderMap, Request, Response, header};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;
use tracing::{debug, info, warn};

use super::request;
use crate::auth::{self, Attempts, Auth, Caller, FailureLimits, JwtOptions, Limits, Options, Reloaded};
use crate::config::Config;
use crate::registry::{Call, Registry};
use crate::service::status;
use crate::telemetry::audit::{self, Attempt, Change};
use crate::topic;

/// Paths that need no identity.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Paths that no ban applies to.
const ADMIN: &str = "/streamway.v1.AdminService/";

/// Makes the options of identities from the configuration.
pub(super) fn options(config: &Config) -> Options {
    let jwt = config.auth_jwks.clone().map(|jwks| JwtOptions {
        jwks,
        issuer: config.auth_jwt_issuer.clone().unwrap_or_default(),
        audience: config.auth_jwt_audience.clone().unwrap_or_default(),
        leeway: config.auth_jwt_leeway,
        principal_claim: config.auth_jwt_principal_claim.clone(),
    });
    Options {
        tokens: config.auth_tokens.clone(),
        jwt,
        certificates: config.has_identities(),
        policy: config.auth_policy.clone(),
        limits: Limits {
            publish_bytes_per_s: config.quota_publish_bytes_per_s,
            publish_records_per_s: config.quota_publish_records_per_s,
            subscriptions_max: config.quota_subscriptions_max,
            // Overall, the log's own limit holds.
            topics_max: 0,
        },
        failures: FailureLimits {
            connection: config.auth_connection_failures_per_s,
            peer: config.auth_peer_failures_per_s,
        },
    }
}

/// Reloads changed files at intervals, until the server shuts down.
pub(super) async fn reload(auth: Auth, interval: Duration, leaving: CancellationToken) {
    loop {
        tokio::select! {
            () = leaving.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let reloading = auth.clone();
        match tokio::task::spawn_blocking(move || reloading.reload()).await {
            Ok(Ok(Reloaded::Unchanged)) => {}
            Ok(Ok(Reloaded::Changed)) => {
                info!("identities and policy reloaded");
                audit::record(Change::by_server("identities.reload", Ok(None)));
            }
            Ok(Err(faults)) => {
                warn!(%faults, "a file is not taken over; what was read before holds");
                audit::record(Change::by_server("identities.reload", Err(faults.to_string())));
            }
            Err(error) => warn!(%error, "reloading the files of identities"),
        }
    }
}

/// Authentication of the calls of one connection.
#[derive(Clone, Debug)]
pub(super) struct Identifier {
    auth: Auth,
    attempts: Attempts,
    registry: Registry,
}

/// Service that only authenticated callers reach, where authentication is on.
#[derive(Clone, Debug)]
pub(super) struct Identified<S> {
    service: S,
    identifier: Identifier,
}

impl<S> Identified<S> {
    pub(super) fn new(service: S, auth: Auth, registry: Registry) -> Self {
        Self { service, identifier: Identifier { attempts: auth.attempts(None), auth, registry } }
    }

    /// Makes the service of a new connection of this peer.
    pub(super) fn of_connection(self, peer: Option<SocketAddr>) -> Self {
        let attempts = self.identifier.auth.attempts(peer.map(|peer| peer.ip()));
        Self { identifier: Identifier { attempts, ..self.identifier }, ..self }
    }

    /// Authentication of the connection, for calls that are not gRPC.
    pub(super) const fn identifier(&self) -> &Identifier {
        &self.identifier
    }
}

impl Identifier {
    /// Authenticates the caller and adds it to the request's extensions, without its credential.
    ///
    /// # Errors
    /// It has no valid identity, or is banned.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<(), status::Error> {
        let (attempt, error) = match self.identify(request) {
            Ok(()) => match self.banned(request) {
                None => return Ok(()),
                Some(banned) => (Attempt::Denied, banned.into()),
            },
            Err(error) => {
                debug!(%error, "a caller without a valid identity");
                (Attempt::Unauthenticated, status::Error::from(error))
            }
        };
        if let Some(call) = request.extensions().get::<Arc<Call>>() {
            audit::attempted(attempt, &call.actor(), &error.to_string());
        }
        Err(error)
    }

    /// Returns the error of a call whose caller is banned. No ban applies to AdminService, so that an operator cannot lock
    /// operators out.
    fn banned<B>(&self, request: &Request<B>) -> Option<topic::Error> {
        let (caller, call) = (request.extensions().get::<Caller>()?, request.extensions().get::<Arc<Call>>());
        let address = call.and_then(|call| call.peer().address).map(|address| address.ip());
        let end = self.registry.bans().end(&caller.name(), address)?;
        let is_exempt = request.uri().path().starts_with(ADMIN);
        let banned_until = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (!is_exempt).then_some(topic::Error::Disconnected { banned_until })
    }

    /// Authenticates the caller, adds it to the request's extensions, and removes the credential.
    fn identify<B>(&self, request: &mut Request<B>) -> Result<(), auth::Error> {
        let found = match only(request.headers()) {
            // Without authentication no credential can be wrong.
            _ if self.auth.is_open() => self.auth.caller(None),
            Ok(value) => {
                self.auth.authenticate(value, request.extensions().get(), SystemTime::now(), &self.attempts)
            }
            Err(error) => Err(error),
        };
        request.headers_mut().remove(header::AUTHORIZATION);
        let caller = found?;
        if let Some(call) = request.extensions().get::<Arc<Call>>() {
            call.identify(caller.name());
        }
        request.extensions_mut().insert(caller);
        Ok(())
    }
}

/// Returns the value of the `authorization` header; more than one is an error.
fn only(headers: &HeaderMap) -> Result<Option<&[u8]>, auth::Error> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(header::HeaderValue::as_bytes)),
        (_, Some(_)) => Err(auth::Error::Malformed),
    }
}

impl<S> Service<Request<Body>> for Identified<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut request = match request::checked(request) {
            Ok(request) => request,
            Err(answer) => return Either::Right(ready(Ok(*answer))),
        };
        if request.uri().path().starts_with(HEALTH) {
            request.headers_mut().remove(header::AUTHORIZATION);
            return Either::Left(self.service.call(request));
        }
        match self.identifier.admit(&mut request) {
            Ok(()) => Either::Left(self.service.call(request)),
            Err(error) => {
                let status = status::status(&error, &status::Context::default());
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}
