//! The server enforces the deadline of a call, whether or not its client does.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use tokio::net::TcpStream;

use crate::harness::make::{ingest, open, publish, published, records};
use crate::harness::{Server, read_all, within};
use prost::Message;
use streamway::proto::v1::{ExchangeRequest, SubscribeRequest};

fn framed(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    [&[0][..], &(body.len() as u32).to_be_bytes(), &body].concat().into()
}

/// Starts a call with a timeout that its client never ends; returns its status.
async fn left_open(server: &Server, method: &str, first: Bytes, half_close: bool) -> String {
    let address = server.listen();
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let uri: Uri = format!("http://{address}{method}").parse().unwrap();
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "700m")
        .body(())
        .unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    stream.send_data(first, half_close).unwrap();
    let response = response.await.unwrap();
    let status = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    let in_headers = status(response.headers());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.unwrap();
    connection.abort();
    in_headers.or_else(|| status(&trailers.unwrap_or_default())).expect("a status")
}

const DEADLINE_EXCEEDED: &str = "4";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_client_leaves_open_ends_at_its_deadline() {
    let server = Server::start().await;
    published(&mut server.client().await, "t", records("x", 1)).await;
    let subscribe = SubscribeRequest { topic: "t".into(), ..SubscribeRequest::default() };
    let opened: ExchangeRequest = open("t");
    let stored = ingest(publish("t", records("y", 2)));
    let check = tonic_health::pb::HealthCheckRequest::default();
    for (method, first, half_close) in [
        ("/streamway.v1.StreamService/Subscribe", framed(&subscribe), true),
        ("/streamway.v1.StreamService/Exchange", framed(&opened), false),
        ("/streamway.v1.StreamService/Ingest", framed(&stored), false),
        ("/grpc.health.v1.Health/Watch", framed(&check), true),
    ] {
        let begun = std::time::Instant::now();
        let status = within(20, method, left_open(&server, method, first, half_close)).await;
        assert_eq!(status, DEADLINE_EXCEEDED, "{method}");
        assert!(begun.elapsed() >= Duration::from_millis(700), "{method}: not before it");
    }
    // Batches sent by the Ingest before are stored.
    let seen = read_all(&mut server.client().await, "t").await;
    assert_eq!(seen.len(), 3);
}
