//! The observation of every request of the HTTP listener, from its headers to the last byte of its answer: metrics and the
//! access log. Calls of gRPC-Web are logged as calls ([`super::observe`]), and only counted here.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use tracing::{debug, info};

use super::activity::Open;
use super::observe::Observer;
use crate::registry::Call;
use crate::telemetry::{METRICS, Requests};

/// One request, open until this is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    method: &'static str,
    route: &'static str,
    begun: Instant,
    observer: Observer,
    status: Option<StatusCode>,
    is_call: bool,
    is_complete: bool,
    /// The call in the registry, which lists it until the answer has ended.
    registered: Option<Arc<Call>>,
    _open: Open,
}

impl Exchange {
    pub(super) fn begin(method: &str, route: &'static str, observer: Observer, open: Open) -> Self {
        METRICS.requests.active.add(1);
        Self {
            method: Requests::method(method),
            route,
            begun: Instant::now(),
            observer,
            status: None,
            is_call: false,
            is_complete: false,
            registered: None,
            _open: open,
        }
    }

    /// Name of the request.
    pub(super) const fn route(&self) -> &'static str {
        self.route
    }

    /// Notes the route's call in the registry, which counts the bytes of its answer.
    pub(super) fn register(&mut self, call: Arc<Call>) {
        self.registered = Some(call);
    }

    /// Notes that the request is a call of gRPC-Web.
    pub(super) const fn is_call(&mut self) {
        self.is_call = true;
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
        // The peer went away before there was an answer.
        let Some(status) = self.status.map(|status| status.as_u16()) else { return };
        let took = self.begun.elapsed();
        METRICS.requests.end(self.method, self.route, status, took);
        if self.is_call {
            return;
        }
        let (method, route, duration_ms) = (self.method, self.route, took.as_millis() as u64);
        let (peer, complete) = (self.observer.peer.map(tracing::field::display), self.is_complete);
        let every = self.observer.access_log_every;
        if every > 0 && (every == 1 || fastrand::u32(..every) == 0) {
            info!(target: "streamway::access", method, route, status, complete, duration_ms, peer, "request ended");
        } else {
            debug!(target: "streamway::access", method, route, status, complete, duration_ms, peer, "request ended");
        }
    }
}
