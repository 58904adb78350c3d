//! Tests of files that are no whole backup, though every checksum of some of them matches.

use bytes::BytesMut;
use prost::Message;

use super::{Backup, Kind};
use crate::cli::backup::Writer;
use crate::proto::v1;
use crate::record::block::encode;
use crate::record::{Batch, BatchLimits, Offset, UnixMicros};

#[test]
fn a_pipe_is_no_backup_and_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = Backup::open(&pipe, |_| ()).unwrap_err();
    assert!(refused.message.contains("not a regular file"), "{}", refused.message);
}

fn topic(name: &str) -> v1::Topic {
    let numbering = v1::OffsetNumbering::Dense.into();
    v1::Topic { name: name.into(), epoch: "00000000000000aa".into(), numbering, ..v1::Topic::default() }
}

/// One batch with the record `value`, as a backup holds it.
fn batch(first: u64) -> Vec<u8> {
    let record = v1::Record { value: "value".into(), ..v1::Record::default() };
    let records = v1::PublishRequest { records: vec![record], ..v1::PublishRequest::default() };
    let batch = Batch::check(records.encode_to_vec().into(), BatchLimits::default()).unwrap();
    let mut out = BytesMut::new();
    encode(Offset::new(first), UnixMicros(1_000_000), &batch, &mut out);
    out.to_vec()
}

/// Writes a file of these topics, each with its batches and its tail, and returns the damage that a check finds.
fn checked(topics: &[(v1::Topic, Vec<Vec<u8>>, u64)]) -> Option<&'static str> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.backup");
    let mut writer = Writer::open(&path).unwrap();
    for (topic, batches, tail) in topics {
        writer.begin(topic).unwrap();
        for batch in batches {
            writer.put(Kind::Batch, batch).unwrap();
        }
        writer.counts = [batches.len() as u64; 2];
        writer.end(*tail).unwrap();
    }
    writer.finish().unwrap();
    Backup::check(&path).unwrap().1.map(|(_, why)| why)
}

/// Whoever writes checksums that match can write anything. What no server could restore is told before one is asked to.
#[test]
fn a_file_that_no_server_could_restore_is_damaged_whatever_its_checksums_say() {
    let whole = |topic| checked(&[(topic, vec![batch(0), batch(1)], 2)]);
    let restored = |from: &[(&str, u64)]| {
        let of = |(epoch, cut): &(&str, u64)| v1::RestoredFrom { epoch: (*epoch).into(), cut: *cut };
        v1::Topic { restored_from: from.iter().map(of).collect(), ..topic("a") }
    };
    assert_eq!(whole(topic("a")), None);
    assert_eq!(whole(restored(&[("00000000000000bb", 2), ("00000000000000cc", 1)])), None);
    let many: Vec<_> = (0..17).map(|n| format!("{n:016x}")).collect();
    let many: Vec<_> = many.iter().map(|epoch| (epoch.as_str(), 1)).collect();
    assert_eq!(whole(restored(&many[..16])), None, "as many as a topic remembers");
    let lineage = Some("a topic's lineage is malformed");
    for from in [&[("xyz", 1)][..], &[("00000000000000aa", 1)], &[("00000000000000bb", 3)], &many] {
        assert_eq!(whole(restored(from)), lineage, "{from:?}");
    }
    assert_eq!(checked(&[(topic("a"), Vec::new(), (1 << 62) + 1)]), lineage);
    let twice = ["a", "a"].map(|name| (topic(name), vec![batch(0)], 1));
    assert_eq!(checked(&twice), Some("a topic occurs twice"));
    let sparse = |name| v1::Topic { numbering: v1::OffsetNumbering::Sparse.into(), ..topic(name) };
    assert_eq!(checked(&[(sparse("a"), vec![batch(1024)], 2048)]), None);
    for (first, tail) in [(1, 2048), (1024, 2047)] {
        let found = checked(&[(sparse("a"), vec![batch(first)], tail)]);
        assert_eq!(found, Some("a topic's offsets are not of its numbering"), "{first} to {tail}");
    }
    let max_age = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let retention = Some(v1::Retention { max_age, ..v1::Retention::default() });
    assert_eq!(whole(v1::Topic { retention, ..topic("a") }), Some("a topic's retention is negative"));
    // The value of the record is longer than the record.
    let mut malformed = batch(0);
    let len = malformed.len();
    assert_eq!(&malformed[len - 6..], b"\x05value");
    malformed[len - 6] = 6;
    assert_eq!(checked(&[(topic("a"), vec![malformed], 1)]), Some("a batch is malformed"));
}
