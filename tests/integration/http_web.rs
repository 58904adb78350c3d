//! gRPC-Web: every service, over HTTP/1.1, in its binary and its text form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use streamway::proto::v1::{GetTopicRequest, ListTopicsRequest, PublishResponse, SubscribeResponse};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::Server;
use crate::harness::make::{history, publish, records};
use crate::harness::web::{Answer, ask};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

/// Messages and trailers of an answer; those of an error that has no message are headers.
fn parts(answer: &Answer, mut bytes: &[u8]) -> (Vec<Vec<u8>>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while let [flag, a, b, c, d, rest @ ..] = bytes {
        let (frame, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match flag {
            0 => messages.push(frame.to_vec()),
            0x80 => trailers.push_str(std::str::from_utf8(frame).unwrap()),
            flag => panic!("flag {flag}"),
        }
        bytes = after;
    }
    if trailers.is_empty() {
        trailers = format!("grpc-status:{}\r\n", answer.header("grpc-status"));
    }
    (messages, trailers)
}

async fn call(server: &Server, method: &str, message: &impl Message) -> (Vec<Vec<u8>>, String) {
    let line = format!("POST /streamway.v1.{method}");
    let answer = ask(server.http(), &line, &[("content-type", BINARY)], framed(message)).await;
    assert_eq!((answer.code, answer.header("content-type")), (200, BINARY));
    parts(&answer, &answer.body)
}

#[tokio::test]
async fn unary_and_server_streaming_calls_are_answered_with_trailers_in_the_body() {
    let server = Server::start().await;
    let (messages, trailers) = call(&server, "StreamService/Publish", &publish("t", records("x", 3))).await;
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    let receipt = PublishResponse::decode(&messages[0][..]).unwrap().receipt.unwrap();
    assert_eq!(receipt.next.unwrap().offset, 3);

    let (messages, trailers) = call(&server, "StreamService/Subscribe", &history("t")).await;
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    let records: usize = messages
        .iter()
        .flat_map(|message| SubscribeResponse::decode(&message[..]).unwrap().batches)
        .map(|batch| batch.records.len())
        .sum();
    assert_eq!(records, 3);
}

#[tokio::test]
async fn an_error_has_its_details_in_the_headers_that_other_origins_may_read() {
    let server = Server::with(&["--http-origins", "https://app.example"]).await;
    let headers =
        [("content-type", BINARY), ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
    let request = framed(&GetTopicRequest { name: "none".into() });
    let answer = ask(server.http(), "POST /streamway.v1.TopicService/GetTopic", &headers, request).await;
    let status = tonic::Status::from_header_map(&answer.headers).unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.get_details_error_info().unwrap().reason, "TOPIC_NOT_FOUND");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert!(answer.header("access-control-expose-headers").contains("grpc-status-details-bin"));
}

#[tokio::test]
async fn text_is_base64_in_both_directions() {
    let server = Server::start().await;
    let body = STANDARD.encode(framed(&publish("t", records("x", 2))));
    let headers = [("content-type", TEXT), ("accept", TEXT)];
    let answer = ask(server.http(), "POST /streamway.v1.StreamService/Publish", &headers, body).await;
    assert!(answer.header("content-type").starts_with(TEXT), "{}", answer.header("content-type"));
    // Each frame of the answer is padded by itself.
    let text = answer.text();
    let pieces = text.as_bytes().chunks(4).map(|piece| STANDARD.decode(piece).unwrap());
    let (messages, trailers) = parts(&answer, &pieces.flatten().collect::<Vec<_>>());
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    assert_eq!(PublishResponse::decode(&messages[0][..]).unwrap().receipt.unwrap().first_offset, 0);
    let bad = ask(server.http(), "POST /streamway.v1.StreamService/Publish", &headers, "!!!!").await;
    let status = tonic::Status::from_header_map(&bad.headers).unwrap();
    assert_eq!(
        (status.code(), status.get_details_error_info().unwrap().reason),
        (Code::InvalidArgument, "MALFORMED_MESSAGE".into())
    );
}

#[tokio::test]
async fn only_the_four_content_types_and_post_reach_a_call() {
    let server = Server::start().await;
    let message = framed(&publish("t", records("x", 1)));
    for kind in [
        "application/grpc",
        "application/grpc-web+json",
        "application/grpc-web; x=y",
        "Application/gRPC-Web",
        "text/plain",
        "application/x-www-form-urlencoded",
    ] {
        let line = "POST /streamway.v1.StreamService/Publish";
        let answer = ask(server.http(), line, &[("content-type", kind)], message.clone()).await;
        assert_eq!(answer.problem(), (415, "UNSUPPORTED_MEDIA_TYPE".into()), "{kind}");
    }
    let line = "GET /streamway.v1.StreamService/Publish";
    let answer = ask(server.http(), line, &[("content-type", BINARY)], "").await;
    assert_eq!((answer.problem().0, answer.header("allow")), (405, "POST"));
    let (messages, _) = call(&server, "TopicService/ListTopics", &ListTopicsRequest::default()).await;
    assert_eq!(messages, [b""], "none of them published");
}
