//! Requests that are not what gRPC asks for: another content type, a message too many, none.

use bytes::Bytes;
use prost::Message;
use streamway::proto::example::{MyRequest, my_service_client::MyServiceClient};
use streamway::proto::example::{Request as Echo, example_service_client::ExampleServiceClient};
use streamway::proto::v1::{CreateTopicRequest, GetTopicRequest, IngestRequest, ListTopicsRequest, Topic};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;

use crate::harness::make::{earliest, publish, published, records, subscribe};
use crate::harness::{Server, raw, read_all, refused, within};

const PUBLISH: &str = "/streamway.v1.StreamService/Publish";

/// The answer to a request of these headers and bytes: HTTP status, headers and trailers together, body.
async fn call(
    server: &Server,
    request: http::request::Builder,
    body: Vec<u8>,
) -> (http::StatusCode, http::HeaderMap, String) {
    let tcp = tokio::net::TcpStream::connect(server.listen()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let (response, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // A server that has answered already need not accept the body.
    let _ = sending.send_data(Bytes::from(body), true);
    let response = within(10, "the answer", response).await.unwrap();
    let (parts, mut body) = response.into_parts();
    let (mut said, mut headers) = (Vec::new(), parts.headers);
    while let Some(Ok(bytes)) = within(10, "the body", body.data()).await {
        said.extend_from_slice(&bytes);
    }
    headers.extend(body.trailers().await.ok().flatten().unwrap_or_default());
    driving.abort();
    (parts.status, headers, String::from_utf8_lossy(&said).into_owned())
}

fn post(path: &str) -> http::request::Builder {
    http::Request::post(format!("http://streamway{path}"))
}

/// The HTTP status of a publish with this content type, the reason in its details, and its body.
async fn answer(server: &Server, kind: Option<&str>, body: Vec<u8>) -> (http::StatusCode, String, String) {
    let request = kind.into_iter().fold(post(PUBLISH), |request, kind| request.header("content-type", kind));
    let (code, headers, said) = call(server, request, body).await;
    let status = Status::from_header_map(&headers).unwrap();
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    (code, reason, said)
}

/// A message with its prefix.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &len, message].concat()
}

#[tokio::test]
async fn only_grpcs_content_types_are_answered_and_others_do_nothing() {
    let server = Server::start().await;
    let message = framed(0, &publish("t", records("x", 1)).encode_to_vec());
    for kind in [
        Some("application/json"),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/grpc-web"),
        Some("application/grpc-web+proto"),
        Some("application/grpcs"),
        Some(""),
        None,
    ] {
        let (code, reason, said) = answer(&server, kind, message.clone()).await;
        assert_eq!((code.as_u16(), reason.as_str()), (415, "PROTOCOL_VIOLATION"), "{kind:?}");
        assert!(said.contains("application/grpc"), "{kind:?}: {said}");
    }
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, [], "no such request published");
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc; x=y"] {
        assert_eq!(answer(&server, Some(kind), message.clone()).await.0.as_u16(), 200, "{kind}");
    }
    assert_eq!(read_all(&mut server.client().await, "t").await.len(), 3);
}

#[tokio::test]
async fn a_second_message_where_a_method_takes_one_is_refused_and_nothing_is_stored() {
    let server = Server::start().await;
    published(&mut server.client().await, "t", records("x", 1)).await;
    let topic = GetTopicRequest { name: "t".into() };
    for (method, message) in [
        (PUBLISH, publish("t", records("y", 1)).encode_to_vec()),
        ("/streamway.v1.StreamService/Subscribe", subscribe("t", earliest()).encode_to_vec()),
        ("/streamway.v1.TopicService/GetTopic", topic.encode_to_vec()),
        ("/streamway.v1.TopicService/ListTopics", ListTopicsRequest::default().encode_to_vec()),
        ("/example.ExampleService/ProcessRequest", Vec::new()),
        ("/example.MyService/ServerStreamingRPCMethod", Vec::new()),
        ("/MyService/ServerStreamingRPCMethod", Vec::new()),
        ("/grpc.health.v1.Health/Check", HealthCheckRequest::default().encode_to_vec()),
    ] {
        for more in [message.clone(), Vec::new(), vec![0xff; 3]] {
            let messages = vec![message.clone(), more];
            let called = raw::streaming(server.channel().await, method, messages).await;
            let status = match called {
                Ok(answers) => within(10, method, answers.into_inner().message()).await.expect_err(method),
                Err(status) => status,
            };
            refused(&status, Code::InvalidArgument, "PROTOCOL_VIOLATION");
        }
    }
    assert_eq!(read_all(&mut server.client().await, "t").await.len(), 1, "none of them was stored");
}

#[tokio::test]
async fn only_post_is_answered_and_other_methods_do_nothing() {
    let server = Server::start().await;
    let message = framed(0, &publish("t", records("x", 1)).encode_to_vec());
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let request = http::Request::builder().method(method).uri(format!("http://streamway{PUBLISH}"));
        let request = request.header("content-type", "application/grpc");
        let (code, headers, _) = call(&server, request, message.clone()).await;
        assert_eq!((code.as_u16(), &headers["allow"]), (405, &"POST".parse().unwrap()), "{method}");
        let status = Status::from_header_map(&headers).unwrap();
        refused(&status, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    }
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, [], "no such request published");
}

