//! The bodies of streaming answers. Each frame has a buffer of exactly its size, which is freed once it is sent.
//! tonic's body keeps its largest buffer for as long as the call lasts, even for ten thousand subscribers that caught
//! up once and are idle. A frame is made only while the peer has little unread data. A message larger than a frame is
//! sent in pieces, and [`crate::topic::SendBudget`] either keeps the remainder or drops it to be read from the log
//! again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use prost::encoding::encode_varint;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;

use super::status::{self, Context as CallContext};
use super::{compression, panics};
use crate::record::Position;
use crate::record::block::Blocks;
use crate::storage::{self, BoxFuture, Stored, TopicLog};
use crate::topic::{FRAME_MAX, Pieces, Remainder, StoredRange, UnreadFrames};
use crate::wire::{ConsumeResponse, ExchangeResponse, SubscribeResponse, Wire};

/// Size up to which messages that are ready are sent together: two frames of HTTP/2's default size.
const COALESCED_MAX: usize = 32 << 10;
/// Length of the prefix of every gRPC message: the flag and the message's length.
const PREFIX: usize = 5;

/// Stream of an answer's messages.
pub(super) trait AnswerStream:
    Stream<Item = Result<Self::Message, Status>> + Unpin + Send + 'static
{
    /// Type of the messages.
    type Message: DeliveryMessage;

    /// Returns the log that stores the blocks in the messages, if there is one.
    fn log(&self) -> Option<Arc<dyn TopicLog>>;
}

/// Message that may contain a delivery. Most of its bytes are the delivery's blocks.
pub(super) trait DeliveryMessage: Wire {
    /// Returns the delivery.
    fn delivery(&mut self) -> Option<&mut SubscribeResponse>;

    /// Writes the message in two parts. The blocks of its delivery, `blocks` bytes that were taken out, belong between
    /// the parts.
    fn put_around(&mut self, blocks: usize, before: &mut BytesMut, behind: &mut BytesMut);

    /// Returns the message in pieces, if it has blocks other than those of a delivery.
    fn pieces(&self) -> Option<Vec<Bytes>> {
        None
    }
}

impl DeliveryMessage for SubscribeResponse {
    fn delivery(&mut self) -> Option<&mut Self> {
        Some(self)
    }

    fn put_around(&mut self, _: usize, _: &mut BytesMut, behind: &mut BytesMut) {
        self.put(behind);
    }
}

impl DeliveryMessage for ExchangeResponse {
    fn delivery(&mut self) -> Option<&mut SubscribeResponse> {
        self.delivery.as_mut()
    }

    fn put_around(&mut self, blocks: usize, before: &mut BytesMut, behind: &mut BytesMut) {
        /// Field 2, length-delimited.
        const DELIVERY_TAG: u8 = 0x12;
        let delivery = self.delivery.take();
        self.put(before);
        if let Some(delivery) = &delivery {
            before.put_u8(DELIVERY_TAG);
            encode_varint((blocks + delivery.wire_len()) as u64, before);
            delivery.put(behind);
        }
        self.delivery = delivery;
    }
}

impl DeliveryMessage for ConsumeResponse {
    /// None: what a member was leased is not read from the log again while it is being sent.
    fn delivery(&mut self) -> Option<&mut SubscribeResponse> {
        None
    }

    fn put_around(&mut self, _: usize, before: &mut BytesMut, _: &mut BytesMut) {
        self.put(before);
    }

    fn pieces(&self) -> Option<Vec<Bytes>> {
        Some(Self::pieces(self))
    }
}

/// Makes the answer of a call, with its messages in this encoding.
pub(super) fn answer<S: AnswerStream>(
    messages: S,
    unread: UnreadFrames,
    encoding: Option<CompressionEncoding>,
) -> Response<Body> {
    let mut response = Response::new(self::messages(messages, unread, encoding));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(encoding) = encoding {
        compression::set_encoding(headers, encoding);
    }
    response
}

/// Makes the body of an answer, with its messages in this encoding.
pub(super) fn messages<S: AnswerStream>(
    messages: S,
    unread: UnreadFrames,
    encoding: Option<CompressionEncoding>,
) -> Body {
    Body::new(Messages { messages, encoding, unread, unsent: None, end: End::NotYet })
}

struct Messages<S: AnswerStream> {
    messages: S,
    encoding: Option<CompressionEncoding>,
    unread: UnreadFrames,
    /// Remainder of the message that is being sent in pieces.
    unsent: Option<Box<Unsent<S::Message>>>,
    end: End,
}

