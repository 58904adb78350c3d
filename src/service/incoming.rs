//! Reading of the messages of a client stream. tonic's reader returns slices of a buffer that several messages share,
//! and keeps the largest buffer it ever needed for as long as the call lasts: a record of two bytes, or an idle call,
//! would hold megabytes. Here the records of each message have a buffer of exactly their size, and between two messages
//! a call keeps at most the frame that it is parsing. Memory is allocated for at most one message that a peer has
//! announced but not sent yet.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http_body::Body as _;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};

use super::compression;
use crate::proto::v1::{ConsumeRequest, SubscribeRequest};
use crate::wire::{ExchangeRequest, IngestRequest, MALFORMED, Wire};

/// Length of the prefix of every gRPC message: the compression flag and the message's length.
const PREFIX: usize = 5;
/// Bytes of messages that a call returns before it yields to other calls. Compressed messages arrive so fast that a
/// call would seldom wait for the network.
const TURN_BYTES: usize = 4 << 20;
/// The messages a client sends in one call.
pub struct Incoming<T> {
    body: Body,
    encoding: Option<CompressionEncoding>,
    bytes_max: usize,
    /// Received bytes that are not parsed yet.
    frame: Bytes,
    state: State,
    /// Bytes of the messages returned since the call last yielded.
    turn: usize,
    _message: PhantomData<fn() -> T>,
}

enum State {
    /// Inside a message's prefix, of which the given number of bytes has arrived.
    Prefix([u8; PREFIX], usize),
    /// Inside a message of `len` bytes. `bytes` holds the bytes that arrived in earlier frames, and has room for the
    /// rest of the message.
    Message {
        compressed: bool,
        len: usize,
        bytes: Vec<u8>,
    },
    Ended,
}

const BETWEEN: State = State::Prefix([0; PREFIX], 0);

impl<T: Message> Incoming<T> {
    /// Makes a reader of the messages of a body, each of at most `bytes_max` bytes once it is decompressed.
    #[must_use]
    pub const fn new(body: Body, encoding: Option<CompressionEncoding>, bytes_max: usize) -> Self {
        Self {
            body,
            encoding,
            bytes_max,
            frame: Bytes::new(),
            state: BETWEEN,
            turn: 0,
            _message: PhantomData,
        }
    }

    /// Returns the next message if all of it has arrived.
    fn message(&mut self) -> Result<Option<T>, Status> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Prefix(prefix, known) => {
                    let len = (PREFIX - *known).min(self.frame.len());
                    self.frame.copy_to_slice(&mut prefix[*known..*known + len]);
                    *known += len;
                    if *known < PREFIX {
                        return Ok(None);
                    }
                    let prefix = *prefix;
                    self.state = self.announced(prefix)?;
                }
                State::Message { compressed, len, bytes } => {
                    let (compressed, missing) = (*compressed, *len - bytes.len());
                    if self.frame.len() < missing {
                        if !self.frame.is_empty() {
                            bytes.reserve_exact(missing);
                            bytes.extend_from_slice(&self.frame);
                            self.frame = Bytes::new();
                        }
                        return Ok(None);
                    }
                    let mut whole = std::mem::take(bytes);
                    let rest = self.frame.split_to(missing);
                    self.state = BETWEEN;
                    let message = if whole.is_empty() && !compressed {
                        self.turn += rest.len();
                        parsed_apart(rest)
                    } else {
                        let whole = if whole.is_empty() {
                            self.plain(&rest)?
                        } else {
                            whole.extend_from_slice(&rest);
                            if compressed { self.plain(&whole)? } else { whole.into() }
                        };
                        self.turn += whole.len();
                        parsed(whole)
                    };
                    return message.map(Some);
                }
            }
        }
    }

    /// Checks a message's prefix, and returns the state for the message.
    fn announced(&self, [flag, length @ ..]: [u8; PREFIX]) -> Result<State, Status> {
        let (len, limit) = (u32::from_be_bytes(length) as usize, self.bytes_max);
        // These are tonic's messages, because the mapping of errors recognises them.
        match flag {
            0 => {}
            1 if self.encoding.is_some() => {}
            1 => {
                return Err(Status::internal(
                    "protocol error: received message with compressed-flag but no grpc-encoding was specified",
                ));
            }
            flag => {
                return Err(Status::internal(format!(
                    "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 \
                     and 1), while sending request"
                )));
            }
        }
        if len > limit {
            return Err(Status::out_of_range(format!(
                "Error, decoded message length too large: found {len} bytes, the limit is: {limit} bytes"
            )));
        }
        Ok(State::Message { compressed: flag == 1, len, bytes: Vec::new() })
    }

    fn plain(&self, bytes: &[u8]) -> Result<Bytes, Status> {
        let Some(encoding) = self.encoding else { return Err(Status::internal("no encoding")) };
        compression::decompressed(bytes, encoding, self.bytes_max)
    }

    /// Ends the stream at the end of the body. Returns an error if the body ended inside a message.
    fn end(&mut self) -> Option<Result<T, Status>> {
        let between = matches!(self.state, State::Prefix(_, 0) | State::Ended);
        self.state = State::Ended;
        (!between).then(|| Err(Status::internal("Unexpected EOF decoding stream.")))
    }
}

