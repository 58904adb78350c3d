//! The making of errors from gRPC statuses.

use std::error::Error as StdError;
use std::sync::Arc;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::error::{Error, Inner, Origin, deepest};
use super::tls;

impl Error {
    /// The error of a call to `endpoint` that ended with this status.
    #[must_use]
    pub fn from_status(status: &Status, endpoint: &str) -> Self {
        if let Some(origin) = transport_origin(status) {
            let cause = status.source().map_or_else(|| status.message().to_owned(), deepest);
            let tls_hint = status.source().and_then(|error| tls::hint(error, &cause));
            // With TLS 1.3 a server can refuse the handshake after the client has finished it.
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
}

/// Messages of the stubs for a channel that is gone, and for an answer that ends without a status, as HAProxy ends it
/// when its server dies. Both come without a source.
const BROKEN: [&str; 2] = ["Service was not ready", "protocol error: missing grpc-status trailer"];

/// The origin of a status that this process made of a broken transport; none for a status that the server sent, which
/// has no source.
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

/// Returns true if the peer refused the HTTP/2 stream before doing anything with it.
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

#[cfg(test)]
mod tests {
    use crate::client::error::{Error, Origin};
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
        // Load balancers answer so for a server that went away; a server itself gives a reason.
        for code in [Code::Cancelled, Code::Internal, Code::Unknown] {
            assert!(of(&Status::new(code, "x")), "{code:?}");
            let ours = ErrorDetails::with_error_info("INTERNAL", "streamway", HashMap::new());
            let with_reason = of(&Status::with_error_details(code, "x", ours));
            assert_eq!(with_reason, code == Code::Cancelled, "{code:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_distinct_from_an_answer_of_a_server() {
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

    /// HAProxy answers so while it has no server.
    #[tokio::test]
    async fn a_refused_stream_is_a_server_that_is_temporarily_away() {
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
        assert!(error.is_retryable() && error.reached_server(), "{error}");
        let broken = Error::transport("gone");
        assert!(broken.is_retryable() && !broken.reached_server());
        server.abort();
    }

    /// HAProxy answers so when its server dies.
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
