//! What every call carries: who calls, and the trace it is part of.
//! Never: shown, as a token is in it.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::token::Bearer;
use crate::telemetry::Outgoing;

/// Puts it into a call.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    bearer: Bearer,
    traceparent: Option<MetadataValue<Ascii>>,
}

impl Carried {
    pub(super) fn new(bearer: Bearer, call: &Outgoing) -> Self {
        Self { bearer, traceparent: call.traceparent().and_then(|text| text.parse().ok()) }
    }
}

impl Interceptor for Carried {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(traceparent) = &self.traceparent {
            request.metadata_mut().insert("traceparent", traceparent.clone());
        }
        self.bearer.call(request)
    }
}
