//! Requests that are not what gRPC asks for: another content type, a message too many, none.

use bytes::Bytes;
use prost::Message;
use streamway::proto::v1::{GetTopicRequest, ListTopicsRequest};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::harness::make::{earliest, publish, published, records, subscribe};
use crate::harness::{Server, raw, read_all, refused, within};

const PUBLISH: &str = "/streamway.v1.StreamService/Publish";

/// The HTTP status of a publish with these headers, and what is said beside it.
async fn answer(server: &Server, kind: Option<&str>, body: Vec<u8>) -> (http::StatusCode, String) {
    let tcp = tokio::net::TcpStream::connect(server.listen()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = http::Request::post(format!("http://streamway{PUBLISH}"));
    let request = kind.into_iter().fold(request, |request, kind| request.header("content-type", kind));
    let (response, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // Whoever was answered already need not take it.
    let _ = sending.send_data(Bytes::from(body), true);
    let response = within(10, "the answer", response).await.unwrap();
    let code = response.status();
    let mut said = Vec::new();
    let mut body = response.into_body();
    while let Some(Ok(bytes)) = within(10, "the body", body.data()).await {
        said.extend_from_slice(&bytes);
    }
    driving.abort();
    (code, String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn only_grpcs_content_types_are_answered_and_others_do_nothing() {
    let server = Server::start().await;
    let mut message = vec![0];
    let request = publish("t", records("x", 1)).encode_to_vec();
    message.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
    message.extend(request);
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
        let (code, said) = answer(&server, kind, message.clone()).await;
        assert_eq!(code.as_u16(), 415, "{kind:?}");
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
