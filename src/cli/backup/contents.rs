//! Reading of a backup. A file whose end is missing is never accepted as complete.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::frames::{Bad, Frames, Kind, Place};
use crate::cli::Failure;
use crate::file;
use crate::proto::v1;
use crate::record::block::{Block, Blocks};
use crate::record::{Batch, BatchLimits, Epoch, Offset, Position, TopicName};
use crate::storage::{Ancestor, LINEAGE_MAX, Lineage};

/// Exit code for damaged data.
pub(in crate::cli) const DAMAGED: u8 = 3;

/// Reads the single batch in a body.
fn only(body: &Bytes) -> Result<Block<'_>, Bad> {
    let malformed = Bad::Damaged("a batch is malformed");
    let mut blocks = Blocks::new(body);
    let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else { return Err(malformed) };
    let batch = Batch::check(body.slice_ref(block.encoded_records()), UNLIMITED);
    match batch {
        Ok(batch) if u64::from(batch.count()) == block.count() => Ok(block),
        _ => Err(malformed),
    }
}

fn parse_ids(body: &Bytes) -> Result<Vec<v1::StoredRequestId>, Bad> {
    let malformed = Bad::Damaged("a request id is malformed");
    let Ok(page) = v1::ListRequestIdsResponse::decode(body.clone()) else { return Err(malformed) };
    let is_sound = |id: &v1::StoredRequestId| (1..=128).contains(&id.id.len()) && id.scope.len() == 16;
    if page.request_ids.iter().all(is_sound) { Ok(page.request_ids) } else { Err(malformed) }
}

/// The server that a backup is restored to has limits of its own.
const UNLIMITED: BatchLimits = BatchLimits { records_max: u32::MAX, bytes_max: u32::MAX };

/// Checks what a restore of a topic depends on: its retention, and the positions that it keeps up to `tail`.
fn check_topic(topic: &v1::Topic, first: u64, tail: u64) -> Result<(), Bad> {
    let age = topic.retention.and_then(|retention| retention.max_age);
    if age.is_some_and(|age| Duration::try_from(age).is_err()) {
        return Err(Bad::Damaged("a topic's retention is negative"));
    }
    let is_step = |offset: u64| offset.is_multiple_of(1024);
    if topic.numbering() == v1::OffsetNumbering::Sparse && !(is_step(first) && is_step(tail)) {
        return Err(Bad::Damaged("a topic's offsets are not of its numbering"));
    }
    let ancestor = |epoch: &str, cut| Some(Ancestor { epoch: Epoch::parse(epoch)?, cut: Offset::new(cut) });
    let earlier = topic.restored_from.iter().map(|from| ancestor(&from.epoch, from.cut));
    let lineage: Option<Vec<_>> = std::iter::once(ancestor(&topic.epoch, tail)).chain(earlier).collect();
    let is_sound = |mut lineage: Vec<_>| {
        // A restore forgets the oldest.
        lineage.truncate(LINEAGE_MAX);
        topic.restored_from.len() <= LINEAGE_MAX && Lineage::new(lineage).is_ok()
    };
    if lineage.is_some_and(is_sound) { Ok(()) } else { Err(Bad::Damaged("a topic's lineage is malformed")) }
}

/// Contents of a backup, or of the beginning of one.
#[derive(Debug)]
pub(super) struct Contents {
    /// Topics in the order of the file.
    pub(super) topics: Vec<Saved>,
    /// Position at which the last of `topics` continues, if it has no end.
    pub(super) open: Option<Position>,
    /// True if the file has its end.
    pub(super) is_complete: bool,
    /// Position after the last valid frame.
    pub(super) end: Place,
    /// Version of the file.
    pub(super) version: u32,
    /// Error in the bytes after `end`.
    pub(super) bad: Option<Bad>,
}

/// One topic of a backup.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Saved {
    /// The topic as it was when the backup was begun.
    pub(in crate::cli) topic: v1::Topic,
    /// Number of records.
    pub(in crate::cli) records: u64,
    /// Number of batches.
    pub(in crate::cli) batches: u64,
    /// Offset of the first record.
    first: Option<u64>,
    /// Offset after what was read.
    end: u64,
    /// The topic's tail when the backup of it was complete. None if the file does not contain it.
    pub(in crate::cli) tail: Option<u64>,
    /// Groups as they were before the records were read.
    pub(in crate::cli) groups: Vec<v1::Group>,
    /// Position before the topic's frame, and after it.
    pub(super) begun: Place,
    place: Place,
    /// Places of its request ids.
    ids: Vec<Place>,
}

impl Saved {
    /// Offset of the first record; the tail if there is none.
    pub(in crate::cli) fn first(&self) -> u64 {
        self.first.unwrap_or_else(|| self.end())
    }