#[tokio::test]
async fn malformed_timeouts_and_long_headers_are_refused_with_their_reason() {
    let server = Server::start().await;
    let message = framed(0, &publish("t", records("x", 1)).encode_to_vec());
    let long = "x".repeat(33 << 10);
    for (name, value, code, reason) in [
        ("grpc-timeout", "5", Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        ("grpc-timeout", "S", Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        ("grpc-timeout", "1.5S", Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        ("grpc-timeout", "123456789m", Code::InvalidArgument, "PROTOCOL_VIOLATION"),
        ("x-long", &long, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
    ] {
        let request = post(PUBLISH).header("content-type", "application/grpc").header(name, value);
        let (_, headers, _) = call(&server, request, message.clone()).await;
        refused(&Status::from_header_map(&headers).unwrap(), code, reason);
    }
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics, [], "none of them was published");
    let request = post(PUBLISH).header("content-type", "application/grpc").header("grpc-timeout", "5S");
    let (_, headers, _) = call(&server, request, message).await;
    assert_eq!(Status::from_header_map(&headers).unwrap().code(), Code::Ok);
}

/// Several members or frames of a compressed message are one message (RFC 1952, RFC 8878), and what is none of them
/// belongs to no message.
#[tokio::test]
async fn all_of_a_compressed_message_counts() {
    let server = Server::start().await;
    type Encoder = fn(&[u8]) -> Vec<u8>;
    let gzip: Encoder = |bytes| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap()
    };
    let zstd: Encoder = |bytes| zstd::encode_all(bytes, 1).unwrap();
    let encoders: [(&str, Encoder); 2] = [("gzip", gzip), ("zstd", zstd)];
    let ingest = "/streamway.v1.StreamService/Ingest";
    for (encoding, compressed) in encoders {
        let topic = format!("t-{encoding}");
        let one = publish(&topic, records("r", 2)).encode_to_vec();
        let nested = IngestRequest { publish: Some(publish(&topic, records("r", 2))) }.encode_to_vec();
        let created = Topic { name: format!("c-{encoding}"), ..Topic::default() };
        let create = CreateTopicRequest { topic: Some(created) }.encode_to_vec();
        let of = |path: &str| {
            post(path).header("content-type", "application/grpc").header("grpc-encoding", encoding)
        };
        for (path, message) in [(PUBLISH, &one), (ingest, &nested)] {
            let (first, second) = message.split_at(message.len() / 2);
            let both = [compressed(first), compressed(second)].concat();
            let (_, headers, _) = call(&server, of(path), framed(1, &both)).await;
            assert_eq!(Status::from_header_map(&headers).unwrap().code(), Code::Ok, "{encoding} {path}");
            let junk = [&compressed(message)[..], b"junk"].concat();
            let (_, headers, _) = call(&server, of(path), framed(1, &junk)).await;
            refused(&Status::from_header_map(&headers).unwrap(), Code::InvalidArgument, "MALFORMED_MESSAGE");
        }
        let junk = [&compressed(&create)[..], b"junk"].concat();
        let (_, headers, _) =
            call(&server, of("/streamway.v1.TopicService/CreateTopic"), framed(1, &junk)).await;
        refused(&Status::from_header_map(&headers).unwrap(), Code::InvalidArgument, "MALFORMED_MESSAGE");
        let seen = read_all(&mut server.client().await, &topic).await;
        let texts: Vec<_> = seen.iter().map(|seen| seen.text().to_owned()).collect();
        assert_eq!(texts, ["r0", "r1", "r0", "r1"], "{encoding}");
    }
    let list = server.topics().await.list_topics(ListTopicsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().topics.len(), 2, "no topic of a refused request");
}

/// The tutorial's answers repeat what they were sent; their messages are as large as any.
#[tokio::test]
async fn the_tutorials_messages_are_as_large_as_any() {
    let server = Server::start().await;
    let long = "x".repeat(3 << 20);
    let mut example = ExampleServiceClient::new(server.channel().await);
    for _ in 0..3 {
        let answer = example.process_request(Echo { message: long.clone() }).await.unwrap().into_inner();
        assert_eq!(answer.message.len(), "Received message: ".len() + long.len());
    }
    let mut mine = MyServiceClient::new(server.channel().await);
    let asked = tokio_stream::iter((0..5).map(|_| MyRequest { name: "y".repeat(1 << 20) }));
    let mut answers = mine.bidirectional_streaming_rpc_method(asked).await.unwrap().into_inner();
    for _ in 0..5 {
        assert!(answers.message().await.unwrap().unwrap().message.ends_with('y'));
    }
    // What is kept is bounded all the same: answers that nobody reads use up the connection's budget.
    let channel = server.channel().await;
    let mut held = Vec::new();
    let status = loop {
        let mut mine = MyServiceClient::new(channel.clone());
        match mine.server_streaming_rpc_method(MyRequest { name: long.clone() }).await {
            Ok(answers) => held.push(answers),
            Err(status) => break status,
        }
        assert!(held.len() < 20, "nothing bounds them");
    };
    refused(&status, Code::ResourceExhausted, "OVERLOADED");
    drop(held);
    let freed = async {
        while example.process_request(Echo { message: long.clone() }).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(20, "the budget to be free again", freed).await;
}
