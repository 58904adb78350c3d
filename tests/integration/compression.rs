//! Compressed messages for clients that ask for them; decompression bombs and corrupt compressed bytes (P9).

use bytes::Bytes;
use streamway::client::{Client, Compression, Options, PublisherOptions, Record, SubscriberOptions};
use streamway::proto::v1::stream_service_client::StreamServiceClient;
use tonic::codec::CompressionEncoding::{self, Gzip, Zstd};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::frames::{Honest, Usage};
use crate::harness::make::{history, ingest, numbered, open, publish, record, to_tail};
use crate::harness::proxy::Proxy;
use crate::harness::{Server, StreamClient, read_all, refused};

const PUBLISH: &str = "/streamway.v1.StreamService/Publish";
/// Memory that a bomb may cost the server, in MiB: a few times the largest message.
const GROWTH_MAX: u64 = 64;

async fn speaking(server: &Server, encoding: CompressionEncoding) -> StreamClient {
    let client: StreamServiceClient<Channel> = server.client().await;
    client.send_compressed(encoding).accept_compressed(encoding)
}

/// Sends a request with one message of this flag and these bytes; returns the status from the answer's headers.
async fn answer(server: &Server, encoding: Option<&str>, flag: u8, message: &[u8]) -> (Status, String) {
    let tcp = tokio::net::TcpStream::connect(server.listen()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://streamway{PUBLISH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut bytes = vec![flag];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    body.send_data(Bytes::from(bytes), true).unwrap();
    let response = response.await.unwrap();
    driving.abort();
    let headers = response.headers();
    let accepted = headers.get("grpc-accept-encoding").map_or("", |value| value.to_str().unwrap());
    (Status::from_header_map(headers).expect("a status"), accepted.to_owned())
}

#[tokio::test]
async fn a_client_that_compresses_is_answered_compressed_in_the_same_way() {
    let server = Server::start().await;
    let value = "the same words again and again ".repeat(1000);
    for encoding in [Gzip, Zstd] {
        let topic = format!("in-{encoding}");
        let mut client = speaking(&server, encoding).await;
        let response = client.publish(publish(&topic, vec![record(value.as_str())])).await.unwrap();
        assert_eq!(response.metadata().get("grpc-encoding").unwrap(), &*encoding.to_string());
        let requests = tokio_stream::iter([ingest(publish(&topic, vec![record(value.as_str())]))]);
        client.ingest(requests).await.unwrap();
        let requests = [open(&topic), numbered(1, publish(&topic, vec![record(value.as_str())]))];
        let mut answers = client.exchange(tokio_stream::iter(requests)).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().receipts[0].number, 1);
        let response = client.subscribe(to_tail(history(&topic))).await.unwrap();
        assert_eq!(response.metadata().get("grpc-encoding").unwrap(), &*encoding.to_string());
        let seen = read_all(&mut client, &topic).await;
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|seen| seen.record.value == value.as_bytes()));
        // A client that does not ask gets uncompressed answers with the same records.
        let mut plain = server.client().await.accept_compressed(encoding);
        let response = plain.subscribe(to_tail(history(&topic))).await.unwrap();
        assert!(response.metadata().get("grpc-encoding").is_none(), "able is not asking");
        assert_eq!(read_all(&mut plain, &topic).await.len(), 3);
    }
}

#[tokio::test]
async fn the_client_library_compresses_both_ways() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.listen()).await;
    let value: &str = "the same words again and again ".repeat(1000).leak();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let options =
            Options { compression: Some(compression), ..Options::new(format!("http://{}", proxy.at)) };
        let client = Client::new(options).unwrap();
        let topic = format!("library-{compression}");
        let publisher = client.publisher(&topic, PublisherOptions::default()).unwrap();
        for _ in 0..50 {
            publisher.publish(&Record::new(value)).await.unwrap().await.unwrap();
        }
        let mut subscriber = client.subscribe(SubscriberOptions::from_earliest(&topic));
        let mut seen = 0;
        while seen < 50 {
            let delivery = subscriber.next().await.expect("it goes on").unwrap();
            for read in delivery.records() {
                assert_eq!(read.unwrap().value, value.as_bytes());
                seen += 1;
            }
        }
    }
    let (sent, forwarded) = (2 * 2 * 50 * value.len() as u64, proxy.forwarded_bytes());
    assert!(forwarded < sent / 20, "{forwarded} bytes for {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zip_bomb_is_too_large_and_costs_a_bounded_amount_of_memory() {
    let server = Server::start().await;
    let (honest, before, mut attempts) = (Honest::start(&server).await, Usage::of(&server), 0);
    let bomb = || publish("bomb", vec![record(vec![0; 16 << 20])]);
    for encoding in [Gzip, Zstd] {
        let mut client = speaking(&server, encoding).await;
        for _ in 0..5 {
            let status = client.publish(bomb()).await.unwrap_err();
            refused(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
            attempts += 1;
        }
        let status = client.ingest(tokio_stream::iter([ingest(bomb())])).await.unwrap_err();
        refused(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        let requests = tokio_stream::iter([open("bomb"), numbered(1, bomb())]);
        let mut answers = client.exchange(requests).await.unwrap().into_inner();
        let status = answers.message().await.unwrap_err();
        refused(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        attempts += 2;
    }
    assert!(Usage::of(&server).grown_mib(before) < GROWTH_MAX);
    honest.end("zip bomb", attempts, 3, &server, before).await;
}

#[tokio::test]
async fn what_does_not_decompress_is_malformed_and_an_unknown_encoding_says_what_is_known() {
    let server = Server::start().await;
    for encoding in ["gzip", "zstd"] {
        let (status, _) = answer(&server, Some(encoding), 1, b"neither of the two").await;
        refused(&status, Code::InvalidArgument, "MALFORMED_MESSAGE");
    }
    for encoding in [None, Some("identity")] {
        let (status, _) = answer(&server, encoding, 1, b"a flag and no encoding").await;
        refused(&status, Code::InvalidArgument, "MALFORMED_MESSAGE");
    }
    let (status, accepted) = answer(&server, Some("br"), 1, b"").await;
    assert_eq!((status.code(), accepted.as_str()), (Code::Unimplemented, "gzip,zstd,identity"));
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