    /// Offset up to which the file holds the topic.
    pub(in crate::cli) fn end(&self) -> u64 {
        self.tail.unwrap_or(self.end)
    }

    fn finish(&mut self, body: &[u8], version: u32) -> Result<(), Bad> {
        let [records, batches] = [self.records, self.batches].map(u64::to_le_bytes);
        let counts = [records, batches].concat();
        let tail = match (version, body.strip_prefix(&counts[..])) {
            (1, Some([])) => {
                // The topic's tail when the backup was begun, unless records were stored since.
                self.end = self.end.max(self.topic.tail);
                None
            }
            (2.., Some(tail)) => {
                let tail = tail.try_into().map_err(|_| ORDER)?;
                Some(u64::from_le_bytes(tail)).filter(|tail| *tail >= self.end).ok_or(ORDER)?.into()
            }
            _ => return Err(ORDER),
        };
        self.tail = tail;
        check_topic(&self.topic, self.first(), self.end())
    }
}

const ORDER: Bad = Bad::Damaged("its frames are in no order there is");

impl Contents {
    /// Reads a file up to its end or its first damage. `progress` is called with the number of bytes of each frame.
    pub(super) fn read(file: File, mut progress: impl FnMut(u64)) -> Result<Self, Bad> {
        let mut frames = Frames::new(file)?;
        let (end, version) = (frames.place, frames.version);
        let mut contents =
            Self { topics: Vec::new(), open: None, is_complete: false, end, version, bad: None };
        while !contents.is_complete {
            let taken = frames.next().and_then(|(kind, body)| contents.take(kind, &body, frames.place));
            if let Err(bad) = taken {
                contents.bad = Some(bad);
                return Ok(contents);
            }
            progress(frames.place.at - contents.end.at);
            contents.end = frames.place;
        }
        if !frames.is_over()? {
            contents.bad = Some(Bad::Damaged("something follows its end"));
        }
        Ok(contents)
    }

    fn take(&mut self, kind: Kind, body: &Bytes, after: Place) -> Result<(), Bad> {
        match (kind, &mut self.open) {
            (Kind::Topic, None) => {
                let topic = v1::Topic::decode(&body[..]).map_err(|_| Bad::Damaged("a topic is malformed"))?;
                let epoch = Epoch::parse(&topic.epoch).ok_or(Bad::Damaged("an epoch is malformed"))?;
                if TopicName::parse(&topic.name).is_err() {
                    return Err(Bad::Damaged("a topic's name is malformed"));
                }
                if self.topics.iter().any(|saved| saved.topic.name == topic.name) {
                    return Err(Bad::Damaged("a topic occurs twice"));
                }
                let earliest = topic.earliest_offset;
                self.open = Some(Position { epoch, offset: Offset::new(earliest) });
                self.topics.push(Saved {
                    topic,
                    records: 0,
                    batches: 0,
                    first: None,
                    end: earliest,
                    tail: None,
                    groups: Vec::new(),
                    begun: self.end,
                    place: after,
                    ids: Vec::new(),
                });
            }
            (Kind::Group, Some(_)) => {
                let part =
                    v1::SavedGroup::decode(&body[..]).map_err(|_| Bad::Damaged("a group is malformed"))?;
                let saved = self.topics.last_mut().filter(|saved| saved.batches == 0).ok_or(ORDER)?;
                // Further parts of a group do not name it.
                if part.group.is_none() && saved.groups.is_empty() {
                    return Err(ORDER);
                }
                saved.groups.extend(part.group);
            }
            (Kind::Batch, Some(position)) => {
                let block = only(body)?;
                if block.first < position.offset {
                    return Err(ORDER);
                }
                position.offset = block.first.plus(block.count());
                let saved = self.topics.last_mut().ok_or(ORDER)?;
                saved.first.get_or_insert(block.first.get());
                saved.records += block.count();
                saved.batches += 1;
                saved.end = position.offset.get();
            }
            (Kind::RequestIds, Some(_)) => {
                parse_ids(body)?;
                self.topics.last_mut().ok_or(ORDER)?.ids.push(self.end);
            }
            (Kind::TopicEnd, Some(_)) => {
                self.topics.last_mut().ok_or(ORDER)?.finish(body, self.version)?;
                self.open = None;
            }
            (Kind::End, None) if body[..] == (self.topics.len() as u64).to_le_bytes() => {
                self.is_complete = true;
            }
            _ => return Err(ORDER),
        }
        Ok(())
    }
}

/// Makes the failure of a file that is wrong at byte `at`.
pub(super) fn refused(path: &Path, at: u64, bad: Bad) -> Failure {
    let path = path.display();
    Failure::failed(match bad {
        Bad::Io(error) => format!("cannot read {path}: {error}"),
        Bad::Foreign(why) => format!("cannot read {path}: {why}"),
        Bad::Damaged(why) => format!("{path} is damaged at byte {at}: {why}; nothing was copied from it"),
    })
}

