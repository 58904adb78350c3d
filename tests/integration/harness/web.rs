//! A client of the HTTP listener, over HTTP/1.1.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;

use http::{HeaderMap, Request};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Server, within};

/// Answer of the HTTP listener.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// Value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// Body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Code and reason of a problem.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        (self.code, self.json()["reason"].as_str().unwrap_or_default().to_owned())
    }
}

/// Sends a request, as `GET /path`, on a connection of its own and waits for the whole answer. The header `host` is that of
/// the address unless another is given.
pub async fn ask(at: SocketAddr, line: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let (method, path) = line.split_once(' ').expect("METHOD /path");
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", at.to_string());
    }
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let body = Bytes(Some(body.into().into()));
    let asking = async {
        let stream = TcpStream::connect(at).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(body).expect("a request")).await.expect("an answer");
        let (parts, mut incoming) = answer.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            let Ok(frame) = frame else { break };
            body.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        }
        connection.abort();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    };
    within(30, line, asking).await
}

/// All that comes until the server closes.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    within(30, "the connection's end", async { drop(stream.read_to_end(&mut bytes).await) }).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends bytes as they are, closes this side if `closes`, and reads until the server closes.
pub async fn raw(server: &Server, bytes: &[u8], closes: bool) -> String {
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if closes {
        stream.shutdown().await.unwrap();
    }
    rest(&mut stream).await
}

/// Body of one piece.
struct Bytes(Option<bytes::Bytes>);

impl http_body::Body for Bytes {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let bytes = self.0.take().filter(|bytes| !bytes.is_empty());
        std::task::Poll::Ready(bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(bytes::Bytes::is_empty)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
