//! Replay: applies the commits of the journals to the state that the catalog describes.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::catalog::{self, Catalog};
use super::commit::Pending;
use super::disk::Disk;
use super::frame::{Header, Kind};
use super::ids;
use super::journal::{self, CommitBuf};
use super::journal_image::{Commit, Image};
use super::open::OpenError;
use super::registry::{Registry, topic_of};
use crate::record::{TopicName, UnixMicros};
use crate::storage::window::Window;

/// Result of replaying the journals.
#[derive(Debug)]
pub struct Replayed {
    /// The last commit, if there is one.
    pub last: Option<CommitBuf>,
    /// Number after that of the last commit.
    pub next: u64,
    /// End of the last journal, if it can be continued.
    pub end: Option<journal::End>,
}

/// State of the log, as far as it has been replayed.
#[derive(Debug)]
pub struct Replay {
    /// Registry of all topics.
    pub registry: Registry,
    /// Window of remembered request ids.
    pub window: Window,
    /// The newest publish time.
    pub clock: UnixMicros,
    /// Id of the next topic to be created.
    pub next_topic: u64,
    /// Runs that the journals hold and no segment does.
    pub pending: Vec<Pending>,
}

impl Replay {
    /// Creates the state that the catalog in `dir` describes.
    ///
    /// # Errors
    /// Reports a topic name that is not valid as damage.
    pub fn new(dir: &Path, catalog: &Catalog, window: Window) -> Result<Self, OpenError> {
        let registry = Registry::default();
        for entry in &catalog.topics {
            let bad = || OpenError::damaged(&dir.join(catalog::FILE_NAME), "catalog holds a bad topic name");
            let name = TopicName::stored(&entry.name).map_err(|_| bad())?;
            registry.insert(Arc::new(topic_of(entry, name)));
        }
        let (clock, next_topic) = (UnixMicros(catalog.clock), catalog.next_topic);
        Ok(Self { registry, window, clock, next_topic, pending: Vec::new() })
    }

    /// Replays the journals after the catalog's commit. `all` are the numbers of the journals found, in order;
    /// only a data directory that is `fresh` may have none.
    ///
    /// # Errors
    /// Reports missing or damaged journals, or returns the disk's error.
    pub fn journals(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        catalog: &Catalog,
        all: &[u64],
        fresh: bool,
    ) -> Result<Replayed, OpenError> {
        let seqs: Vec<u64> = all.iter().copied().filter(|seq| *seq >= catalog.journal).collect();
        check_none_missing(dir, catalog.journal, &seqs, fresh)?;
        let read = |seq: u64| Image::read(disk, &dir.join(journal::file_name(seq)));
        let mut found = Replayed { last: None, next: catalog.commit + 1, end: None };
        let mut following = seqs.first().map(|seq| read(*seq)).transpose()?;
        for (i, seq) in seqs.iter().enumerate() {
            let Some(image) = following.take() else { break };
            following = seqs.get(i + 1).map(|seq| read(*seq)).transpose()?;
            let before = following.as_ref().map(|image| image.first_commit);
            self.journal(&dir.join(journal::file_name(*seq)), *seq, &image, before, &mut found)?;
        }
        if found.next <= catalog.last_acked_commit {
            let path = seqs.last().map_or_else(|| dir.into(), |seq| dir.join(journal::file_name(*seq)));
            let (next, last) = (found.next, catalog.last_acked_commit);
            let what = format!("commits from {next} to {last} are missing, and were acknowledged");
            return Err(OpenError::damaged(&path, what));
        }
        found.end = found.end.filter(|end| end.next_commit == found.next);
        Ok(found)
    }

    /// Replays one journal, up to the commit `before`, with which the next journal begins.
    fn journal(
        &mut self,
        path: &Path,
        seq: u64,
        image: &Image,
        before: Option<u64>,
        found: &mut Replayed,
    ) -> Result<(), OpenError> {
        let next = found.next;
        if image.first_commit > next {
            return Err(OpenError::damaged(path, format!("commits from {next} on are missing")));
        }
        let end = image.replay(seq, before, |commit| {
            // A copied commit has already been replayed from the journal that held it first.
            if commit.number >= next {
                self.commit(path, commit)?;
            }
            found.last = Some(commit.to_buf());
            Ok(())
        })?;
        found.next = next.max(end.next_commit);
        found.end = Some(end);
        Ok(())
    }

    fn commit(&mut self, path: &Path, commit: &Commit<'_>) -> Result<(), OpenError> {
        for (header, body) in &commit.frames {
            self.clock = self.clock.max(header.last_time);
            match header.kind {
                Kind::Batches => self.batches(path, header, body)?,
                Kind::Change => {
                    let change = catalog::Change::decode(*body)
                        .map_err(|_| OpenError::damaged(path, "a change cannot be read"))?;
                    let Some(kind) = change.kind else { continue };
                    if let catalog::ChangeKind::Create(entry) = &kind {
                        self.next_topic = self.next_topic.max(entry.id + 1);
                    }
                    self.registry.apply(&kind, None);
                }
                Kind::Ids => return Err(OpenError::damaged(path, "a journal holds a frame of ids")),
            }
        }
        Ok(())
    }

    fn batches(&mut self, path: &Path, header: &Header, body: &[u8]) -> Result<(), OpenError> {
        let Some(topic) = self.registry.by_id(header.topic) else {
            return Err(OpenError::damaged(path, format!("batches of unknown topic {}", header.topic)));
        };
        if header.first != topic.state.tail() {
            let what = format!(
                "topic {} goes on at {}, not at {}",
                topic.state.name,
                header.first,
                topic.state.tail()
            );
            return Err(OpenError::damaged(path, what));
        }
        let (blocks, section) = body.split_at(header.blocks_len as usize);
        let run = header.run(Bytes::copy_from_slice(blocks));
        ids::insert(header, section, &mut self.window);
        topic.publish(run.clone());
        self.pending.push(Pending { topic, run, ids: Bytes::copy_from_slice(section) });
        Ok(())
    }
}

/// Checks that the journals `seqs` are all those from `first` on. At least one must exist unless the data directory is `fresh`.
fn check_none_missing(dir: &Path, first: u64, seqs: &[u64], fresh: bool) -> Result<(), OpenError> {
    for (i, want) in (first..).take(seqs.len().max(usize::from(!fresh))).enumerate() {
        if seqs.get(i) != Some(&want) {
            return Err(OpenError::damaged(&dir.join(journal::file_name(want)), "journal is missing"));
        }
    }
    Ok(())
}
