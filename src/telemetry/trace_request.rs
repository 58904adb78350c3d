//! Spans of the requests of the HTTP listener, by the semantic conventions of HTTP. Calls of gRPC-Web have the spans of calls.

use std::net::SocketAddr;

use http::request::Parts;
use opentelemetry::KeyValue;
use opentelemetry::trace::Status;

use super::names as n;
use super::requests::Requests;
use super::trace::Call;

/// Begins the span of a request to the route of this template, which is none for paths that belong to no route.
#[must_use]
pub fn begin_request(
    request: &Parts,
    route: Option<&'static str>,
    scheme: &'static str,
    peer: Option<SocketAddr>,
) -> Call {
    let method = Requests::method(request.method.as_str());
    let name = || match route {
        Some(route) => format!("{} {route}", method_in_name(method)).into(),
        None => method_in_name(method).into(),
    };
    let attributes = || {
        let mut attributes = vec![
            KeyValue::new(n::HTTP_METHOD, method),
            KeyValue::new(n::URL_SCHEME, scheme),
            KeyValue::new(n::URL_PATH, request.uri.path().to_owned()),
        ];
        attributes.extend(route.map(|route| KeyValue::new(n::HTTP_ROUTE, route)));
        attributes
    };
    Call::begin_named(name, attributes, &request.headers, peer)
}

/// Ends the span of a request; without a status, its peer went away before there was an answer.
pub fn end_request(call: &Call, status: Option<u16>) {
    let Some(span) = call.span() else { return };
    if let Some(status) = status {
        span.set_attribute(KeyValue::new(n::HTTP_STATUS, i64::from(status)));
        // An error of the client's is none of the server's span.
        if status >= 500 {
            span.set_attribute(KeyValue::new(n::ERROR_TYPE, status.to_string()));
            span.set_status(Status::error(""));
        }
    }
    span.end();
}

/// Returns the method as it stands in the name of a span.
fn method_in_name(method: &'static str) -> &'static str {
    if method == Requests::METHOD_OTHER { "HTTP" } else { method }
}
