//! Peers that no client library can imitate: bytes that are no message, a subscriber that never reads, and a publisher that
//! sends everything at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// Codec that sends and receives messages as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(method.to_owned()).expect("a path")
}

async fn grpc(channel: Channel) -> tonic::client::Grpc<Channel> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("connected");
    grpc
}

/// Makes a unary call with these bytes as its message.
pub async fn unary(channel: Channel, method: &str, message: Vec<u8>) -> Result<Response<Bytes>, Status> {
    grpc(channel).await.unary(Request::new(message), path(method), RawCodec).await
}

/// Makes a streaming call with these messages.
pub async fn streaming(
    channel: Channel,
    method: &str,
    messages: Vec<Vec<u8>>,
) -> Result<Response<Streaming<Bytes>>, Status> {
    let messages = tokio_stream::iter(messages);
    grpc(channel).await.streaming(Request::new(messages), path(method), RawCodec).await
}

/// TCP peer that subscribed, granted the largest windows, and never reads a byte until it is dropped.
pub struct NeverReads(#[expect(dead_code, reason = "held open")] TcpStream);

impl NeverReads {
    pub fn subscribe(at: SocketAddr, request: &streamway::proto::v1::SubscribeRequest) -> Self {
        // SETTINGS_INITIAL_WINDOW_SIZE = 2^31 - 1, and the same for the connection.
        let mut out = preface(&[0, 4, 0x7f, 0xff, 0xff, 0xff]);
        frame(&mut out, 8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
        call(&mut out, at, "/streamway.v1.StreamService/Subscribe", request);
        Self(sent(at, &out))
    }
}

/// TCP peer that sends a whole publish without waiting for the server.
pub struct PublishesAtOnce(TcpStream);

impl PublishesAtOnce {
    pub fn new(at: SocketAddr, request: &streamway::proto::v1::PublishRequest) -> Self {
        let mut out = preface(&[]);
        call(&mut out, at, "/streamway.v1.StreamService/Publish", request);
        Self(sent(at, &out))
    }

    /// Waits for the answer, blocking. Returns true if it is a receipt and not a refusal.
    pub fn acknowledged(mut self) -> std::io::Result<bool> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head)?;
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload)?;
            match (kind, flags) {
                // A receipt is a DATA frame and then HEADERS that end the stream.
                (0, _) => return Ok(true),
                (1, flags) if flags & 0x1 != 0 => return Ok(false),
                _ => {}
            }
        }
    }
}

fn sent(at: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut tcp = TcpStream::connect(at).expect("connected");
    tcp.write_all(bytes).expect("sent");
    tcp
}

/// Preface of a client with these settings.
fn preface(settings: &[u8]) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, 4, 0, 0, settings);
    out
}

/// Frames of a complete call with one message.
fn call(out: &mut Vec<u8>, at: SocketAddr, method: &str, request: &impl Message) {
    let authority = at.to_string();
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", authority.as_str()),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    frame(out, 1, 0x4, 1, &literal_headers(&headers));
    let mut data = vec![0];
    data.put_u32(u32::try_from(request.encoded_len()).expect("small"));
    request.encode(&mut data).expect("room");
    frame(out, 0, 0x1, 1, &data);
}

pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.extend_from_slice(&[kind, flags]);
    out.put_u32(stream);
    out.extend_from_slice(payload);
}

/// Headers in HPACK's simplest form: literal fields without indexing, with lengths under 127 in one byte.
pub fn literal_headers(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
