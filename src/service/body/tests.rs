//! Bodies of long answers against a log on a simulated disk: in pieces, dropped and read again, while others read.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http_body::Body as _;
use tonic::codec::CompressionEncoding;
use tonic::{Status, body::Body};

use super::{AnswerStream, DeliveryMessage};
use crate::proto::v1;
use crate::record::{Epoch, Offset, Position, Receipt, TopicName};
use crate::storage::embedded::simulated::SimulatedLog;
use crate::storage::{Retention, TopicLog};
use crate::topic::{FRAME_MAX, SendBudget, UnreadFrames};
use crate::wire::{ExchangeResponse, NumberedReceipt, SubscribeResponse, Wire};

/// These messages, then the end.
struct Scripted<T> {
    messages: std::vec::IntoIter<T>,
    log: Option<Arc<dyn TopicLog>>,
}

impl<T: Unpin> Stream for Scripted<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.messages.next().map(Ok))
    }
}

impl<T: DeliveryMessage + Unpin> AnswerStream for Scripted<T> {
    type Message = T;

    fn log(&self) -> Option<Arc<dyn TopicLog>> {
        self.log.clone()
    }
}

/// A topic of batches of one record of so many bytes each, and a delivery of each.
async fn stored(sizes: &[usize]) -> (SimulatedLog, Vec<SubscribeResponse>) {
    let log = SimulatedLog::new();
    log.log().create(TopicName::parse("t").unwrap(), Retention::default()).await.unwrap();
    let mut deliveries = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        let value: String = (0..*size).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        let receipt = log.put("t", &[&value]);
        let chunk = log.topic("t").read(Offset::new(at as u64), 1).await.unwrap();
        deliveries.push(SubscribeResponse {
            batches: chunk.runs,
            next: receipt.next,
            tail: receipt.next.offset,
            notice: v1::Notice::Unspecified,
        });
    }
    (log, deliveries)
}

fn exchange(delivery: SubscribeResponse) -> ExchangeResponse {
    let position = Position { epoch: Epoch::new(1), offset: Offset::new(9) };
    let receipt = Receipt { next: position, ..Receipt::default() };
    ExchangeResponse {
        receipts: vec![NumberedReceipt { number: 3, receipt }],
        delivery: Some(delivery),
        notice: v1::Notice::MaxAge,
    }
}

fn body<S: AnswerStream>(messages: S, all: &SendBudget, encoding: Option<CompressionEncoding>) -> Body {
    super::messages(messages, UnreadFrames::new(all), encoding)
}

async fn frame(body: &mut Body) -> Option<Bytes> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?.expect("no error");
    frame.into_data().ok()
}

/// All bytes up to the trailers, read at once, and the largest frame.
async fn read(body: &mut Body) -> (Vec<u8>, usize) {
    let (mut all, mut largest) = (Vec::new(), 0);
    while let Some(frame) = frame(body).await {
        largest = largest.max(frame.len());
        all.extend_from_slice(&frame);
    }
    (all, largest)
}

fn messages<T: Wire>(mut bytes: &[u8]) -> Vec<T> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (compressed, len) = (bytes.get_u8() == 1, bytes.get_u32() as usize);
        let message = Bytes::copy_from_slice(&bytes[..len]);
        let message = if compressed { zstd::decode_all(&message[..]).unwrap().into() } else { message };
        found.push(T::parse(message).unwrap());
        bytes.advance(len);
    }
    found
}

fn joined(delivery: &SubscribeResponse) -> SubscribeResponse {
    SubscribeResponse { batches: vec![delivery.batches.concat().into()], ..delivery.clone() }
}

const SIZES: [usize; 6] = [10, 1_000_000, FRAME_MAX - 100, FRAME_MAX + 1, 300_000, 3];