/// A message that may carry records.
pub trait Message: Wire {
    /// Returns the encoded records, which may share the buffer of the bytes that were parsed.
    fn records_mut(&mut self) -> Option<&mut Bytes>;
}

impl Message for SubscribeRequest {
    fn records_mut(&mut self) -> Option<&mut Bytes> {
        None
    }
}

impl Message for ConsumeRequest {
    fn records_mut(&mut self) -> Option<&mut Bytes> {
        None
    }
}

impl Message for IngestRequest {
    fn records_mut(&mut self) -> Option<&mut Bytes> {
        self.publish.as_mut().map(|publish| &mut publish.records)
    }
}

impl Message for ExchangeRequest {
    fn records_mut(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::Publish { publish, .. } => Some(&mut publish.records),
            Self::Open(_) | Self::Empty => None,
        }
    }
}

fn parsed<T: Message>(bytes: Bytes) -> Result<T, Status> {
    T::parse(bytes).map_err(|malformed| Status::invalid_argument(format!("{MALFORMED}: {}", malformed.0)))
}

/// Parses a message that shares its buffer with others, and copies the records, the one part that would keep the buffer
/// alive.
fn parsed_apart<T: Message>(bytes: Bytes) -> Result<T, Status> {
    let shared = bytes.as_ptr_range();
    let mut message: T = parsed(bytes)?;
    if let Some(records) = message.records_mut()
        && shared.contains(&records.as_ptr())
    {
        *records = Bytes::copy_from_slice(records);
    }
    Ok(message)
}

