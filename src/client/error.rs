//! The error of a call: what the server answered (with its `google.rpc` details), or how the transport broke.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

/// The origin of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This library refused the request before it was sent.
    Local,
    /// No connection could be made.
    Connect,
    /// The connection broke during the call, or no message arrived in time.
    Transport,
    /// The server answered with this error.
    Server,
}

#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) origin: Origin,
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) reason: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) violations: Vec<(String, String)>,
    pub(super) retry_after: Option<Duration>,
    /// A change since the call makes another attempt worthwhile.
    pub(super) retryable: bool,
    /// The peer refused the HTTP/2 stream, and did nothing of the call.
    pub(super) is_refused_stream: bool,
    /// A hint from the TLS error.
    pub(super) tls_hint: Option<&'static str>,
}

/// The reason why a call failed. Cheap to clone, as everything that was pending gets the same one.
#[derive(Clone, Debug)]
pub struct Error(pub(super) Arc<Inner>);

impl Error {
    /// A request that this library refuses; nothing was sent.
    pub(crate) fn local(code: Code, message: impl Into<String>) -> Self {
        Self::of(Origin::Local, code, message)
    }

    /// A connection that broke, or on which no message arrived in time.
    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self::of(Origin::Transport, Code::Unavailable, message)
    }

    pub(super) fn of(origin: Origin, code: Code, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            origin,
            code,
            message: message.into(),
            reason: None,
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
            retryable: false,
            is_refused_stream: false,
            tls_hint: None,
        }))
    }

    /// Marks the error as retryable although its code is not.
    pub(crate) fn retryable(mut self) -> Self {
        Arc::make_mut(&mut self.0).retryable = true;
        self
    }

    /// The origin of the error.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The gRPC code; `Unavailable` for a broken transport.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message of the server or of the transport, without reason and hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// `ErrorInfo.reason`, for example `TOPIC_NOT_FOUND`.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// `ErrorInfo.metadata`: `side_effects`, `resume_offset`, `earliest_offset`, `tail`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// The fields that `BadRequest` names, with a description of what is wrong with each.
    #[must_use]
    pub fn violations(&self) -> &[(String, String)] {
        &self.0.violations
    }

    /// The delay before another attempt that `RetryInfo` asks for.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns true for an answer of a server, or of a load balancer that has no server at the moment: a sign that the
    /// address is right.
    pub(crate) fn reached_server(&self) -> bool {
        self.0.is_refused_stream || (self.0.origin == Origin::Server && !self.is_from_load_balancer())
    }

    /// Returns true for what load balancers make of a server that went away: CANCELLED, which our servers never answer,
    /// or INTERNAL or UNKNOWN without the `ErrorInfo` of our servers.
    fn is_from_load_balancer(&self) -> bool {
        let code = match self.0.code {
            Code::Cancelled => true,
            Code::Internal | Code::Unknown => self.0.reason.is_none(),
            _ => false,
        };
        code && self.0.origin == Origin::Server
    }

    /// Returns true if repeating or resuming the call can help: for a broken transport, for UNAVAILABLE, for what load
    /// balancers make of either (see docs/errors.md), and for RESOURCE_EXHAUSTED with a delay.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match (self.0.origin, self.0.code) {
            (Origin::Local, _) => false,
            (Origin::Connect | Origin::Transport, _) | (Origin::Server, Code::Unavailable) => true,
            (Origin::Server, Code::ResourceExhausted) => self.0.retry_after.is_some(),
            (Origin::Server, _) => self.0.retryable || self.is_from_load_balancer(),
        }
    }
}

impl StdError for Error {}

/// The text of the last error of the chain, which usually comes from the operating system.
pub(super) fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}
