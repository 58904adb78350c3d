//! Checks of a request before a service sees it: it is gRPC by its method and its content type, which a page of another
//! site cannot have a browser send without asking, and it has one message where its method takes one.

use std::task::{Poll, ready};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tonic::body::Body;
use tonic::{Code, Status};

use super::framing::Framing;
use crate::service::body_fn;
use crate::service::status::{self, Error};

/// The content type of gRPC, which a suffix or a parameter may follow.
const GRPC: &[u8] = b"application/grpc";

/// Methods whose requests are streams.
const CLIENT_STREAMING: [&str; 10] = [
    "/streamway.v1.GroupService/Consume",
    "/streamway.v1.GroupService/RestoreGroup",
    "/streamway.v1.StreamService/Ingest",
    "/streamway.v1.StreamService/Exchange",
    "/example.MyService/ClientStreamingRPCMethod",
    "/example.MyService/BidirectionalStreamingRPCMethod",
    "/MyService/ClientStreamingRPCMethod",
    "/MyService/BidirectionalStreamingRPCMethod",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Returns the request for a service, or the answer to a request that none may see.
pub(super) fn checked(request: Request<Body>) -> Result<Request<Body>, Box<Response<Body>>> {
    if request.method() != Method::POST {
        let mut answer =
            refused(StatusCode::METHOD_NOT_ALLOWED, "this port speaks gRPC, whose method is POST");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Err(Box::new(answer));
    }
    if !is_grpc(request.headers()) {
        let why = "this port speaks gRPC: content-type application/grpc";
        return Err(Box::new(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)));
    }
    if CLIENT_STREAMING.contains(&request.uri().path()) {
        return Ok(request);
    }
    Ok(request.map(one_message))
}

/// Returns true for the content type `application/grpc`, with or without `+proto` or a parameter. gRPC-Web, whose name
/// begins the same, is another protocol.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let Some((name, rest)) = kind.split_at_checked(GRPC.len()) else { return false };
    name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Makes the answer to a request that is not gRPC. Its HTTP status keeps others from taking a 200 for success, as gRPC
/// over HTTP/2 asks; it has the headers of a gRPC status too.
fn refused(code: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(format!("{why}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let status = status::status(&Error::Protocol(why.to_owned()), &status::Context::default());
    if status.add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::InvalidArgument as i32));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Makes the body fail at the first byte behind its first message.
fn one_message(body: Body) -> Body {
    let mut message = OneMessage::default();
    body_fn(body, move |body, cx| {
        let frame = ready!(body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && !message.takes(bytes)
        {
            let error = Error::Protocol("a second message, where the method takes one".to_owned());
            return Poll::Ready(Some(Err(status::status(&error, &status::Context::default()))));
        }
        Poll::Ready(frame)
    })
}

#[derive(Debug, Default)]
struct OneMessage {
    framing: Framing,
    is_complete: bool,
}

impl OneMessage {
    /// Takes more bytes; returns whether all of them still belong to the first message.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() || self.is_complete {
            return bytes.is_empty();
        }
        let taken = self.framing.take(bytes);
        self.is_complete = self.framing.is_between();
        taken == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{CLIENT_STREAMING, OneMessage, is_grpc};
    use http::{HeaderMap, HeaderValue, header};
    use prost::Message;
    use std::collections::BTreeSet;

    #[test]
    fn only_the_content_types_of_grpc_are_accepted() {
        for (kind, accepted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("Application/gRPC", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("text/plain", false),
            ("text/plain; application/grpc", false),
            ("multipart/form-data", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), accepted, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    /// The protos of our own services and of health and reflection list these methods.
    #[test]
    fn the_client_streaming_methods_are_those_of_the_protos() {
        let set = |bytes| prost_types::FileDescriptorSet::decode(bytes).unwrap();
        let files = [crate::proto::DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET]
            .into_iter()
            .flat_map(|bytes| set(bytes).file);
        let mut expected = BTreeSet::new();
        for file in files {
            for service in &file.service {
                for method in service.method.iter().filter(|method| method.client_streaming()) {
                    expected.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    if file.package() == "example" {
                        expected.insert(format!("/{}/{}", service.name(), method.name()));
                    }
                }
            }
        }
        for version in ["v1", "v1alpha"] {
            expected.insert(format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
        }
        assert_eq!(CLIENT_STREAMING.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn one_message_is_accepted_however_it_is_cut_and_no_byte_more() {
        for len in [0_usize, 1, 300] {
            let mut bytes = vec![0];
            bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
            bytes.resize(5 + len, 7);
            for size in 1..=bytes.len() {
                let mut body = OneMessage::default();
                assert!(bytes.chunks(size).all(|piece| body.takes(piece)), "{len} in pieces of {size}");
                assert!(!body.takes(&[0]));
            }
            let mut body = OneMessage::default();
            bytes.push(0);
            assert!(!body.takes(&bytes));
        }
    }
}
