//! Tests of the journal alone: commits that were written are replayed, a torn tail is dropped, and damage is reported.

use std::path::{Path, PathBuf};

use super::{ALIGN, CommitBuf, SMALL_COMMITS, Spec, Writer, file_name, parse_name};
use crate::record::{Offset, UnixMicros};
use crate::storage::embedded::disk::sim::SimDisk;
use crate::storage::embedded::frame::{Header, Kind};
use crate::storage::embedded::journal_image::{Commit, Image};
use crate::storage::embedded::open::OpenError;

const DIR: &str = "/log";

fn commit(payload: u64) -> CommitBuf {
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
    let mut commit = CommitBuf::default();
    commit.clear();
    commit.push(&header, &[&body]);
    commit
}

fn path() -> PathBuf {
    Path::new(DIR).join(file_name(1))
}

/// Returns a journal with the commits 10, 11 and 12, the first of which is copied if `copied`.
fn written(copied: bool) -> Vec<u8> {
    let disk = SimDisk::default();
    let spec = Spec { seq: 1, capacity: 8 * ALIGN, first_commit: 10 };
    let mut first = commit(10);
    let mut writer = Writer::create(&disk, Path::new(DIR), spec, None, copied.then_some(&mut first)).unwrap();
    for number in writer.next_commit..13 {
        writer.append(&mut commit(number)).unwrap();
    }
    assert!(writer.has_room(4 * ALIGN) && !writer.has_room(5 * ALIGN));
    disk.files().remove(&path()).unwrap()
}

fn replay(bytes: Vec<u8>, before: Option<u64>) -> Result<(Vec<u64>, u64), OpenError> {
    let disk = SimDisk::with(&[(path(), bytes)].into());
    let mut seen = Vec::new();
    let end = Image::read(&disk, &path())?.replay(1, before, |commit| {
        assert_eq!(commit.frames[0].0.first.get(), commit.number);
        seen.push(commit.number);
        Ok(())
    })?;
    Ok((seen, end.next_commit))
}

fn damage(commit: u64, copied: bool) -> Vec<u8> {
    let mut bytes = written(copied);
    bytes[((commit - 9) * ALIGN) as usize + 130] ^= 1;
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

/// P10: later commits, another journal, or the journal's own header prove that a commit was acknowledged.
#[test]
fn damage_is_reported_and_a_torn_tail_is_cut() {
    assert_eq!(replay(damage(12, false), None).unwrap(), (vec![10, 11], 12));
    for (commit, copied, before) in
        [(11, false, None), (10, false, None), (12, false, Some(13)), (10, true, None)]
    {
        let refused = replay(damage(commit, copied), before);
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{commit} {copied} {before:?}: {refused:?}"
        );
    }
    let mut alone = damage(10, true);
    alone[2 * ALIGN as usize..].fill(0);
    assert!(
        matches!(replay(alone, None), Err(OpenError::Damaged { .. })),
        "a copied commit needs no other proof"
    );
}

#[test]
fn commits_of_an_earlier_use_of_the_space_are_not_seen() {
    let disk = SimDisk::default();
    let spec = |seq, first_commit| Spec { seq, capacity: 8 * ALIGN, first_commit };
    let mut old = Writer::create(&disk, Path::new(DIR), spec(1, 10), None, None).unwrap();
    for number in 10..15 {
        old.append(&mut commit(number)).unwrap();
    }
    let mut new = Writer::create(&disk, Path::new(DIR), spec(2, 12), Some(&path()), None).unwrap();
    new.append(&mut commit(12)).unwrap();
    let image = Image::read(&disk, &Path::new(DIR).join(file_name(2))).unwrap();
    let mut seen = Vec::new();
    let visit = |commit: &Commit<'_>| {
        seen.push(commit.number);
        Ok(())
    };
    image.replay(1, None, visit).unwrap();
    assert_eq!(seen, [12]);
}

#[test]
fn a_commit_behind_whose_zeros_the_disk_is_full_is_not_stored() {
    let disk = SimDisk::default();
    let spec = Spec { seq: 1, capacity: 64 * ALIGN, first_commit: 0 };
    let mut writer = Writer::create(&disk, Path::new(DIR), spec, None, None).unwrap();
    let stored = u64::from(SMALL_COMMITS) - 1;
    for number in 0..stored {
        writer.append(&mut commit(number)).unwrap();
    }
    // On a file system that reserves nothing, the next commit fits, but not a single zero after it.
    writer.file.set_len(writer.at + ALIGN).unwrap();
    disk.set_full(true);
    let error = writer.append(&mut commit(stored)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(replay(disk.files().remove(&path()).unwrap(), None).unwrap().1, stored);
    // The zeros are optional, so the commit is stored without them.
    writer.append(&mut commit(stored)).unwrap();
    assert_eq!(replay(disk.files().remove(&path()).unwrap(), None).unwrap().1, stored + 1);
}
