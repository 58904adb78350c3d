//! Arbitrary bytes where the stored formats are read: an answer or an error, never a panic (P9, P10).
//! Those that carry a checksum are given a right one, so that what lies behind it is reached.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::catalog::{Catalog, Change, FILE_NAME};
use super::crash_tests::{DIR, open};
use super::disk::sim::SimDisk;
use super::frame::{Header, ids};
use super::{check, journal, survey};
use crate::record::block::{Blocks, ending_at, starting_at};
use crate::record::walk::check_record;
use crate::record::{Batch, BatchLimits, Offset};

/// Bytes that look a little like protobuf: short lengths, known tags.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![any::<u8>(), prop::sample::select(vec![0x0a, 0x08, 0x12, 0x1a, 0x22, 0x10, 0, 1, 2])];
    proptest::collection::vec(byte, 0..most)
}

/// A catalog of this body, with a right checksum.
fn catalog(body: &[u8]) -> Vec<u8> {
    let mut file = b"STRMWYC1".to_vec();
    file.extend(1_u32.to_le_bytes());
    file.extend(crc32c::crc32c(body).to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(body);
    file
}

/// A journal whose only group holds these frames, all checksums right.
fn journal_of(body: &[u8]) -> Vec<u8> {
    let mut head = vec![0; 24];
    head[0] = 1;
    head[16] = 1;
    let mut file = b"STRMWYJ1".to_vec();
    file.extend(crc32c::crc32c(&head).to_le_bytes());
    file.extend(head);
    file.resize(4096, 0);
    let mut group = Vec::new();
    group.extend(0_u64.to_le_bytes());
    group.extend(1_u64.to_le_bytes());
    group.extend((body.len() as u32).to_le_bytes());
    group.extend(1_u32.to_le_bytes());
    group.extend(crc32c::crc32c(&body[..64.min(body.len())]).to_le_bytes());
    group.resize(56, 0);
    file.extend(0x5047_5753_u32.to_le_bytes());
    file.extend(crc32c::crc32c(&group).to_le_bytes());
    file.extend(group);
    file.extend(body);
    file.resize(file.len().next_multiple_of(4096), 0);
    file
}

/// A frame with this body and these numbers, its checksums right.
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
    let _ = survey::survey(&SimDisk::with(&files), Path::new(DIR));
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
        survey::frames(&data, 0, |_| true, |_, _| {});
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