impl<T: Message> Stream for Incoming<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.turn >= TURN_BYTES {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match this.message() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => {
                    (this.state, this.frame) = (State::Ended, Bytes::new());
                    return Poll::Ready(Some(Err(status)));
                }
            }
            if matches!(this.state, State::Ended) {
                return Poll::Ready(None);
            }
            let frame = Pin::new(&mut this.body).poll_frame(cx);
            if frame.is_pending() {
                this.turn = 0;
            }
            match ready!(frame) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.frame = data,
                    // Nothing follows the trailers.
                    Err(_) => return Poll::Ready(this.end()),
                },
                // The client disconnected, so no further messages will arrive.
                Some(Err(status)) if status.code() == Code::Cancelled => {
                    this.state = State::Ended;
                    return Poll::Ready(None);
                }
                Some(Err(status)) => {
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(status)));
                }
                None => return Poll::Ready(this.end()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Incoming, PREFIX};
    use crate::record::batch::EXCESS_MAX;
    use crate::wire::{IngestRequest, PublishRequest, Wire};
    use bytes::Bytes;
    use futures_util::StreamExt;
    use http_body::Frame;
    use std::collections::VecDeque;
    use std::io::Write;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tonic::body::Body;
    use tonic::codec::CompressionEncoding;
    use tonic::{Code, Status};

    fn request(value: usize) -> IngestRequest {
        let value = vec![7; value];
        let value = String::from_utf8(value).unwrap();
        let records = crate::record::testing::records_of(&[&value]);
        let publish = PublishRequest { topic: "t".into(), records, ..PublishRequest::default() };
        IngestRequest { publish: Some(publish) }
    }

    fn framed(message: &[u8], flag: u8) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag][..], &len, message].concat()
    }

    fn encoded(message: &impl Wire) -> Vec<u8> {
        let mut out = Vec::new();
        message.put(&mut out);
        out
    }

    fn incoming(
        bytes: &[u8],
        size: usize,
        encoding: Option<CompressionEncoding>,
        max: usize,
    ) -> Incoming<IngestRequest> {
        let frames = Frames(bytes.chunks(size).map(Bytes::copy_from_slice).collect());
        Incoming::new(Body::new(frames), encoding, max)
    }

    /// A body that consists of the given frames.
    struct Frames(VecDeque<Bytes>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn messages_are_whole_wherever_their_bytes_are_cut() {
        let messages = [request(3), IngestRequest::default(), request(300), request(1)];
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(&encoded(message), 0)).collect();
        for size in 1..=bytes.len() {
            let found: Vec<_> = incoming(&bytes, size, None, 1000).map(Result::unwrap).collect().await;
            assert_eq!(found, messages, "frames of {size}");
        }
        for len in 1..bytes.len() {
            let mut found: Vec<_> = incoming(&bytes[..len], 7, None, 1000).collect().await;
            if let Some(Err(status)) = found.pop() {
                assert_eq!(status.code(), Code::Internal, "{len}");
                assert!(status.message().starts_with("Unexpected EOF"), "{len}");
            }
        }
    }

    #[tokio::test]
    async fn compressed_messages_are_read_up_to_the_limit() {
        let message = encoded(&request(5000));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&message).unwrap();
        let of = [
            (CompressionEncoding::Gzip, gzip.finish().unwrap()),
            (CompressionEncoding::Zstd, zstd::encode_all(&message[..], 1).unwrap()),
        ];
        for (encoding, compressed) in of {
            let bytes = framed(&compressed, 1);
            for size in [1, 10, bytes.len()] {
                let mut exact = incoming(&bytes, size, Some(encoding), message.len());
                assert_eq!(exact.next().await.unwrap().unwrap(), request(5000), "{encoding} {size}");
                let mut less = incoming(&bytes, size, Some(encoding), message.len() - 1);
                let status = less.next().await.unwrap().unwrap_err();
                assert_eq!(status.code(), Code::ResourceExhausted, "{encoding} {size}");
                assert!(less.next().await.is_none());
            }
            let status =
                incoming(&framed(b"rubbish", 1), 4, Some(encoding), 100).next().await.unwrap().unwrap_err();
            assert!(status.message().starts_with("Error decompressing"), "{status}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_call() {
        for (bytes, encoding, code, max) in [
            (framed(&[0x0a, 5, 1], 0), None, Code::InvalidArgument, 100),
            (framed(&[], 2), None, Code::Internal, 100),
            (framed(&[], 1), None, Code::Internal, 100),
            (framed(&[0; 11], 0), None, Code::OutOfRange, 10),
        ] {
            let mut incoming = incoming(&bytes, 3, encoding, max);
            assert_eq!(incoming.next().await.unwrap().unwrap_err().code(), code);
            assert!(incoming.next().await.is_none());
        }
    }

    /// Only the records of a message stay in memory, and little more, whatever else the message or its frame contained.
    #[tokio::test]
    async fn records_keep_nothing_else_in_memory() {
        let mut odd = encoded(&request(2).publish.unwrap());
        // An unknown field of 1 MB next to the record.
        prost::encoding::bytes::encode(99, &vec![0_u8; 1 << 20], &mut odd);
        let mut message = Vec::new();
        prost::encoding::bytes::encode(1, &odd, &mut message);
        let frames = [framed(&message, 0), framed(&encoded(&request(2)), 0)].concat();
        let compressed = framed(&zstd::encode_all(&message[..], 1).unwrap(), 1);
        let zstd = Some(CompressionEncoding::Zstd);
        for (bytes, encoding) in [(frames, None), (compressed, zstd)] {
            for size in [16 << 10, 2 << 20] {
                let mut messages = incoming(&bytes, size, encoding, 4 << 20);
                while let Some(message) = messages.next().await {
                    let records = message.unwrap().publish.unwrap().records;
                    drop(std::mem::replace(&mut messages.frame, Bytes::new()));
                    let len = records.len();
                    // If no other slice uses the buffer, this one may grow to all of the buffer.
                    let pinned = records.try_into_mut().expect("no other holds the buffer").capacity();
                    assert!(pinned <= len + EXCESS_MAX + PREFIX, "{pinned} for {len}");
                }
            }
        }
    }
}
