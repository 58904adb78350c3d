//! Tests that read the stored formats from arbitrary bytes: the result is a value or an error, never a panic (P9, P10).
//! Formats with a checksum get a correct one, so that the code after its check is tested.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::catalog::{Catalog, Change, ChangeKind, FILE_NAME, TopicEntry};
use super::crash_tests::{DIR, open};
use super::disk::sim::SimDisk;
use super::frame::{Header, ids};
use super::{check, journal, scan};
use crate::record::block::{Blocks, ending_at, starting_at};
use crate::record::walk::check_record;
use crate::record::{Batch, BatchLimits, Offset};

/// Generates bytes that resemble protobuf: many are short lengths or known tags.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![any::<u8>(), prop::sample::select(vec![0x0a, 0x08, 0x12, 0x1a, 0x22, 0x10, 0, 1, 2])];
    proptest::collection::vec(byte, 0..most)
}

/// Makes a catalog file of this body, with a correct checksum.
fn catalog(body: &[u8]) -> Vec<u8> {
    let mut file = b"STRMWYC1".to_vec();
    file.extend(1_u32.to_le_bytes());
    file.extend(crc32c::crc32c(body).to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(body);
    file
}

/// Makes a journal whose only commit holds these frames, with correct checksums.
fn journal_of(body: &[u8]) -> Vec<u8> {
    let mut head = vec![0; 24];
    head[0] = 1;
    head[16] = 1;
    let mut file = b"STRMWYJ1".to_vec();
    file.extend(crc32c::crc32c(&head).to_le_bytes());
    file.extend(head);
    file.resize(4096, 0);
    let mut commit = Vec::new();
    commit.extend(0_u64.to_le_bytes());
    commit.extend(1_u64.to_le_bytes());
    commit.extend((body.len() as u32).to_le_bytes());
    commit.extend(1_u32.to_le_bytes());
    commit.extend(crc32c::crc32c(&body[..64.min(body.len())]).to_le_bytes());
    commit.resize(56, 0);
    file.extend(0x5047_5753_u32.to_le_bytes());
    file.extend(crc32c::crc32c(&commit).to_le_bytes());
    file.extend(commit);
    file.extend(body);
    file.resize(file.len().next_multiple_of(4096), 0);
    file
}

/// Makes a frame with this body and these numbers, with correct checksums.
fn frame(kind: u16, split: usize, numbers: [u64; 3], body: &[u8]) -> Vec<u8> {
    let split = split.min(body.len()) as u32;
    let mut head = crc32c::crc32c(body).to_le_bytes().to_vec();
    head.extend(split.to_le_bytes());
    head.extend((body.len() as u32 - split).to_le_bytes());
    head.extend(kind.to_le_bytes());
    head.extend([0, 0, 1, 0, 0, 0]);
    numbers.iter().for_each(|number| head.extend(number.to_le_bytes()));
    head.resize(60, 0);
    [&crc32c::crc32c(&head).to_le_bytes()[..], &head, body].concat()
}

fn look_at(files: &[(&str, Vec<u8>)]) {
    let files = files.iter().map(|(name, data)| (Path::new(DIR).join(name), data.clone())).collect();
    drop(open(&SimDisk::with(&files)));
    let _ = scan::scan(&SimDisk::with(&files), Path::new(DIR));
    let disk = SimDisk::with(&files);
    if check::repair_on(&disk, Path::new(DIR)).is_ok() {
        drop(open(&disk));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn runs_of_blocks(data in bytes(200), at in 0..300_u64) {
        let run = Bytes::from(data);
        for block in Blocks::new(&run).map_while(Result::ok) {
            let _ = (block.count(), block.time(), block.traceparent(), block.part(at, at + 1));
            block.records().for_each(drop);
            block.moved_to(Offset::new(at), &mut Vec::new());
        }
        let _ = (starting_at(&run, Offset::new(at)), ending_at(&run, Offset::new(at)));
    }

    #[test]
    fn records_and_batches(data in bytes(200)) {
        let _ = check_record(&data);
        let _ = Batch::check(data.into(), BatchLimits::default());
    }

    #[test]
    fn frames_and_changes(data in bytes(300)) {
        let _ = (Header::decode(&data), Header::decode_frame(&data), Change::decode(&data[..]));
        ids(&data).for_each(drop);
        scan::frames(&data, 0, |_| true, |_, _| {});
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn catalogs(body in bytes(120), whole: bool) {
        let body = if whole { Catalog::decode(&body[..]).unwrap_or_default().encode_to_vec() } else { body };
        look_at(&[(FILE_NAME, catalog(&body)), (&journal::file_name(1), journal_of(&[]))]);
    }

    #[test]
    fn journals(
        kind in 0..5_u16, split in 0..100_usize, topic in 0..3_u64, first in prop_oneof![Just(0), any::<u64>()],
        len in prop_oneof![0..4_u64, any::<u64>()], body in bytes(100),
    ) {
        let known = Catalog { journal: 1, next_topic: 2, topics: vec![super::catalog::TopicEntry {
            id: 1, name: "t".into(), ..Default::default() }], ..Catalog::default() };
        let body = frame(kind, split, [topic, first, first.saturating_add(len)], &body);
        look_at(&[(FILE_NAME, catalog(&known.encode_to_vec())), (&journal::file_name(1), journal_of(&body))]);
    }
}

/// P9: no change of a client's records makes the record walker panic.
#[test]
fn no_change_of_records_makes_the_walker_panic() {
    crate::corpus::fuzz("records", 1, |bytes| {
        let ours = check_record(bytes);
        let typed = crate::proto::v1::Record::decode(bytes);
        assert!(ours.is_err() || typed.is_ok(), "ours is no laxer than the contract");
        if let Ok(batch) = Batch::check(bytes.to_vec().into(), BatchLimits::default()) {
            assert!(batch.count() > 0);
        }
    });
}

/// P10: no change of the contents of journals, segments, ids files or catalogs makes reading panic, even if the
/// checksum is correct.
#[test]
fn no_change_of_a_stored_format_makes_reading_panic() {
    crate::corpus::fuzz("frames", 1, |bytes| {
        let _ = (Header::decode(bytes), Header::decode_frame(bytes), Change::decode(bytes));
        scan::frames(bytes, 0, |_| true, |_, _| {});
        ids(bytes).for_each(drop);
        let run = Bytes::copy_from_slice(bytes);
        for block in Blocks::new(&run).map_while(Result::ok) {
            block.records().for_each(drop);
        }
    });
}

/// P10: catalogs and journals with correct checksums are opened, scanned and repaired without a panic.
#[test]
fn no_change_of_a_catalog_or_a_journal_makes_opening_panic() {
    crate::corpus::fuzz("catalogs", 20, |bytes| {
        if Catalog::decode(bytes).is_ok() {
            look_at(&[(FILE_NAME, catalog(bytes)), (&journal::file_name(1), journal_of(&[]))]);
        }
    });
    crate::corpus::fuzz("bodies", 20, |bytes| {
        let Some(([kind, split], body)) = bytes.split_first_chunk() else { return };
        let known = Catalog { journal: 1, next_topic: 2, topics: vec![orders()], ..Catalog::default() };
        let framed = frame(u16::from(*kind), usize::from(*split), [1, 0, 2], body);
        look_at(&[
            (FILE_NAME, catalog(&known.encode_to_vec())),
            (&journal::file_name(1), journal_of(&framed)),
        ]);
    });
}

fn orders() -> TopicEntry {
    TopicEntry { id: 1, name: "orders".into(), ..TopicEntry::default() }
}

/// Regenerates the corpora from what this program writes: `cargo test make_the_corpora -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn make_the_corpora() {
    use crate::proto::v1;
    let keep = |corpus: &str, name: &str, bytes: &[u8]| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    };
    let record = |value: &'static [u8]| v1::Record { value: value.into(), ..v1::Record::default() };
    let full = v1::Record {
        key: b"key"[..].into(),
        headers: [("content-type".to_owned(), "text/plain".to_owned()), ("é".to_owned(), String::new())]
            .into(),
        event_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 999_999_999 }),
        ..record(b"value")
    };
    keep("records", "empty", b"");
    keep("records", "full", &full.encode_to_vec());
    keep("records", "value", &record(b"hello").encode_to_vec());
    let publish = v1::PublishRequest {
        topic: "orders".into(),
        request_id: "id-1".into(),
        records: vec![full, record(b""), record(&[0xff; 60])],
        expected_offset: Some(u64::MAX),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    };
    keep("records", "batch", &publish.encode_to_vec());
    keep("messages", "publish", &publish.encode_to_vec());
    keep("messages", "ingest", &v1::IngestRequest { publish: Some(publish.clone()) }.encode_to_vec());
    let position = v1::Position { epoch: "0123456789abcdef".into(), offset: 7 };
    let subscribe = v1::SubscribeRequest {
        topic: "orders".into(),
        start: Some(v1::subscribe_request::Start::Position(position.clone())),
        limit: Some(v1::ReadLimit { max_records: 3, stop_at_tail: true, ..v1::ReadLimit::default() }),
        heartbeat_interval: Some(prost_types::Duration { seconds: 5, nanos: 1 }),
        ..v1::SubscribeRequest::default()
    };
    keep("messages", "subscribe", &subscribe.encode_to_vec());
    let open =
        v1::Open { topic: "orders".into(), subscribe: Some(subscribe), window: 5, merge_receipts: true };
    for (name, kind) in [
        ("open", v1::exchange_request::Kind::Open(open)),
        (
            "numbered",
            v1::exchange_request::Kind::Publish(v1::NumberedPublish {
                number: 1,
                publish: Some(publish.clone()),
            }),
        ),
    ] {
        keep("messages", name, &v1::ExchangeRequest { kind: Some(kind) }.encode_to_vec());
    }
    let batch = v1::RecordBatch { first_offset: 7, records: publish.records, ..v1::RecordBatch::default() };
    let delivery =
        v1::SubscribeResponse { batches: vec![batch; 2], next: Some(position), tail: 13, notice: 1 };
    keep("messages", "delivery", &delivery.encode_to_vec());
    keep("frames", "delivery", &delivery.encode_to_vec());
    let blocks = v1::SubscribeResponse { next: None, tail: 0, notice: 0, ..delivery }.encode_to_vec();
    let ids = [&7_u64.to_le_bytes()[..], &3_u32.to_le_bytes(), &[4], b"id-1"].concat();
    let change = Change { kind: Some(ChangeKind::Create(orders())) }.encode_to_vec();
    let split = blocks.len().min(255);
    for (kind, name, split, body) in
        [(1, "batches", split, [&blocks[..], &ids].concat()), (2, "create", 255, change), (3, "ids", 0, ids)]
    {
        keep("frames", name, &frame(kind, split, [1, 0, 2], &body));
        keep("bodies", name, &[&[kind as u8, split as u8][..], &body].concat());
    }
    let full = Catalog {
        commit: 3,
        journal: 1,
        next_topic: 2,
        clock: 5,
        topics: vec![orders()],
        ..Catalog::default()
    };
    keep("catalogs", "empty", &Catalog { journal: 1, ..Catalog::default() }.encode_to_vec());
    keep("catalogs", "topic", &full.encode_to_vec());
}
