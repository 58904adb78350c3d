//! What went wrong, as the server said it (`google.rpc` details) or as the transport broke.
//! Never: decides about a retry's time (see `retry`), or hides what the server said.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::printable::printable;

/// Where an error comes from: it decides whether repeating can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The request never left: this library refused it.
    Local,
    /// No connection could be made.
    Connect,
    /// A connection broke under the call, or fell silent.
    Transport,
    /// The server answered with this error.
    Server,
}

#[derive(Clone, Debug)]
struct Inner {
    origin: Origin,
    code: Code,
    message: String,
    reason: Option<String>,
    metadata: BTreeMap<String, String>,
    violations: Vec<(String, String)>,
    retry_after: Option<Duration>,
    /// Something has changed since that makes another try worth it.
    retryable: bool,
    /// The peer refused the stream, and has done nothing of the call.
    is_refused_stream: bool,
    /// What TLS says about it.
    tls_hint: Option<&'static str>,
}

/// Why a call failed. Cheap to clone: everything that was pending gets the same one.
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>);

impl Error {
    /// A request this library refuses by itself; nothing was sent.
    pub(crate) fn local(code: Code, message: impl Into<String>) -> Self {
        Self::of(Origin::Local, code, message)
    }

    /// A connection that broke or fell silent.
    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self::of(Origin::Transport, Code::Unavailable, message)
    }

    fn of(origin: Origin, code: Code, message: impl Into<String>) -> Self {
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

    /// The same, and another try can help although its code says no.
    pub(crate) fn retryable(mut self) -> Self {
        Arc::make_mut(&mut self.0).retryable = true;
        self
    }

    /// Decodes what a call to `endpoint` ended with.
    #[must_use]
    pub fn from_status(status: &Status, endpoint: &str) -> Self {
        if let Some(origin) = transport_origin(status) {
            let cause = status.source().map_or_else(|| status.message().to_owned(), deepest);
            let tls_hint = status.source().and_then(|error| super::tls::hint(error, &cause));
            // A handshake that is refused afterwards (TLS 1.3) made no connection either.
            let origin = if tls_hint.is_some() { Origin::Connect } else { origin };
            let message = match origin {
                Origin::Connect => format!("cannot reach {endpoint}: {cause}"),
                _ => format!("connection to {endpoint} broke: {cause}"),
            };
            let mut error = Self::of(origin, Code::Unavailable, message);
            let inner = Arc::make_mut(&mut error.0);
            (inner.tls_hint, inner.is_refused_stream) = (tls_hint, is_refused_stream(status));
            return error;
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|bad| {
            bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect()
        });
        Self(Arc::new(Inner {
            origin: Origin::Server,
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: violations.unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            retryable: false,
            is_refused_stream: false,
            tls_hint: None,
        }))
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The gRPC code; `Unavailable` for a broken transport.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the server or the transport said, without reason or hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// `ErrorInfo.reason`, `TOPIC_NOT_FOUND` for one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// `ErrorInfo.metadata`: `side_effects`, `resume_offset`, `earliest_offset`, `tail`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// The fields `BadRequest` names, with what is wrong with each.
    #[must_use]
    pub fn violations(&self) -> &[(String, String)] {
        &self.0.violations
    }

    /// How long `RetryInfo` asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether it comes from a server, or from a load balancer that has none to send the call to for now: more
    /// than an address where nobody answers.
    pub(crate) fn is_of_a_server(&self) -> bool {
        self.0.is_refused_stream || (self.0.origin == Origin::Server && !self.is_nobodys())
    }

    /// Whether it is what load balancers make of a server that went away: CANCELLED, which no server of ours
    /// says and nobody here asked for, or an INTERNAL or UNKNOWN without the `ErrorInfo` of our servers.
    fn is_nobodys(&self) -> bool {
        let code = match self.0.code {
            Code::Cancelled => true,
            Code::Internal | Code::Unknown => self.0.reason.is_none(),
            _ => false,
        };
        code && self.0.origin == Origin::Server
    }

    /// Whether repeating the call, or resuming it, can help: a broken transport, UNAVAILABLE, what load
    /// balancers make of either (docs/errors.md has the rule), and RESOURCE_EXHAUSTED where the server says
    /// when.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match (self.0.origin, self.0.code) {
            (Origin::Local, _) => false,
            (Origin::Connect | Origin::Transport, _) | (Origin::Server, Code::Unavailable) => true,
            (Origin::Server, Code::ResourceExhausted) => self.0.retry_after.is_some(),
            (Origin::Server, _) => self.0.retryable || self.is_nobodys(),
        }
    }

    fn line(&self) -> String {
        let message = self.0.message.trim_end_matches('.');
        let mut line = if message.is_empty() { self.0.code.description() } else { message }.to_owned();
        if self.0.origin == Origin::Server {
            match self.reason() {
                Some(reason) => line.push_str(&format!(" [{reason}]")),
                None => line.push_str(&format!(" [{:?}]", self.0.code)),
            }
        }
        for (field, description) in self.0.violations.iter().filter(|(_, text)| !message.contains(text)) {
            line.push_str(&format!("; {field}: {description}"));
        }
        if let Some(hint) = self.hint() {
            line.push_str(&format!("; {hint}"));
        }
        line
    }

    /// What a person can do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Some(hint) = self.0.tls_hint {
            return Some(hint.to_owned());
        }
        let about = |key: &str| self.0.metadata.get(key).map_or("?", String::as_str);
        let hint = match (self.0.origin, self.reason()) {
            (Origin::Connect, _) => "is the server running, and is this its address?".into(),
            (_, Some("TOPIC_NOT_FOUND")) => "check the topic's name, or create it first".into(),
            (_, Some("TOPIC_ALREADY_EXISTS")) => "update it, or delete it first".into(),
            (_, Some("TOPIC_LIMIT")) => "delete a topic, or raise the server's topics_max".into(),
            (_, Some("OFFSET_TRIMMED" | "OFFSET_BEYOND_TAIL")) => {
                format!("the topic holds offsets {} to {}", about("earliest_offset"), about("tail"))
            }
            (_, Some("EPOCH_CHANGED")) => "start over from the topic's beginning".into(),
            (_, Some("REQUEST_ID_REUSED")) => {
                "an id is for one batch: this input or the --batch options differ from the first run, or two \
                 imports have one name"
                    .into()
            }
            (_, Some("BATCH_TOO_LARGE" | "MESSAGE_TOO_LARGE")) => {
                "send fewer or smaller records at once, or raise the server's limits".into()
            }
            (_, Some("DISK_FULL")) => "make space on the server's disk".into(),
            (_, Some("DATA_DAMAGED" | "INTERNAL" | "STORAGE_UNAVAILABLE")) => {
                "look at the server's log".into()
            }
            (_, Some("UNAUTHENTICATED")) => "present a valid identity".into(),
            (Origin::Server, None) if self.0.code == Code::Unimplemented => {
                "is this a streamway server, and as new as this client?".into()
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// One line: what happened, the reason or code, the fields at fault, and a hint. What a server chose of
/// it is escaped where a terminal would obey it.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.line()))
    }
}

