//! The journal by itself: what is written is replayed, a torn tail is cut, damage is reported.

use std::path::{Path, PathBuf};

use super::{ALIGN, GroupBuf, Image, SMALL_GROUPS, Spec, Writer, file_name, parse_name};
use crate::record::{Offset, UnixMicros};
use crate::storage::embedded::disk::sim::SimDisk;
use crate::storage::embedded::frame::{Header, Kind};
use crate::storage::embedded::open::OpenError;

const DIR: &str = "/log";

fn group(payload: u64) -> GroupBuf {
    let body = payload.to_le_bytes();
    let header = Header {
        kind: Kind::Batches,
        body_crc: crc32c::crc32c(&body),
        blocks_len: 8,
        ids_len: 0,
        batches: 1,
        topic: 1,
        first: Offset::new(payload),
        end: Offset::new(payload + 1),
        first_time: UnixMicros(payload),
        last_time: UnixMicros(payload),
    };
    let mut group = GroupBuf::default();
    group.clear();
    group.push(&header, &[&body]);
    group
}

fn path() -> PathBuf {
    Path::new(DIR).join(file_name(1))
}

/// A journal of the groups 10, 11, 12, of which the first is copied if `copied`.
fn written(copied: bool) -> Vec<u8> {
    let disk = SimDisk::default();
    let spec = Spec { seq: 1, capacity: 8 * ALIGN, first_group: 10 };
    let mut first = group(10);
    let mut writer = Writer::create(&disk, Path::new(DIR), spec, None, copied.then_some(&mut first)).unwrap();
    for number in writer.next_group..13 {
        writer.append(&mut group(number)).unwrap();
    }
    assert!(writer.has_room(4 * ALIGN) && !writer.has_room(5 * ALIGN));
    disk.files().remove(&path()).unwrap()
}

fn replay(bytes: Vec<u8>, before: Option<u64>) -> Result<(Vec<u64>, u64), OpenError> {
    let disk = SimDisk::with(&[(path(), bytes)].into());
    let mut seen = Vec::new();
    let end = Image::read(&disk, &path())?.replay(1, before, |group| {
        assert_eq!(group.frames[0].0.first.get(), group.number);
        seen.push(group.number);
        Ok(())
    })?;
    Ok((seen, end.next_group))
}

fn damage(group: u64, copied: bool) -> Vec<u8> {
    let mut bytes = written(copied);
    bytes[((group - 9) * ALIGN) as usize + 130] ^= 1;
    bytes
}

#[test]
fn what_was_written_is_replayed() {
    assert_eq!(replay(written(false), None).unwrap(), (vec![10, 11, 12], 13));
    assert_eq!(replay(written(true), Some(12)).unwrap(), (vec![10, 11], 12));
    assert_eq!(replay(written(true), Some(5)).unwrap(), (vec![], 10));
    assert_eq!(parse_name(&file_name(0xabc)), Some(0xabc));
    assert_eq!(parse_name("journal-1.log"), None);
}

/// P10: what follows, or another journal, or its own header proves that a group was acknowledged.
#[test]
fn damage_is_reported_and_a_torn_tail_is_cut() {
    assert_eq!(replay(damage(12, false), None).unwrap(), (vec![10, 11], 12));
    for (group, copied, before) in
        [(11, false, None), (10, false, None), (12, false, Some(13)), (10, true, None)]
    {
        let refused = replay(damage(group, copied), before);
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{group} {copied} {before:?}: {refused:?}"
        );
    }
    let mut alone = damage(10, true);
    alone[2 * ALIGN as usize..].fill(0);
    assert!(
        matches!(replay(alone, None), Err(OpenError::Damaged { .. })),
        "a copied group needs no other proof"
    );
}

#[test]
fn groups_of_an_earlier_use_of_the_space_are_not_seen() {
    let disk = SimDisk::default();
    let spec = |seq, first_group| Spec { seq, capacity: 8 * ALIGN, first_group };
    let mut old = Writer::create(&disk, Path::new(DIR), spec(1, 10), None, None).unwrap();
    for number in 10..15 {
        old.append(&mut group(number)).unwrap();
    }
    let mut new = Writer::create(&disk, Path::new(DIR), spec(2, 12), Some(&path()), None).unwrap();
    new.append(&mut group(12)).unwrap();
    let image = Image::read(&disk, &Path::new(DIR).join(file_name(2))).unwrap();
    let mut seen = Vec::new();
    let visit = |group: &super::Group<'_>| {
        seen.push(group.number);
        Ok(())
    };
    image.replay(1, None, visit).unwrap();
    assert_eq!(seen, [12]);
}

#[test]
fn a_group_behind_whose_zeros_the_disk_is_full_is_not_stored() {
    let disk = SimDisk::default();
    let spec = Spec { seq: 1, capacity: 64 * ALIGN, first_group: 0 };
    let mut writer = Writer::create(&disk, Path::new(DIR), spec, None, None).unwrap();
    let stored = u64::from(SMALL_GROUPS) - 1;
    for number in 0..stored {
        writer.append(&mut group(number)).unwrap();
    }
    // A file system that reserves nothing: the next group fits, and not a zero behind it.
    writer.file.set_len(writer.at + ALIGN).unwrap();
    disk.set_full(true);
    let error = writer.append(&mut group(stored)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(replay(disk.files().remove(&path()).unwrap(), None).unwrap().1, stored);
    // Zeros are a help: without them it is stored.
    writer.append(&mut group(stored)).unwrap();
    assert_eq!(replay(disk.files().remove(&path()).unwrap(), None).unwrap().1, stored + 1);
}
