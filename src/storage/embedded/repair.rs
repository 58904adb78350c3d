//! Repair: writes a new catalog and an empty journal for what a scan found intact. Topics that lost nothing
//! keep their epoch and, if none is damaged, their segments. Topics that lost records are rewritten under a
//! new epoch, and the records after a loss get lower offsets; because of the new epoch, a position from
//! before the repair is refused. No file is removed: replaced files are moved aside after the new catalog is
//! durable.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::catalog::{self, Catalog, IdsEntry, SegmentEntry, TopicEntry};
use super::disk::{Disk, Mode};
use super::frame::{self, Header, IdEntry, Kind};
use super::ids;
use super::journal;
use super::open::OpenError;
use super::scan::{self, Scan, Topic};
use super::segment::{self, Fault};
use super::segment_writer::{Limit, SegmentWriter};
use crate::record::block::Blocks;
use crate::record::{Offset, TopicName, UnixMicros};
use crate::storage::tail::Run;

/// Limit at which a rewritten segment is full; a server with another setting accepts the segment too.
const LIMIT: Limit = Limit { bytes: 64 << 20, oldest: UnixMicros(0) };
/// Size of the new journal in bytes. It holds nothing, and the next start creates one of the configured size.
const JOURNAL_BYTES: u64 = 16 * journal::ALIGN;

/// Old ids and current names of the topics that got a new epoch, and the directory of the replaced files.
pub type Done = (Vec<(u64, String)>, PathBuf);

/// Repairs the data directory.
///
/// # Errors
/// Returns the disk's error. The old catalog is still in place then, and the repair can be started again.
pub fn repair(disk: &dyn Disk, dir: &Path, found: &Scan) -> Result<Done, OpenError> {
    let io = |error| OpenError::io(dir, error);
    disk.create_dir(&dir.join("segments")).map_err(io)?;
    let mut work = Repair {
        disk,
        dir,
        found,
        next_topic: found.next_topic.max(found.topics.keys().last().map_or(1, |id| id + 1)),
        ids: ids::FileOut::default(),
        moved: BTreeMap::new(),
        renewed: Vec::new(),
        names: found.topics.values().map(|topic| topic.entry.name.clone()).collect(),
    };
    let mut topics = Vec::new();
    for topic in found.topics.values() {
        topics.push(if topic.is_whole() && !topic.damaged {
            work.keep(topic)?
        } else {
            work.rewrite(topic)?
        });
    }
    let kept_ids = work.old_ids()?;
    disk.sync_dir(&dir.join("segments")).map_err(io)?;
    let commit = found.commit;
    let seq = found.journals.last().copied().max(found.catalog.as_ref().map(|c| c.journal)).unwrap_or(0) + 1;
    // This number is above every commit, and so above every existing ids file.
    let fresh_ids = std::mem::take(&mut work.ids).write(disk, dir, commit + 1).map_err(io)?;
    let spec = journal::Spec { seq, capacity: JOURNAL_BYTES, first_commit: commit + 2 };
    journal::Writer::create(disk, dir, spec, None, None).map_err(io)?;
    let next = Catalog {
        commit: commit + 1,
        journal: seq,
        next_topic: work.next_topic,
        clock: found.clock,
        topics,
        ids: kept_ids.into_iter().chain(fresh_ids).collect(),
        last_acked_commit: 0,
    };
    let aside = work.make_aside(commit)?;
    disk.sync_dir(dir).map_err(io)?;
    next.write(disk, dir).map_err(io)?;
    work.move_aside(&next, &aside)?;
    Ok((work.renewed, aside))
}

struct Repair<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    found: &'a Scan,
    next_topic: u64,
    ids: ids::FileOut,
    /// For the old id of each rewritten topic: its new id, and the new first offset of each remaining batch
    /// by its old one; none if no offset changed.
    moved: BTreeMap<u64, (u64, Option<BTreeMap<u64, u64>>)>,
    renewed: Vec<(u64, String)>,
    names: BTreeSet<String>,
}