impl StdError for Error {}

/// What the stubs say where the channel itself is gone, and where an answer ends without a status, as HAProxy
/// ends it when its server dies. Both come without a source.
const BROKEN: [&str; 2] = ["Service was not ready", "protocol error: missing grpc-status trailer"];

/// Statuses the server sent carry no source; those made here from a broken transport do.
fn transport_origin(status: &Status) -> Option<Origin> {
    let mut source = status.source();
    if source.is_none() {
        let says = |text: &&str| status.message().starts_with(text);
        let broken = status.code() == Code::Unknown && BROKEN.iter().any(says);
        return broken.then_some(Origin::Transport);
    }
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return Some(Origin::Connect);
        }
        source = error.source();
    }
    Some(Origin::Transport)
}

/// Whether HTTP/2 says that the stream was refused before anything was done with it.
fn is_refused_stream(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        if reason == Some(h2::Reason::REFUSED_STREAM) {
            return true;
        }
        source = error.source();
    }
    false
}

/// The last error of the chain: the operating system's own words, as a rule.
pub(super) fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::{Error, Origin};
    use std::collections::HashMap;
    use std::time::Duration;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn details_of_the_server_are_decoded() {
        let mut details = ErrorDetails::new();
        let about = [("earliest_offset", "42"), ("tail", "50")];
        let metadata = HashMap::from(about.map(|(key, value)| (key.to_owned(), value.to_owned())));
        details.set_error_info("OFFSET_TRIMMED", "streamway", metadata);
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::OutOfRange, "offset 1 is no longer kept", details);
        let error = Error::from_status(&status, "http://x");
        assert_eq!((error.origin(), error.code()), (Origin::Server, Code::OutOfRange));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert!(!error.is_retryable());
        assert_eq!(
            error.to_string(),
            "offset 1 is no longer kept [OFFSET_TRIMMED]; the topic holds offsets 42 to 50"
        );
    }

    #[test]
    fn what_a_hostile_server_says_moves_no_terminal() {
        let bad = "\x1b]0;x\x07\u{9b}2J\x7f\u{202e}\n";
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("tail".to_owned(), bad.to_owned())]);
        details.set_error_info(format!("OFFSET_TRIMMED{bad}"), bad, metadata.clone());
        details.add_bad_request_violation(format!("field{bad}"), format!("wrong{bad}"));
        let known = ErrorDetails::with_error_info("OFFSET_TRIMMED", "streamway", metadata);
        for details in [details, known] {
            let status = Status::with_error_details(Code::OutOfRange, format!("message{bad}"), details);
            let shown = Error::from_status(&status, "http://x").to_string();
            assert!(!shown.contains(crate::client::is_obeyed), "{shown:?}");
            assert!(shown.contains("\\u{1b}]0;x\\u{7}"), "{shown}");
        }
    }

    #[test]
    fn only_unavailable_and_timed_refusals_are_repeated() {
        let of = |status: &Status| Error::from_status(status, "http://x").is_retryable();
        assert!(of(&Status::unavailable("draining")));
        assert!(!of(&Status::resource_exhausted("quota")));
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_secs(1)));
        assert!(of(&Status::with_error_details(Code::ResourceExhausted, "busy", details)));
        for code in [Code::NotFound, Code::DataLoss, Code::Aborted, Code::Unimplemented] {
            assert!(!of(&Status::new(code, "x")), "{code:?}");
        }
        // What load balancers make of a server that went away; the server itself says a reason.
        for code in [Code::Cancelled, Code::Internal, Code::Unknown] {
            assert!(of(&Status::new(code, "x")), "{code:?}");
            let ours = ErrorDetails::with_error_info("INTERNAL", "streamway", HashMap::new());
            let with_reason = of(&Status::with_error_details(code, "x", ours));
            assert_eq!(with_reason, code == Code::Cancelled, "{code:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_from_a_servers_answer() {
        use crate::proto::v1::topic_service_client::TopicServiceClient;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap().connect_lazy();
        let status = TopicServiceClient::new(channel)
            .get_topic(crate::proto::v1::GetTopicRequest::default())
            .await
            .unwrap_err();
        let error = Error::from_status(&status, &address);
        assert_eq!(error.origin(), Origin::Connect);
        assert!(error.to_string().starts_with(&format!("cannot reach {address}: ")), "{error}");
        assert!(error.is_retryable());
    }

    /// HAProxy ends a stream so where it has no server to send it to.
    #[tokio::test]
    async fn a_refused_stream_is_a_server_that_is_away_for_a_while() {
        use crate::proto::v1::SubscribeRequest;
        use crate::proto::v1::stream_service_client::StreamServiceClient;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        });
        let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap().connect_lazy();
        let refused = StreamServiceClient::new(channel).subscribe(SubscribeRequest::default()).await;
        let error = Error::from_status(&refused.unwrap_err(), &address);
        assert!(error.is_retryable() && error.is_of_a_server(), "{error}");
        let broken = Error::transport("gone");
        assert!(broken.is_retryable() && !broken.is_of_a_server());
        server.abort();
    }

    /// HAProxy ends a stream so when its server dies.
    #[tokio::test]
    async fn an_answer_that_ends_without_a_status_is_a_broken_connection() {
        use crate::proto::v1::SubscribeRequest;
        use crate::proto::v1::stream_service_client::StreamServiceClient;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            respond.send_response(head, false).unwrap().send_data(bytes::Bytes::new(), true).unwrap();
            connection.accept().await
        });
        let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap().connect_lazy();
        let mut client = StreamServiceClient::new(channel);
        let mut stream = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
        let error = Error::from_status(&stream.message().await.unwrap_err(), &address);
        assert!(error.origin() == Origin::Transport && error.is_retryable(), "{error}");
        server.abort();
    }
}
