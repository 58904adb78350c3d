//! Scan of the segments and the files of request ids, compared with the catalog. At most one of them is in memory at a
//! time.

use super::Looking;
use super::frames::{frames, segment_frames};
use super::read_file;
use crate::record::Offset;
use crate::storage::embedded::catalog::{IdsEntry, SegmentEntry, TopicEntry};
use crate::storage::embedded::frame::Kind;
use crate::storage::embedded::ids;
use crate::storage::embedded::open::OpenError;
use crate::storage::embedded::segment;

impl Looking<'_> {
    pub(super) fn segments(&mut self) -> Result<(), OpenError> {
        if self.out.catalog.is_none() {
            return self.unnamed_segments();
        }
        let entries: Vec<TopicEntry> = self.out.topics.values().map(|topic| topic.entry.clone()).collect();
        for entry in entries {
            let (mut whole, before) = (Vec::new(), self.out.damages.len());
            for segment in &entry.segments {
                whole.extend(self.segment(entry.id, entry.epoch, segment)?);
            }
            whole.sort_unstable();
            let lost = gaps(entry.earliest, &whole, entry.tail);
            let named = gaps(
                entry.earliest,
                &entry.segments.iter().map(|s| (s.base, s.end)).collect::<Vec<_>>(),
                entry.tail,
            );
            let damaged = self.out.damages.len() > before;
            if let Some(topic) = self.out.topics.get_mut(&entry.id) {
                (topic.lost, topic.damaged) = (lost, damaged);
                topic.unnamed = named.first().copied();
            }
        }
        Ok(())
    }

    /// Checks one segment. Returns the ranges of offsets that are whole.
    fn segment(
        &mut self,
        topic: u64,
        epoch: u64,
        entry: &SegmentEntry,
    ) -> Result<Vec<(u64, u64)>, OpenError> {
        let path = segment::path(self.dir, topic, Offset::new(entry.base));
        let Some(mut bytes) = read_file(self.disk, &path)? else {
            self.damage(&path, 0, "segment is missing");
            return Ok(Vec::new());
        };
        let len = bytes.len() as u64;
        if len > entry.len {
            self.out.notes.push(format!(
                "{}: {} bytes of a checkpoint that was cut short",
                path.display(),
                len - entry.len
            ));
            bytes.truncate(entry.len as usize);
        }
        if len < entry.len {
            self.damage(&path, len, format!("segment ends {} bytes early", entry.len - len));
        }
        let header = segment::file_header(topic, epoch, Offset::new(entry.base));
        if !bytes.starts_with(&header) {
            self.damage(&path, 0, "segment header is not this segment's");
        }
        self.out.segments = (self.out.segments.0 + 1, self.out.segments.1 + len.min(entry.len));
        let found = segment_frames(&bytes, topic, entry, |at, what| self.damage(&path, at as u64, what));
        Ok(found.iter().map(|(header, _)| (header.first.get(), header.end.get())).collect())
    }

    /// Scans all segment files. Without a catalog, every one of them belongs to some topic.
    fn unnamed_segments(&mut self) -> Result<(), OpenError> {
        for (name, len) in self.segment_names()? {
            let Some((id, base)) = segment::parse_name(&name) else { continue };
            let entry = SegmentEntry { base: base.get(), end: u64::MAX, len, ..SegmentEntry::default() };
            let path = segment::path(self.dir, id, base);
            let bytes = read_file(self.disk, &path)?.unwrap_or_default();
            let found = segment_frames(&bytes, id, &entry, |at, what| self.damage(&path, at as u64, what));
            self.out.segments = (self.out.segments.0 + 1, self.out.segments.1 + len);
            let Some(end) = found.iter().map(|(header, _)| header.end.get()).max() else { continue };
            let topic = self.owner(id, base.get());
            topic.entry.tail = topic.entry.tail.max(end);
            topic.entry.earliest = topic.entry.earliest.min(base.get());
            topic.entry.segments.push(SegmentEntry { end, ..entry });
            self.out.clock =
                found.iter().map(|(header, _)| header.last_time.0).fold(self.out.clock, u64::max);
        }
        Ok(())
    }

    pub(super) fn ids(&mut self, names: &[String]) -> Result<(), OpenError> {
        let entries: Vec<IdsEntry> = match &self.out.catalog {
            Some(catalog) => catalog.ids.clone(),
            None => {
                let seqs = names.iter().filter_map(|name| ids::parse_name(name));
                seqs.map(|seq| IdsEntry { seq, len: u64::MAX, ..IdsEntry::default() }).collect()
            }
        };
        for entry in entries {
            let path = self.dir.join(ids::file_name(entry.seq));
            let before = self.out.damages.len();
            let bytes = read_file(self.disk, &path)?;
            let len = bytes.as_ref().map_or(0, Vec::len);
            if bytes.is_none() || (len as u64) < entry.len && entry.len != u64::MAX {
                let what =
                    if bytes.is_none() { "file is missing" } else { "file is shorter than the catalog says" };
                self.damage(&path, len as u64, what);
            }
            let bytes = bytes.unwrap_or_default();
            let bytes = &bytes[..len.min(usize::try_from(entry.len).unwrap_or(usize::MAX))];
            frames(
                bytes,
                0,
                |header| header.kind == Kind::Ids,
                |at, found| {
                    if let Err((bad, _)) = found {
                        self.damage(&path, at as u64, bad.to_string());
                    }
                },
            );
            let mut whole = self.out.damages.len() == before;
            if whole && entry.crc.is_some_and(|crc| crc != crc32c::crc32c(bytes)) {
                self.damage(&path, 0, "file is not what the catalog says");
                whole = false;
            }
            if whole { self.out.ids.push(entry) } else { self.out.bad_ids.push(entry) }
        }
        Ok(())
    }
}

/// Returns the gaps from `next` to `tail` between these ranges, which are in order.
fn gaps(mut next: u64, ranges: &[(u64, u64)], tail: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    for &(first, end) in ranges.iter().chain([&(tail, tail)]) {
        if first > next {
            out.push((next, first));
        }
        next = next.max(end);
    }
    out
}