impl Repair<'_> {
    /// Keeps a topic that lost nothing: its segments stay, and what the journals held gets a new segment.
    fn keep(&mut self, topic: &Topic) -> Result<TopicEntry, OpenError> {
        let mut entry = topic.entry.clone();
        entry.segments.retain(|segment| segment.end > entry.earliest);
        let mut out = SegmentWriter::new(self.disk, self.dir, (entry.id, entry.epoch), LIMIT);
        for pending in topic.pending.iter().filter(|pending| pending.header.end.get() > entry.earliest) {
            push(&mut out, pending.header.run(pending.blocks.clone()))?;
        }
        entry.segments.extend(finish(&mut out)?);
        for pending in topic.pending.iter().filter(|pending| !pending.ids.is_empty()) {
            let header = &pending.header;
            self.ids.push(entry.id, (header.first, header.end), header.last_time, &pending.ids);
        }
        Ok(entry)
    }

    /// Rewrites a damaged topic under another id. If it lost records or may have lost some, what is left gets
    /// a new epoch.
    fn rewrite(&mut self, topic: &Topic) -> Result<TopicEntry, OpenError> {
        let old = &topic.entry;
        let id = self.next_topic;
        self.next_topic += 1;
        let epoch = if topic.is_whole() { old.epoch } else { self.random()? };
        let mut copy = Copy {
            out: SegmentWriter::new(self.disk, self.dir, (id, epoch), LIMIT),
            next: Offset::new(old.earliest),
            seen: Offset::new(old.earliest),
            last_publish: UnixMicros(0),
            moved: BTreeMap::new(),
        };
        let mut segments = old.segments.clone();
        segments.sort_unstable_by_key(|segment| segment.base);
        for segment in &segments {
            let path = segment::path(self.dir, old.id, Offset::new(segment.base));
            let mut bytes = scan::read_file(self.disk, &path)?.unwrap_or_default();
            bytes.truncate(usize::try_from(segment.len).unwrap_or(usize::MAX));
            for (header, blocks) in scan::segment_frames(&bytes, old.id, segment, |_, _| {}) {
                copy.push(&header, &blocks)?;
            }
        }
        for pending in &topic.pending {
            copy.push(&pending.header, &pending.blocks)?;
        }
        let Copy { mut out, next, last_publish, moved, .. } = copy;
        let segments = finish(&mut out)?;
        // If no offset changed, the request ids of trimmed batches stay remembered too.
        let moved = (!topic.is_whole()).then_some(moved);
        self.moved.insert(old.id, (id, moved));
        for pending in topic.pending.iter().filter(|pending| !pending.ids.is_empty()) {
            self.move_ids(old.id, pending.header.last_time, &pending.ids);
        }
        let name = self.free_name(&old.name, old.id);
        if !topic.is_whole() {
            self.renewed.push((old.id, name.clone()));
        }
        let last_publish = if last_publish.0 == 0 { 0 } else { last_publish.0.max(old.last_publish) };
        // Offsets changed if records were lost, so that no earlier position is valid.
        let restored_from = if topic.is_whole() { old.restored_from.clone() } else { Vec::new() };
        let tail = next.get();
        Ok(TopicEntry { id, name, epoch, tail, last_publish, segments, restored_from, ..old.clone() })
    }

    fn random(&self) -> Result<u64, OpenError> {
        getrandom::u64().map_err(|e| OpenError::io(self.dir, std::io::Error::other(e.to_string())))
    }

    /// Returns the topic's own name if it is valid, and a name made up from its id otherwise.
    fn free_name(&mut self, name: &str, id: u64) -> String {
        let mut name = name.to_owned();
        while TopicName::stored(&name).is_err() || !self.names.contains(&name) {
            name = format!("recovered-{id:x}");
            self.names.insert(name.clone());
        }
        name
    }

    /// Adds the request ids of batches that are still there, with their new offsets. Those of lost batches
    /// are dropped, so that repeating such a publish stores it.
    fn move_ids(&mut self, old: u64, time: UnixMicros, section: &[u8]) {
        let Some((id, moved)) = self.moved.get(&old) else { return };
        let mut out = Vec::new();
        for entry in frame::ids(section) {
            let at = entry.first.get();
            if let Some(first) = moved.as_ref().map_or(Some(at), |moved| moved.get(&at).copied()) {
                IdEntry { first: Offset::new(first), ..entry }.encode(&mut out);
            }
        }
        if !out.is_empty() {
            self.ids.push(*id, (Offset::ZERO, Offset::ZERO), time, &out);
        }
    }

    /// Returns the ids files that stay as they are; what is intact in the others goes to the new one.
    fn old_ids(&mut self) -> Result<Vec<IdsEntry>, OpenError> {
        let known = self.found.catalog.is_some();
        let mut kept = Vec::new();
        for (entry, whole) in
            self.found.ids.iter().map(|e| (e, true)).chain(self.found.bad_ids.iter().map(|e| (e, false)))
        {
            let path = self.dir.join(ids::file_name(entry.seq));
            let mut bytes = scan::read_file(self.disk, &path)?.unwrap_or_default();
            bytes.truncate(usize::try_from(entry.len).unwrap_or(usize::MAX));
            let mut sections = Vec::new();
            scan::frames(
                &bytes,
                0,
                |header| header.kind == Kind::Ids,
                |_, found| sections.extend(found.ok()),
            );
            for (header, section) in sections {
                if self.moved.contains_key(&header.topic) {
                    self.move_ids(header.topic, header.last_time, section);
                } else if !(whole && known) {
                    self.ids.push(header.topic, (header.first, header.end), header.last_time, section);
                }
            }
            if whole && known {
                kept.push(*entry);
            }
        }
        Ok(kept)
    }

    /// Creates the directory for replaced files, with a copy of the old catalog in it.
    fn make_aside(&self, commit: u64) -> Result<PathBuf, OpenError> {
        let aside = self.dir.join(format!("replaced-{commit:016x}"));
        let io = |error| OpenError::io(&aside, error);
        self.disk.create_dir(&aside).map_err(io)?;
        let catalog = self.dir.join(catalog::FILE_NAME);
        if let Some(bytes) = scan::read_file(self.disk, &catalog)? {
            let copy = self.disk.open(&aside.join(catalog::FILE_NAME), Mode::Create).map_err(io)?;
            copy.write_at(&bytes, 0).map_err(io)?;
            copy.sync().map_err(io)?;
        }
        Ok(aside)
    }

    /// Moves the files that the new catalog does not name to the directory `aside`.
    fn move_aside(&self, now: &Catalog, aside: &Path) -> Result<(), OpenError> {
        let segments = now.topics.iter().flat_map(|topic| {
            topic.segments.iter().map(|segment| segment::file_name(topic.id, Offset::new(segment.base)))
        });
        let mut named: HashSet<String> = segments.collect();
        named.extend(now.ids.iter().map(|entry| ids::file_name(entry.seq)));
        named.insert(journal::file_name(now.journal));
        for from in [self.dir.to_owned(), self.dir.join("segments")] {
            let listed = self.disk.list(&from).map_err(|e| OpenError::io(&from, e))?;
            for (name, _) in listed {
                let ours = segment::parse_name(&name).is_some()
                    || ids::parse_name(&name).is_some()
                    || journal::parse_name(&name).is_some();
                if ours && !named.contains(&name) {
                    self.disk
                        .rename(&from.join(&name), &aside.join(&name))
                        .map_err(|e| OpenError::io(aside, e))?;
                }
            }
            self.disk.sync_dir(&from).map_err(|e| OpenError::io(&from, e))?;
        }
        self.disk.sync_dir(aside).map_err(|e| OpenError::io(aside, e))
    }
}