enum End {
    NotYet,
    /// The status is sent after the data already produced.
    With(Status),
    Sent,
}

/// Message that is being sent in pieces.
struct Unsent<T> {
    /// The message without its blocks.
    message: T,
    encoding: Option<CompressionEncoding>,
    /// Stored blocks of the message; `None` if its remainder cannot be read again.
    source: Option<StoredRange>,
    remainder: Remainder,
    len: usize,
    sent: usize,
    /// Read of the blocks, after the remainder was dropped.
    reread: Option<BoxFuture<'static, Result<Vec<Bytes>, storage::Error>>>,
}

impl<S: AnswerStream> http_body::Body for Messages<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let (room, mut out) = (ready!(this.unread.poll_room(cx)), BytesMut::new());
        if let Some(unsent) = &mut this.unsent {
            match ready!(unsent.poll_put(cx, room, &mut out)) {
                Ok(true) => this.unsent = None,
                Ok(false) => {}
                // The peer has the beginning of a message that will not be completed. Trailers can still tell the peer
                // the reason, which a reset of the stream could not.
                Err(error) => {
                    this.end = End::Sent;
                    let status = this.unsent.take().map(|unsent| unsent.lost(&error));
                    return Poll::Ready(status.as_ref().map(trailers));
                }
            }
        }
        while matches!(this.end, End::NotYet) && this.unsent.is_none() && out.len() < COALESCED_MAX.min(room)
        {
            let next = panics::caught(|| Pin::new(&mut this.messages).poll_next(cx));
            match next.unwrap_or_else(|status| Poll::Ready(Some(Err(status)))) {
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(message))) => this.put(message, room, &mut out),
                Poll::Ready(Some(Err(status))) => this.end = End::With(status),
                Poll::Ready(None) => this.end = End::With(Status::ok("")),
            }
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.unread.frame(out)))));
        }
        Poll::Ready(match std::mem::replace(&mut this.end, End::Sent) {
            End::With(status) => Some(trailers(&status)),
            End::NotYet | End::Sent => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Sent)
    }
}

impl<S: AnswerStream> Messages<S> {
    /// Appends the message, or the part of it that fits.
    fn put(&mut self, mut message: S::Message, room: usize, out: &mut BytesMut) {
        let len = PREFIX + message.wire_len();
        if self.encoding.is_none() && out.len() + len <= room {
            out.reserve(len);
            return put(&message, None, out);
        }
        let source = self.messages.log().and_then(|log| source(&mut message, log));
        let runs =
            message.delivery().map(|delivery| std::mem::take(&mut delivery.batches)).unwrap_or_default();
        let mut pieces = pieces(&mut message, runs, self.encoding);
        let len = pieces.iter().map(Bytes::len).sum();
        let sent = advance(&mut pieces, room.saturating_sub(out.len()), out);
        if sent == len {
            return;
        }
        let remainder = self.unread.remainder();
        let mut unsent =
            Unsent { message, encoding: self.encoding, source, remainder, len, sent, reread: None };
        unsent.store(pieces);
        self.unsent = Some(Box::new(unsent));
    }
}

