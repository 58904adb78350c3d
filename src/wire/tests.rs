//! Comparison of the hand-written messages with the generated ones.

use super::{ConsumeResponse, LeaseResponse, NumberedReceipt, SubscribeResponse};
use super::{ExchangeRequest, ExchangeResponse, IngestRequest, PublishRequest, PublishResponse, Wire};
use crate::proto::v1;
use crate::record::walk::{Fields, Value};
use crate::record::{Batch, BatchLimits, Epoch, Offset, Position, Receipt, UnixMicros};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message;

fn bytes_of(message: &impl Wire) -> Bytes {
    let mut out = BytesMut::new();
    message.put(&mut out);
    assert_eq!(out.len(), message.wire_len());
    out.freeze()
}

fn typed_publish() -> impl Strategy<Value = v1::PublishRequest> {
    let record = proptest::collection::vec(any::<u8>(), 0..40)
        .prop_map(|value| v1::Record { value: value.into(), ..Default::default() });
    let records = proptest::collection::vec(record, 0..4);
    (".{0,4}", ".{0,9}", records, proptest::option::of(any::<u64>()), ".{0,9}").prop_map(
        |(topic, request_id, records, expected_offset, traceparent)| v1::PublishRequest {
            topic,
            request_id,
            records,
            expected_offset,
            traceparent,
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (any::<u64>(), any::<u64>(), any::<u64>(), 0..4_000_000_000_000_000_u64, any::<bool>()).prop_map(
        |(first, epoch, next, time, duplicate)| Receipt {
            first: Offset::new(first),
            next: Position { epoch: Epoch::new(epoch), offset: Offset::new(next) },
            time: UnixMicros(time),
            duplicate,
        },
    )
}

fn typed_receipt(receipt: &Receipt) -> v1::Receipt {
    let (seconds, nanos) = receipt.time.parts();
    v1::Receipt {
        first_offset: receipt.first.get(),
        next: Some(typed_position(receipt.next)),
        publish_time: Some(prost_types::Timestamp { seconds: seconds as i64, nanos: nanos as i32 }),
        duplicate: receipt.duplicate,
    }
}

fn typed_position(position: Position) -> v1::Position {
    v1::Position { epoch: position.epoch.to_string(), offset: position.offset.get() }
}

proptest! {
    #[test]
    fn publish_passes_through_unchanged(typed in typed_publish(), number: u64) {
        let sent = Bytes::from(typed.encode_to_vec());
        let ours = PublishRequest::parse(sent.clone()).unwrap();
        prop_assert_eq!(bytes_of(&ours), sent);

        let ingest = v1::IngestRequest { publish: Some(typed.clone()) };
        let ours = IngestRequest::parse(ingest.encode_to_vec().into()).unwrap();
        prop_assert_eq!(v1::IngestRequest::decode(bytes_of(&ours)).unwrap(), ingest);

        let publish = v1::NumberedPublish { number, publish: Some(typed) };
        let exchange = v1::ExchangeRequest { kind: Some(v1::exchange_request::Kind::Publish(publish)) };
        let ours = ExchangeRequest::parse(exchange.encode_to_vec().into()).unwrap();
        prop_assert_eq!(v1::ExchangeRequest::decode(bytes_of(&ours)).unwrap(), exchange);
    }

    #[test]
    fn receipts_are_equal_to_the_generated_ones(receipts in proptest::collection::vec((any::<u64>(), receipt()), 0..4)) {
        let ours = ExchangeResponse {
            receipts: receipts.iter().map(|&(number, receipt)| NumberedReceipt { number, receipt }).collect(),
            delivery: None,
            notice: v1::Notice::Draining,
        };
        let bytes = bytes_of(&ours);
        let typed = v1::ExchangeResponse::decode(bytes.clone()).unwrap();
        prop_assert_eq!(typed.receipts.len(), receipts.len());
        for (typed, (number, receipt)) in typed.receipts.iter().zip(&receipts) {
            prop_assert_eq!(typed.number, *number);
            prop_assert_eq!(typed.receipt.clone().unwrap(), typed_receipt(receipt));
            let unary = PublishResponse { receipt: *receipt };
            let typed = v1::PublishResponse::decode(bytes_of(&unary)).unwrap();
            prop_assert_eq!(typed.receipt.unwrap(), typed_receipt(receipt));
            prop_assert_eq!(PublishResponse::parse(bytes_of(&unary)).unwrap(), unary);
        }
        prop_assert_eq!(typed.notice(), v1::Notice::Draining);
        prop_assert_eq!(ExchangeResponse::parse(bytes).unwrap(), ours);
    }

    #[test]
    fn a_delivery_is_equal_to_the_generated_one(epoch: u64, offset: u64, tail: u64, value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let batch = v1::RecordBatch {
            first_offset: offset,
            records: vec![v1::Record { value: value.into(), ..Default::default() }],
            ..Default::default()
        };
        let next = Position { epoch: Epoch::new(epoch), offset: Offset::new(offset) };
        let typed = v1::SubscribeResponse {
            batches: vec![batch; 2],
            next: Some(typed_position(next)),
            tail,
            notice: v1::Notice::CaughtUp.into(),
        };
        let ours = SubscribeResponse::parse(typed.encode_to_vec().into()).unwrap();
        prop_assert_eq!((ours.next, ours.tail.get(), ours.notice), (next, tail, v1::Notice::CaughtUp));
        prop_assert_eq!(ours.batches.len(), 1);
        prop_assert_eq!(v1::SubscribeResponse::decode(bytes_of(&ours)).unwrap(), typed);
    }

    #[test]
    fn leases_are_equal_to_the_generated_ones(fence: u64, token in proptest::collection::vec(any::<u8>(), 0..200), value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let batch = v1::RecordBatch {
            first_offset: fence,
            records: vec![v1::Record { value: value.into(), ..Default::default() }],
            ..Default::default()
        };
        let span = v1::OffsetRange { start: fence, end: fence.saturating_add(3) };
        let lease = v1::Lease {
            batches: vec![batch; 2],
            token: token.into(),
            fence,
            time_left: Some(prost_types::Duration { seconds: 3, nanos: 7 }),
            redeliveries: vec![v1::Redelivery { range: Some(span), delivery: 2 }],
            ranges: vec![span],
        };
        let typed = v1::ConsumeResponse {
            joined: Some(v1::Joined { held: vec![v1::Lease { batches: vec![], ..lease.clone() }], ..Default::default() }),
            leases: vec![lease.clone(), v1::Lease::default(), lease.clone()],
            outcomes: vec![v1::Outcome { number: fence, range: Some(span), result: 1 }],
            notice: v1::Notice::Draining.into(),
            ..Default::default()
        };
        let ours = ConsumeResponse::parse(typed.encode_to_vec().into()).unwrap();
        prop_assert_eq!(ours.leases[0].batches.len(), 1, "adjacent batches are one run");
        prop_assert_eq!(ours.pieces().concat(), bytes_of(&ours).to_vec());
        prop_assert_eq!(v1::ConsumeResponse::decode(bytes_of(&ours)).unwrap(), typed);
        let typed = v1::LeaseResponse { leases: vec![lease] };
        let ours = LeaseResponse::parse(typed.encode_to_vec().into()).unwrap();
        prop_assert_eq!(v1::LeaseResponse::decode(bytes_of(&ours)).unwrap(), typed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        let _ = ExchangeRequest::parse(bytes.clone());
        let _ = ExchangeResponse::parse(bytes.clone());
        let _ = IngestRequest::parse(bytes.clone());
        let _ = (ConsumeResponse::parse(bytes.clone()), LeaseResponse::parse(bytes.clone()));
        let _ = SubscribeResponse::parse(bytes);
    }
}

/// The fields of a message that are messages and not repeated, with their own such fields.
struct Nested(&'static [(u32, Nested)]);

const LEAF: Nested = Nested(&[]);
const PUBLISH: Nested = Nested(&[(1, LEAF)]);
const EXCHANGE: Nested = Nested(&[(1, LEAF), (2, Nested(&[(2, LEAF)]))]);
const RECEIPT: Nested = Nested(&[(2, LEAF), (3, LEAF)]);
const PUBLISHED: Nested = Nested(&[(1, RECEIPT)]);
const EXCHANGED: Nested = Nested(&[(2, Nested(&[(2, LEAF)]))]);

/// Re-encodes a message with each nested message in two pieces, and an older value before each number.
fn in_pieces(bytes: &[u8], nested: &Nested, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for field in Fields::new(bytes) {
        let field = field.unwrap();
        let inner = nested.0.iter().find(|(number, _)| *number == field.number);
        match (inner, field.value) {
            (Some((number, inner)), Value::Len(range)) => {
                let content = in_pieces(&bytes[range], inner, random);
                let mut cuts = vec![0];
                cuts.extend(Fields::new(&content).map(|field| field.unwrap().at.end));
                let cut = cuts[random.usize(..cuts.len())];
                for piece in [&content[..cut], &content[cut..]] {
                    prost::encoding::bytes::encode(*number, &piece.to_vec(), &mut out);
                }
            }
            (_, Value::Varint(_)) => {
                prost::encoding::uint64::encode(field.number, &random.u64(1..), &mut out);
                out.extend_from_slice(&bytes[field.at]);
            }
            _ => out.extend_from_slice(&bytes[field.at]),
        }
    }
    out
}

proptest! {
    /// A nested message in several pieces is merged, as every protobuf parser does.
    #[test]
    fn pieces_of_a_request_are_merged(typed in typed_publish(), number: u64, opens: bool, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let ingest = v1::IngestRequest { publish: Some(typed.clone()) };
        let pieces = in_pieces(&ingest.encode_to_vec(), &PUBLISH, &mut random);
        prop_assert_eq!(&v1::IngestRequest::decode(&pieces[..]).unwrap(), &ingest);
        let ours = IngestRequest::parse(pieces.into()).unwrap();
        prop_assert_eq!(v1::IngestRequest::decode(bytes_of(&ours)).unwrap(), ingest);

        let open = v1::Open { topic: typed.topic.clone(), window: 7, ..v1::Open::default() };
        let publish = v1::NumberedPublish { number, publish: Some(typed) };
        use v1::exchange_request::Kind;
        let kind = if opens { Kind::Open(open.clone()) } else { Kind::Publish(publish.clone()) };
        let exchange = v1::ExchangeRequest { kind: Some(kind) };
        // Of two kinds the last one counts.
        let before = if opens { Kind::Publish(publish) } else { Kind::Open(open) };
        let mut pieces = v1::ExchangeRequest { kind: Some(before) }.encode_to_vec();
        pieces.extend(in_pieces(&exchange.encode_to_vec(), &EXCHANGE, &mut random));
        prop_assert_eq!(&v1::ExchangeRequest::decode(&pieces[..]).unwrap(), &exchange);
        let ours = ExchangeRequest::parse(pieces.into()).unwrap();
        prop_assert_eq!(v1::ExchangeRequest::decode(bytes_of(&ours)).unwrap(), exchange);
    }

    #[test]
    fn pieces_of_an_answer_are_merged(number: u64, receipt in receipt(), tail: u64, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let ours = PublishResponse { receipt };
        let pieces = in_pieces(&bytes_of(&ours), &PUBLISHED, &mut random);
        prop_assert_eq!(PublishResponse::parse(pieces.into()).unwrap(), ours);
        let batch = v1::RecordBatch { first_offset: 3, ..v1::RecordBatch::default() };
        let delivery = v1::SubscribeResponse {
            batches: vec![batch; 2],
            next: Some(typed_position(receipt.next)),
            tail,
            notice: v1::Notice::CaughtUp.into(),
        };
        let numbered = v1::NumberedReceipt { number, receipt: Some(typed_receipt(&receipt)) };
        let (receipts, delivery) = (vec![numbered], Some(delivery));
        let typed = v1::ExchangeResponse { receipts, delivery, notice: v1::Notice::Draining.into() };
        let mut pieces = in_pieces(&typed.encode_to_vec(), &EXCHANGED, &mut random);
        // The single receipt of a publish response, in pieces.
        let whole = v1::NumberedReceipt { number, receipt: Some(typed_receipt(&receipt)) }.encode_to_vec();
        let second = in_pieces(&whole, &Nested(&[(2, RECEIPT)]), &mut random);
        prost::encoding::bytes::encode(1, &second, &mut pieces);
        let wanted = v1::ExchangeResponse { receipts: vec![typed.receipts[0].clone(); 2], ..typed };
        prop_assert_eq!(&v1::ExchangeResponse::decode(&pieces[..]).unwrap(), &wanted);
        let ours = ExchangeResponse::parse(pieces.into()).unwrap();
        prop_assert_eq!(v1::ExchangeResponse::decode(bytes_of(&ours)).unwrap(), wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// P9: arbitrary bytes are a message or an error.
    #[test]
    fn no_bytes_make_a_request_panic(
        typed in typed_publish(), noise in proptest::collection::vec(any::<u8>(), 0..60),
        at: prop::sample::Index, value: u8, mutate: bool,
    ) {
        let mut bytes = if mutate { typed.encode_to_vec() } else { noise };
        if let (true, false) = (mutate, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let nested = [&[0x0a, bytes.len() as u8 & 0x7f][..], &bytes[..bytes.len().min(127)]].concat();
        let _ = v1::SubscribeRequest::decode(&bytes[..]);
        for bytes in [bytes, nested] {
            let bytes = Bytes::from(bytes);
            let _ = (IngestRequest::parse(bytes.clone()), ExchangeRequest::parse(bytes.clone()));
            let _ = PublishRequest::parse(bytes);
        }
    }
}

/// P9: a changed message of any kind is a message or an error.
#[test]
fn no_change_of_a_message_makes_it_panic() {
    crate::corpus::fuzz("messages", 1, |bytes| {
        let shared = Bytes::copy_from_slice(bytes);
        let _ = (IngestRequest::parse(shared.clone()), ExchangeRequest::parse(shared.clone()));
        let _ = (ExchangeResponse::parse(shared.clone()), PublishResponse::parse(shared.clone()));
        let _ = (v1::SubscribeRequest::decode(bytes), v1::CreateTopicRequest::decode(bytes));
        if let Ok(delivery) = SubscribeResponse::parse(shared.clone()) {
            let _ = bytes_of(&delivery);
        }
        // An accepted message has the same meaning for the generated parser.
        if let Ok(request) = ExchangeRequest::parse(shared.clone())
            && let Ok(mut typed) = v1::ExchangeRequest::decode(bytes)
        {
            // A request without a publish is empty, and refused later.
            if let Some(v1::exchange_request::Kind::Publish(numbered)) = &mut typed.kind {
                numbered.publish.get_or_insert_default();
            }
            assert_eq!(v1::ExchangeRequest::decode(bytes_of(&request)).unwrap(), typed);
        }
        if let Ok(request) = IngestRequest::parse(shared.clone())
            && let Ok(typed) = v1::IngestRequest::decode(bytes)
        {
            assert_eq!(v1::IngestRequest::decode(bytes_of(&request)).unwrap(), typed);
        }
        let Ok(publish) = PublishRequest::parse(shared) else { return };
        if Batch::check(publish.records.clone(), BatchLimits::default()).is_ok() {
            // Stored records have the same meaning for the generated parser.
            let ours = bytes_of(&publish);
            let typed = v1::PublishRequest::decode(bytes).expect("ours is no laxer than the contract");
            assert_eq!(v1::PublishRequest::decode(ours).unwrap(), typed);
        }
    });
}
