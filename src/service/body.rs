//! The bodies of long answers: each frame in a buffer of just its size, given up once sent. The
//! body tonic makes keeps its largest buffer for as long as the call lasts, which ten thousand
//! subscribers that caught up once and are idle now would pay for.
//! Never: holds a message back for another, or refers to stored blocks while a peer does not read.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::HeaderMap;
use http_body::Frame;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::{Response, Status};

use super::{compression, panics};
use crate::wire::Wire;

/// Messages that are ready go out together until they make this many bytes: two frames of HTTP/2's
/// default size.
const TOGETHER: usize = 32 << 10;
/// Flag (whether compressed) and length before every message of gRPC.
const PREFIX: usize = 5;

/// What tonic is told the answer is; the real one travels beside it.
pub type Beside<T> = stream::Empty<Result<T, Status>>;

/// Makes the body, in that encoding.
type Make = Box<dyn FnOnce(Option<CompressionEncoding>) -> Body + Send>;

/// Carries the real body past tonic. Extensions must be `Clone`, which a body is not.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Make>>>);

/// An answer of these messages, for [`taken`] to take.
pub(super) fn beside<S, T>(messages: S) -> Response<Beside<T>>
where
    S: Stream<Item = Result<T, Status>> + Unpin + Send + 'static,
    T: Wire,
{
    let make: Make = Box::new(|encoding| Body::new(Messages { messages, encoding, end: End::NotYet }));
    let mut response = Response::new(stream::empty());
    response.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(make)))));
    response
}

/// The response with the body that travelled beside it, if one did.
pub(super) fn taken(mut response: http::Response<Body>) -> http::Response<Body> {
    let carried = response.extensions_mut().remove::<Carried>();
    let make = carried.and_then(|carried| carried.0.lock().ok()?.take());
    let encoding = compression::of_answer(response.headers());
    match make {
        Some(make) => response.map(|_| make(encoding)),
        None => response,
    }
}

struct Messages<S> {
    messages: S,
    encoding: Option<CompressionEncoding>,
    end: End,
}

enum End {
    NotYet,
    /// After the data already handed out.
    With(Status),
    Sent,
}

impl<S, T> http_body::Body for Messages<S>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
    T: Wire,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut out = BytesMut::new();
        while matches!(self.end, End::NotYet) && out.len() < TOGETHER {
            let next = panics::caught(|| Pin::new(&mut self.messages).poll_next(cx));
            match next.unwrap_or_else(|status| Poll::Ready(Some(Err(status)))) {
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(message))) => put(&message, self.encoding, &mut out),
                Poll::Ready(Some(Err(status))) => self.end = End::With(status),
                Poll::Ready(None) => self.end = End::With(Status::ok("")),
            }
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
        }
        Poll::Ready(match std::mem::replace(&mut self.end, End::Sent) {
            End::With(status) => Some(trailers(&status)),
            End::NotYet | End::Sent => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Sent)
    }
}

fn put(message: &impl Wire, encoding: Option<CompressionEncoding>, out: &mut BytesMut) {
    let begin = out.len();
    if encoding.is_none() {
        out.reserve(PREFIX + message.wire_len());
    }
    out.put_bytes(0, PREFIX);
    let compressed = encoding.is_some_and(|encoding| compression::put(message, encoding, out));
    if !compressed {
        message.put(out);
    }
    let (prefix, message) = out[begin..].split_at_mut(PREFIX);
    let len = u32::try_from(message.len()).expect("bounded by the size of a delivery, far below 4 GiB");
    prefix[0] = u8::from(compressed);
    prefix[1..].copy_from_slice(&len.to_be_bytes());
}

/// The frame that ends a stream.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers)?;
    Ok(Frame::trailers(headers))
}

#[cfg(test)]
mod tests {
    use super::{beside, taken};
    use crate::wire::SubscribeResponse;
    use futures_util::stream;
    use http_body::Body as _;
    use std::future::poll_fn;
    use std::pin::Pin;

    #[tokio::test]
    async fn a_panic_in_a_long_answer_ends_it_with_a_status() {
        let messages = stream::poll_fn(|_| -> std::task::Poll<Option<Result<SubscribeResponse, _>>> {
            panic!("as the test wants it")
        });
        let (metadata, _, extensions) = beside(messages).into_parts();
        let mut response = http::Response::new(tonic::body::Body::empty());
        (*response.headers_mut(), *response.extensions_mut()) = (metadata.into_headers(), extensions);
        let mut body = taken(response).into_body();
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "13");
        assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
    }
}