#[tokio::test]
async fn messages_of_every_size_arrive_whole_in_frames_of_a_bounded_size() {
    let (log, deliveries) = stored(&SIZES).await;
    for bytes_max in [64 << 20, 1] {
        for encoding in [None, Some(CompressionEncoding::Zstd)] {
            let all = SendBudget::new(bytes_max);
            // With a budget of nothing, frames are small while another call has something unread.
            let stuck = UnreadFrames::new(&all).frame([7; 9][..].into());
            let log = Some(log.topic("t"));
            let plain = Scripted { messages: deliveries.clone().into_iter(), log: log.clone() };
            let (bytes, largest) = read(&mut body(plain, &all, encoding)).await;
            let expected: Vec<_> = deliveries.iter().map(joined).collect();
            assert_eq!(messages::<SubscribeResponse>(&bytes), expected);
            assert!(largest <= if bytes_max == 1 { 8 << 10 } else { FRAME_MAX }, "{largest}");
            let sent: Vec<_> = deliveries.iter().cloned().map(exchange).collect();
            let sent = Scripted { messages: sent.into_iter(), log };
            let (bytes, _) = read(&mut body(sent, &all, encoding)).await;
            let expected: Vec<_> = expected.into_iter().map(exchange).collect();
            assert_eq!(messages::<ExchangeResponse>(&bytes), expected);
            drop(stuck);
            assert_eq!(all.used(), 0, "what was sent is given back");
        }
    }
}

/// P6: what subscribers that do not read cost is bounded, they lose nothing, and one that reads is not held up.
#[tokio::test]
async fn the_rests_of_those_that_do_not_read_are_dropped_and_read_again() {
    let (log, deliveries) = stored(&[1_000_000; 3]).await;
    let all = SendBudget::new(16 << 20);
    let topic = log.topic("t");
    let begin = || Scripted { messages: deliveries.clone().into_iter(), log: Some(Arc::clone(&topic)) };
    let mut stuck = Vec::new();
    for n in 0..40 {
        let encoding = (n % 2 == 0).then_some(CompressionEncoding::Zstd);
        let mut body = body(begin(), &all, encoding);
        let first = frame(&mut body).await.unwrap();
        stuck.push((body, first));
    }
    assert!(all.used() <= 16 << 20, "{}", all.used());
    let expected: Vec<_> = deliveries.iter().map(joined).collect();
    let (bytes, _) = read(&mut body(begin(), &all, None)).await;
    assert_eq!(messages::<SubscribeResponse>(&bytes), expected, "one that reads");
    for (mut body, first) in stuck {
        let mut bytes = first.to_vec();
        drop(first);
        bytes.extend(read(&mut body).await.0);
        assert_eq!(messages::<SubscribeResponse>(&bytes), expected, "one that goes on");
    }
    assert_eq!(all.used(), 0);
}

#[tokio::test]
async fn a_rest_that_is_gone_ends_the_call() {
    let (log, deliveries) = stored(&[1_000_000]).await;
    let all = SendBudget::new(8);
    let log_of = Some(log.topic("t"));
    let mut one =
        body(Scripted { messages: deliveries.clone().into_iter(), log: log_of.clone() }, &all, None);
    drop(frame(&mut one).await.unwrap());
    let mut other = body(Scripted { messages: deliveries.into_iter(), log: log_of }, &all, None);
    let _unread = frame(&mut other).await.unwrap();
    log.log().delete(&TopicName::parse("t").unwrap(), None).await.unwrap();
    let failed = poll_fn(|cx| Pin::new(&mut one).poll_frame(cx)).await.unwrap();
    // In trailers, which a client reads though the message before them has no end.
    let status = Status::from_header_map(failed.unwrap().trailers_ref().unwrap()).unwrap();
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (tonic::Code::Unavailable, "STORAGE_UNAVAILABLE"));
    assert_eq!(info.metadata["resume_offset"], "0");
    assert!(poll_fn(|cx| Pin::new(&mut one).poll_frame(cx)).await.is_none());
}

#[tokio::test]
async fn a_panic_in_a_long_answer_ends_it_with_a_status() {
    struct Panics;
    impl Stream for Panics {
        type Item = Result<SubscribeResponse, Status>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            panic!("as the test wants it")
        }
    }
    impl AnswerStream for Panics {
        type Message = SubscribeResponse;

        fn log(&self) -> Option<Arc<dyn TopicLog>> {
            None
        }
    }
    let mut body = body(Panics, &SendBudget::new(1 << 20), None);
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "13");
    assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
}
