//! Index of the ids files by topic, so that a page of a topic's request ids reads only what it answers. A file is indexed
//! when request ids are listed for the first time after it was written: most servers are never asked for them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use super::disk::{Disk, Mode, read_file};
use super::frame::{self, Header};
use super::ids;
use crate::record::{Offset, UnixMicros};
use crate::storage::contract::FirstIds;

/// Number of bytes above which adjacent frames of a topic are no longer joined to one span.
const SPAN_BYTES: u64 = 64 << 10;

/// Adjacent frames of a file with ids of one topic.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: u64,
    len: u64,
    /// Offset of the first batch with an id.
    first: Offset,
    /// Offset of the last batch with an id.
    last: Offset,
    /// Time at which its newest id was stored.
    last_time: UnixMicros,
}

/// Spans of one file.
#[derive(Debug, Default)]
struct FileIndex {
    /// Length of the frames that were intact. A file that is longer was being written.
    len: u64,
    topics: HashMap<u64, Vec<Span>>,
}

impl FileIndex {
    fn of(bytes: &[u8]) -> Self {
        let (mut index, mut rest) = (Self::default(), bytes);
        while let Ok((header, body)) = Header::decode_frame(rest) {
            let len = header.frame_len();
            index.add(&header, body, len as u64);
            rest = &rest[len..];
        }
        index
    }

    fn add(&mut self, header: &Header, body: &[u8], len: u64) {
        let at = self.len;
        self.len += len;
        let Some((first, last)) = range(body) else { return };
        let spans = self.topics.entry(header.topic).or_default();
        match spans.last_mut() {
            Some(span) if span.at + span.len == at && span.len < SPAN_BYTES => {
                span.len += len;
                (span.first, span.last) = (span.first.min(first), span.last.max(last));
                span.last_time = span.last_time.max(header.last_time);
            }
            _ => spans.push(Span { at, len, first, last, last_time: header.last_time }),
        }
    }
}

/// Returns the lowest and the highest offset of an ids section.
fn range(section: &[u8]) -> Option<(Offset, Offset)> {
    frame::ids(section).fold(None, |range, entry| {
        let (first, last) = range.unwrap_or((entry.first, entry.first));
        Some((first.min(entry.first), last.max(entry.first)))
    })
}

/// Index of all ids files, by their names. It takes about 50 bytes for each file and topic with ids in it, and for each 64 KiB.
#[derive(Debug, Default)]
pub struct IdsIndex {
    files: BTreeMap<String, FileIndex>,
}

