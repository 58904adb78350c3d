//! The metadata that every call sends: the caller's token, and the trace it belongs to.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::token::Bearer;
use crate::telemetry::Outgoing;

/// Adds the token and the trace context to a call.
#[derive(Clone, Debug)]
pub(crate) struct CallMetadata {
    bearer: Bearer,
    traceparent: Option<MetadataValue<Ascii>>,
}

impl CallMetadata {
    pub(super) fn new(bearer: Bearer, call: &Outgoing) -> Self {
        Self { bearer, traceparent: call.traceparent().and_then(|text| text.parse().ok()) }
    }
}

impl Interceptor for CallMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(traceparent) = &self.traceparent {
            request.metadata_mut().insert("traceparent", traceparent.clone());
        }
        self.bearer.call(request)
    }
}