/// Opens a backup for reading. A pipe is refused, because a backup is read twice.
fn open(path: &Path) -> Result<File, Failure> {
    file::open(path, OpenOptions::new().read(true))
        .map_err(|error| Failure::failed(format!("cannot open {}: {error}", path.display())))
}

/// Result of a check: what the file holds, and its first damage with the byte at which it is.
pub(in crate::cli) type Checked = (Vec<Saved>, Option<(u64, &'static str)>);

/// A complete backup that was read once and found valid.
#[derive(Debug)]
pub(in crate::cli) struct Backup {
    path: PathBuf,
    version: u32,
    pub(in crate::cli) topics: Vec<Saved>,
}

impl Backup {
    /// Reads all of a file that may be damaged.
    pub(in crate::cli) fn check(path: &Path) -> Result<Checked, Failure> {
        let mut contents = match Contents::read(open(path)?, |_| ()) {
            // The header is damaged, and nothing can be read.
            Err(Bad::Damaged(why)) => {
                let message = format!("{} is damaged at byte 0: {why}", path.display());
                return Err(Failure::with_code(DAMAGED, message));
            }
            contents => contents.map_err(|bad| refused(path, 0, bad))?,
        };
        let at = contents.end.at;
        match contents.bad.take() {
            None => Ok((contents.topics, None)),
            Some(Bad::Damaged(why)) => Ok((contents.topics, Some((at, why)))),
            Some(bad) => Err(refused(path, at, bad)),
        }
    }

    /// Opens a backup and checks all of it. `progress` is called with the number of bytes of each part that was read.
    pub(in crate::cli) fn open(path: &Path, progress: impl FnMut(u64)) -> Result<Self, Failure> {
        let contents = Contents::read(open(path)?, progress).map_err(|bad| refused(path, 0, bad))?;
        match contents.bad {
            Some(bad) => Err(refused(path, contents.end.at, bad)),
            None => Ok(Self { path: path.to_owned(), version: contents.version, topics: contents.topics }),
        }
    }

    /// Returns the groups of a topic, each in its parts.
    pub(in crate::cli) fn groups(&self, saved: &Saved) -> Result<Vec<Vec<v1::SavedGroup>>, Failure> {
        let mut frames = Frames::at(open(&self.path)?, saved.place, self.version)?;
        let mut groups: Vec<Vec<v1::SavedGroup>> = Vec::with_capacity(saved.groups.len());
        loop {
            let at = frames.place.at;
            let part = match frames.next() {
                Ok((Kind::Group, body)) => v1::SavedGroup::decode(body),
                Ok(_) => return Ok(groups),
                Err(bad) => return Err(refused(&self.path, at, bad)),
            };
            let part = part.map_err(|_| refused(&self.path, at, Bad::Damaged("a group is malformed")))?;
            match groups.last_mut() {
                Some(parts) if part.group.is_none() => parts.push(part),
                _ => groups.push(vec![part]),
            }
        }
    }

    /// Returns the batches of a topic, which are checked again as they are read.
    pub(in crate::cli) fn batches(&self, saved: &Saved) -> Result<SavedBatches, Failure> {
        let frames = Frames::at(open(&self.path)?, saved.place, self.version)?;
        Ok(SavedBatches { path: self.path.clone(), frames })
    }

    /// Returns the request ids of a topic, by the offset of their batch.
    pub(in crate::cli) fn request_ids(&self, saved: &Saved) -> Result<RequestIds, Failure> {
        let mut all = RequestIds::new();
        for place in &saved.ids {
            let mut frames = Frames::at(open(&self.path)?, *place, self.version)?;
            let ids = frames.next().and_then(|(_, body)| parse_ids(&body));
            let ids = ids.map_err(|bad| refused(&self.path, place.at, bad))?;
            all.extend(ids.into_iter().map(|id| (id.first_offset, id)));
        }
        Ok(all)
    }
}

/// Request ids of a topic, by the offset of the first record of their batch.
pub(in crate::cli) type RequestIds = HashMap<u64, v1::StoredRequestId>;

/// The batches of one topic of a backup.
#[derive(Debug)]
pub(in crate::cli) struct SavedBatches {
    path: PathBuf,
    frames: Frames,
}

impl SavedBatches {
    /// Returns the next batch, or `None` after the last.
    pub(in crate::cli) fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let at = self.frames.place.at;
            match self.frames.next() {
                Ok((Kind::Batch, body)) => return Ok(Some(body)),
                Ok((Kind::Group | Kind::RequestIds, _)) => {}
                Ok(_) => return Ok(None),
                Err(bad) => return Err(refused(&self.path, at, bad)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