impl IdsIndex {
    /// Reads ids of a topic from the ids files, but for those that were stored before `since`, until `found` has what it
    /// looks for. A file that is being written or removed is read as far as it is whole: the caller has the ids of one
    /// that is being written.
    ///
    /// # Errors
    /// Fails if the disk does.
    pub fn collect(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        (topic, since): (u64, UnixMicros),
        found: &mut FirstIds,
    ) -> io::Result<()> {
        self.update(disk, dir)?;
        let of_topic = |(name, file): (&'_ String, &'_ FileIndex)| {
            let spans = file.topics.get(&topic).cloned().unwrap_or_default();
            spans.into_iter().map(|span| (name.clone(), span)).collect::<Vec<_>>()
        };
        let mut spans: Vec<_> = self.files.iter().flat_map(of_topic).collect();
        spans.retain(|(_, span)| span.last_time >= since && span.last >= found.from());
        spans.sort_by_key(|(_, span)| span.first);
        for (name, span) in spans {
            if !found.wants(span.first) {
                break;
            }
            let file = match disk.open(&dir.join(name), Mode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let mut bytes = vec![0; span.len as usize];
            let read = file.read_at(&mut bytes, span.at)?;
            let mut rest = &bytes[..read];
            while let Ok((header, body)) = Header::decode_frame(rest) {
                if header.topic == topic && header.last_time >= since {
                    ids::take(body, found);
                }
                rest = &rest[header.frame_len()..];
            }
        }
        Ok(())
    }

    /// Indexes new files, and forgets those that are gone.
    fn update(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let listed = disk.list(dir)?.into_iter().filter(|(name, _)| ids::parse_name(name).is_some());
        let mut files = BTreeMap::new();
        for (name, len) in listed {
            let known = self.files.remove(&name).filter(|file| file.len == len);
            let index = match known {
                Some(index) => index,
                None => match read_file(disk, &dir.join(&name))? {
                    Some(bytes) => FileIndex::of(&bytes),
                    None => continue,
                },
            };
            files.insert(name, index);
        }
        self.files = files;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Disk;
    use super::super::disk::sim::SimDisk;
    use super::super::frame::IdEntry;
    use super::super::ids::FileOut;
    use super::{FirstIds, IdsIndex, Offset, Path, UnixMicros};
    use crate::record::Scope;
    use crate::storage::StoredId;
    use crate::storage::window::Mark;

    const DIR: &str = "/log";
    const IDS: u64 = 2000;

    /// Adds one id of a batch at `first` to a file.
    fn push(out: &mut FileOut, topic: u64, first: u64) {
        let mut section = Vec::new();
        let mark = Some(Mark { scope: Scope::NONE, content: 1 });
        let id = first.to_string();
        IdEntry { first: Offset::new(first), count: 1, mark, id: id.as_bytes() }.encode(&mut section);
        let range = (Offset::new(first), Offset::new(first + 1));
        out.push(topic, range, UnixMicros(first), &section);
    }

    /// Writes files of `IDS` ids of each topic, in turn.
    fn files(disk: &SimDisk, seqs: std::ops::Range<u64>, topics: u64) {
        for seq in seqs {
            let mut out = FileOut::default();
            for topic in 0..topics {
                (seq * IDS..(seq + 1) * IDS).for_each(|first| push(&mut out, topic, first));
            }
            out.write(disk, Path::new(DIR), seq).unwrap();
        }
    }

    fn page(index: &mut IdsIndex, disk: &SimDisk, topic: u64, from: u64, limit: usize) -> Vec<StoredId> {
        let mut found = FirstIds::new(Offset::new(from), limit);
        index.collect(disk, Path::new(DIR), (topic, UnixMicros(0)), &mut found).unwrap();
        found.finish()
    }

    fn firsts(page: &[StoredId]) -> Vec<u64> {
        page.iter().map(|id| id.first.get()).collect()
    }

    /// The cost of a listing grows with what it answers, and neither with its number of pages nor with other topics.
    #[test]
    fn a_page_reads_only_what_it_answers() {
        let disk = SimDisk::default();
        files(&disk, 0..4, 10);
        let (mut index, all) = (IdsIndex::default(), 4 * IDS);
        assert_eq!(firsts(&page(&mut index, &disk, 3, 0, 1)), [0]);
        let before = disk.reads();
        for from in (0..all).step_by(500) {
            let answer = page(&mut index, &disk, 3, from, 500);
            assert_eq!(firsts(&answer), (from..from + 500).collect::<Vec<_>>());
        }
        let (pages, read) = (all / 500, disk.reads() - before);
        // Each page reads at most two spans, one of which it shares with its neighbour.
        assert!(read <= 4 * pages, "{read} reads for {pages} pages");
        assert!(
            page(&mut index, &disk, 3, all, 500).is_empty() && page(&mut index, &disk, 99, 0, 500).is_empty()
        );
        assert_eq!(disk.reads() - before, read, "nothing is read for an empty page");
    }

    #[test]
    fn files_that_appear_change_and_go_are_noticed() {
        let disk = SimDisk::default();
        files(&disk, 0..2, 2);
        let mut index = IdsIndex::default();
        let limit = usize::try_from(10 * IDS).unwrap();
        assert_eq!(page(&mut index, &disk, 1, 0, limit).len() as u64, 2 * IDS);
        files(&disk, 2..3, 2);
        assert_eq!(page(&mut index, &disk, 1, 0, limit).len() as u64, 3 * IDS);
        disk.remove(&Path::new(DIR).join(super::ids::file_name(0))).unwrap();
        assert_eq!(firsts(&page(&mut index, &disk, 1, 0, 3)), [IDS, IDS + 1, IDS + 2]);
        // A file that is still being written.
        let path = Path::new(DIR).join(super::ids::file_name(3));
        let mut out = FileOut::default();
        (3 * IDS..4 * IDS).for_each(|first| push(&mut out, 1, first));
        out.write(&disk, Path::new(DIR), 3).unwrap();
        let whole = disk.files()[&path].clone();
        let file = disk.open(&path, super::Mode::Write).unwrap();
        file.set_len(whole.len() as u64 / 2).unwrap();
        let part = page(&mut index, &disk, 1, 3 * IDS, limit).len() as u64;
        assert!((1..IDS).contains(&part), "{part}");
        file.write_at(&whole, 0).unwrap();
        assert_eq!(page(&mut index, &disk, 1, 3 * IDS, limit).len() as u64, IDS);
    }
}