/// Copies the intact blocks of a damaged topic to new segments, with offsets that leave no gap.
struct Copy<'a> {
    out: SegmentWriter<'a>,
    /// New offset of the next record.
    next: Offset,
    /// Old offset up to which blocks were copied. A block below it is another copy, or was trimmed.
    seen: Offset,
    /// Time of the last publish that was copied; zero if there is none.
    last_publish: UnixMicros,
    /// New first offset of each batch by its old one.
    moved: BTreeMap<u64, u64>,
}

impl Copy<'_> {
    fn push(&mut self, header: &Header, blocks: &Bytes) -> Result<(), OpenError> {
        let mut copied = BytesMut::new();
        let (first, mut batches) = (self.next, 0);
        for block in Blocks::new(blocks).map_while(Result::ok) {
            if block.first < self.seen {
                continue;
            }
            block.moved_to(self.next, &mut copied);
            self.moved.insert(block.first.get(), self.next.get());
            self.seen = block.first.plus(block.count());
            self.next = self.next.plus(block.count());
            batches += 1;
        }
        self.last_publish = header.last_time;
        if batches == 0 {
            return Ok(());
        }
        let header = Header { first, end: self.next, batches, ..*header };
        push(&mut self.out, header.run(copied.freeze()))
    }
}

fn push(out: &mut SegmentWriter<'_>, run: Run) -> Result<(), OpenError> {
    out.push(run).map_err(|fault| refused(&out.path(), fault))
}

/// Finishes writing, and returns the entries of the segments that were written.
fn finish(out: &mut SegmentWriter<'_>) -> Result<Vec<SegmentEntry>, OpenError> {
    let written = out.finish().map_err(|fault| refused(&out.path(), fault))?;
    Ok(written.iter().map(SegmentEntry::from).collect())
}

fn refused(path: &Path, fault: Fault) -> OpenError {
    match fault {
        Fault::Io(error) => OpenError::io(path, error),
        damaged @ Fault::Damaged { .. } => OpenError::damaged(path, damaged.to_string()),
    }
}