impl<T: DeliveryMessage> Unsent<T> {
    /// Appends the part that fits. Becomes ready with true if that was the last part.
    fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        out: &mut BytesMut,
    ) -> Poll<Result<bool, storage::Error>> {
        let mut pieces = match self.remainder.take() {
            Some(pieces) => pieces,
            None => match ready!(self.poll_reread(cx)) {
                Ok(pieces) => pieces,
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        self.sent += advance(&mut pieces, room, out);
        if self.sent < self.len {
            self.store(pieces);
        }
        Poll::Ready(Ok(self.sent == self.len))
    }

    /// Makes the status of a call after the rest of its message could not be read. The position to resume from is that
    /// of the message's first record: a subscription from there continues by its own policy, or is told what happened.
    fn lost(&self, error: &storage::Error) -> Status {
        let reason =
            format!("the rest of a delivery is no longer stored: {error}; subscribe again and resume");
        let error = storage::Error::Unavailable { reason, stored: Stored::Nothing };
        let context = self.source.as_ref().map(|StoredRange { log, from, .. }| CallContext {
            resume: Some(Position { epoch: log.epoch(), offset: *from }),
            ..CallContext::topic(log.name().as_str())
        });
        status::status(&error.into(), &context.unwrap_or_default())
    }

    fn store(&mut self, mut pieces: Pieces) {
        if self.len <= FRAME_MAX {
            // A block may be a slice of a much larger buffer.
            let mut copied = BytesMut::with_capacity(self.len - self.sent);
            advance(&mut pieces, self.len - self.sent, &mut copied);
            pieces = Pieces::from([copied.freeze()]);
        }
        match self.source {
            Some(_) => self.remainder.put(pieces, self.len),
            None => self.remainder.put_pinned(pieces),
        }
    }

    /// Rebuilds the remainder of the message from the stored blocks.
    fn poll_reread(&mut self, cx: &mut Context<'_>) -> Poll<Result<Pieces, storage::Error>> {
        let gone = || storage::Error::Damaged("a delivery is not what it was".to_owned());
        let Some(source) = &self.source else { return Poll::Ready(Err(gone())) };
        let reread = self.reread.get_or_insert_with(|| Box::pin(source.clone().read()));
        let runs = ready!(reread.as_mut().poll(cx));
        self.reread = None;
        let mut pieces = pieces(&mut self.message, runs?, self.encoding);
        if pieces.iter().map(Bytes::len).sum::<usize>() != self.len {
            return Poll::Ready(Err(gone()));
        }
        let mut sent = self.sent;
        while let Some(first) = pieces.front_mut().filter(|_| sent > 0) {
            let len = sent.min(first.len());
            first.advance(len);
            sent -= len;
            if first.is_empty() {
                pieces.pop_front();
            }
        }
        Poll::Ready(Ok(pieces))
    }
}

/// Returns the stored range of a message's delivery.
fn source(message: &mut impl DeliveryMessage, log: Arc<dyn TopicLog>) -> Option<StoredRange> {
    let delivery = message.delivery()?;
    let first = Blocks::new(delivery.batches.first()?).next()?.ok()?.first;
    Some(StoredRange { log, from: first, to: delivery.next.offset })
}

/// Builds the message around the blocks of its delivery. The blocks are not copied unless the message is compressed.
fn pieces<T: DeliveryMessage>(
    message: &mut T,
    runs: Vec<Bytes>,
    encoding: Option<CompressionEncoding>,
) -> Pieces {
    if encoding.is_some() {
        if let Some(delivery) = message.delivery() {
            delivery.batches = runs;
        }
        let mut out = BytesMut::new();
        put(message, encoding, &mut out);
        if let Some(delivery) = message.delivery() {
            delivery.batches = Vec::new();
        }
        return Pieces::from([Bytes::copy_from_slice(&out)]);
    }
    if let Some(of_message) = message.pieces() {
        let mut head = BytesMut::zeroed(PREFIX);
        head[1..].copy_from_slice(&prefix_len(of_message.iter().map(Bytes::len).sum()));
        return std::iter::once(head.freeze()).chain(of_message).collect();
    }
    let (mut before, mut behind) = (BytesMut::new(), BytesMut::new());
    let blocks = runs.iter().map(Bytes::len).sum();
    before.put_bytes(0, PREFIX);
    message.put_around(blocks, &mut before, &mut behind);
    let len = before.len() - PREFIX + blocks + behind.len();
    before[1..PREFIX].copy_from_slice(&prefix_len(len));
    let mut pieces = Pieces::with_capacity(runs.len() + 2);
    pieces.push_back(before.freeze());
    pieces.extend(runs);
    pieces.push_back(behind.freeze());
    pieces
}

/// Moves up to `max` bytes of the pieces to `out`. Returns their number.
fn advance(pieces: &mut Pieces, max: usize, out: &mut BytesMut) -> usize {
    let whole = pieces.iter().map(Bytes::len).sum::<usize>().min(max);
    out.reserve(whole);
    let mut left = whole;
    while let Some(first) = pieces.front_mut().filter(|first| left > 0 || first.is_empty()) {
        let len = left.min(first.len());
        out.extend_from_slice(&first[..len]);
        first.advance(len);
        left -= len;
        if first.is_empty() {
            pieces.pop_front();
        }
    }
    whole
}

fn prefix_len(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("bounded by the size of a delivery, far below 4 GiB").to_be_bytes()
}

fn put(message: &impl Wire, encoding: Option<CompressionEncoding>, out: &mut BytesMut) {
    let begin = out.len();
    out.put_bytes(0, PREFIX);
    let compressed = encoding.is_some_and(|encoding| compression::put(message, encoding, out));
    if !compressed {
        message.put(out);
    }
    let (prefix, message) = out[begin..].split_at_mut(PREFIX);
    prefix[0] = u8::from(compressed);
    prefix[1..].copy_from_slice(&prefix_len(message.len()));
}

/// Makes the frame that ends a stream.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers)?;
    Ok(Frame::trailers(headers))
}

#[cfg(test)]
mod tests;
