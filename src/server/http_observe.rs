//! The observation of every request of the HTTP listener, from its headers to the last byte of its answer: metrics, the
//! access log and its span. Calls of gRPC-Web are logged as calls ([`super::observe`]), and only counted here.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use http::request::Parts;
use tracing::{debug, info};

use super::activity::Open;
use super::observe::Observer;
use crate::http::NO_ROUTE;
use crate::registry::Call;
use crate::telemetry::{METRICS, Requests, begin_request, end_request, trace};

/// One request, open until this is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    method: &'static str,
    route: &'static str,
    begun: Instant,
    observer: Observer,
    span: trace::Call,
    status: Option<StatusCode>,
    is_call: bool,
    is_observed: bool,
    is_complete: bool,
    /// The call in the registry, which lists it until the answer has ended.
    registered: Option<Arc<Call>>,
    open: Open,
}

impl Exchange {
    /// Begins the observation of a request of this name. A call has its span where it is observed as a call.
    pub(super) fn begin(
        request: &Parts,
        (route, is_call): (&'static str, bool),
        scheme: &'static str,
        observer: Observer,
        open: Open,
    ) -> Self {
        METRICS.requests.active.add(1);
        let template = Some(route).filter(|route| *route != NO_ROUTE);
        let span = if is_call {
            trace::Call::default()
        } else {
            begin_request(request, template, scheme, observer.peer)
        };
        Self {
            method: Requests::method(request.method.as_str()),
            route,
            begun: Instant::now(),
            observer,
            span,
            status: None,
            is_call,
            is_observed: false,
            is_complete: false,
            registered: None,
            open,
        }
    }

    /// Context of the request's span.
    pub(super) const fn span(&self) -> &trace::Call {
        &self.span
    }

    /// Name of the request.
    pub(super) const fn route(&self) -> &'static str {
        self.route
    }

    /// Notes the route's call in the registry, which counts the bytes of its answer.
    pub(super) fn register(&mut self, call: Arc<Call>) {
        self.registered = Some(call);
    }

    /// Returns true for a call, whatever its content type is.
    pub(super) const fn is_call(&self) -> bool {
        self.is_call
    }

    /// Notes that the call is observed as one, which logs it.
    pub(super) const fn observe_as_call(&mut self) {
        self.is_observed = true;
    }

    /// Notes that the answer goes on for as long as its peer wants it.
    pub(super) fn follow(&mut self) {
        self.open.follow();
    }

    /// Notes the status of the answer.
    pub(super) const fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Notes a piece of the answer, or its end.
    pub(super) fn sent(&mut self, bytes: Option<usize>) {
        match (bytes, &self.registered) {
            (Some(bytes), Some(call)) => call.sent(bytes),
            (Some(_), None) => {}
            (None, _) => self.is_complete = true,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        METRICS.requests.active.add(-1);
        end_request(&self.span, self.status.map(|status| status.as_u16()));
        // The peer went away before there was an answer.
        let Some(status) = self.status.map(|status| status.as_u16()) else { return };
        let took = self.begun.elapsed();
        METRICS.requests.end(self.method, self.route, status, took);
        if self.is_observed {
            return;
        }
        let (method, route, duration_ms) = (self.method, self.route, took.as_millis() as u64);
        let _in_request = self.span.enter();
        let (peer, complete) = (self.observer.peer.map(tracing::field::display), self.is_complete);
        let every = self.observer.access_log_every;
        if every > 0 && (every == 1 || fastrand::u32(..every) == 0) {
            info!(target: "streamway::access", method, route, status, complete, duration_ms, peer, "request ended");
        } else {
            debug!(target: "streamway::access", method, route, status, complete, duration_ms, peer, "request ended");
        }
    }
}
