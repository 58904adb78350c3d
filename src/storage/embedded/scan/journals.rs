//! Scan of the journals: every commit after the catalog's, and the whole frames of damaged commits. What can only be a
//! torn tail is not reported as damage.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::frames::frames;
use super::{Looking, Pending, topic};
use crate::storage::embedded::catalog::{self, ChangeKind};
use crate::storage::embedded::frame::{BadFrame, Header, Kind};
use crate::storage::embedded::journal;
use crate::storage::embedded::journal_image::Image;
use crate::storage::embedded::open::OpenError;

impl Looking<'_> {
    pub(super) fn journals(&mut self) -> Result<(), OpenError> {
        let (first, last_acked_commit) =
            self.out.catalog.as_ref().map_or((0, 0), |c| (c.journal, c.last_acked_commit));
        let seqs: Vec<u64> = self.out.journals.iter().copied().filter(|seq| *seq >= first).collect();
        let mut want = if first == 0 { seqs.first().copied().unwrap_or(0) } else { first };
        let mut images = Vec::new();
        for &seq in &seqs {
            for missing in want..seq {
                self.missing_journal(missing);
            }
            want = seq + 1;
            images.push((seq, self.image(seq)?));
        }
        if seqs.is_empty() && first != 0 {
            self.missing_journal(first);
        }
        for (i, (seq, image)) in images.iter().enumerate() {
            let before =
                images[i + 1..].iter().find_map(|(_, image)| image.as_ref()).map(|image| image.first_commit);
            if let Some(image) = image {
                self.journal(*seq, image, before, last_acked_commit)?;
            }
        }
        if self.out.commit < last_acked_commit {
            let path = self.dir.join(journal::file_name(seqs.last().copied().unwrap_or(first)));
            let what = format!(
                "commits from {} to {last_acked_commit} are missing, and were acknowledged",
                self.out.commit + 1
            );
            self.damage(&path, 0, what);
            self.doubt();
            self.out.commit = last_acked_commit;
        }
        Ok(())
    }

    fn missing_journal(&mut self, seq: u64) {
        self.damage(&self.dir.join(journal::file_name(seq)), 0, "journal is missing");
        self.doubt();
    }

    fn doubt(&mut self) {
        self.out.topics.values_mut().for_each(|topic| topic.doubt = true);
    }

    fn image(&mut self, seq: u64) -> Result<Option<Image>, OpenError> {
        let path = self.dir.join(journal::file_name(seq));
        match Image::read(self.disk, &path) {
            Ok(image) => Ok(Some(image)),
            Err(OpenError::Damaged { .. }) => {
                self.damage(&path, 0, "journal header is damaged");
                let image = Image::without_header(self.disk, &path, self.already)?;
                if image.is_none() {
                    self.doubt();
                }
                Ok(image)
            }
            Err(error) => Err(error),
        }
    }

    fn journal(
        &mut self,
        seq: u64,
        image: &Image,
        before: Option<u64>,
        last_acked_commit: u64,
    ) -> Result<(), OpenError> {
        let path = self.dir.join(journal::file_name(seq));
        if image.first_commit > self.already + 1 && self.out.catalog.is_some() {
            let what = format!("commits from {} on are missing", self.already + 1);
            self.damage(&path, 0, what);
            self.doubt();
        }
        let (mut at, mut number) = (journal::ALIGN as usize, image.first_commit);
        while before.is_none_or(|before| number < before) {
            if let Some((commit, len)) = image.commit(at, number) {
                self.commit(
                    number,
                    &path,
                    at,
                    commit.frames.iter().map(|(header, body)| Ok((*header, *body))),
                );
                (at, number) = (at + len, number + 1);
                continue;
            }
            let next = image.next_commit(at, number);
            let proof = before.is_some() || next.is_some() || number <= last_acked_commit;
            let copied = image.copied && number == image.first_commit;
            if !proof && !copied {
                if at < image.len() && image.commit_body(at, number).is_some() {
                    let what = "the newest commit is torn: it was not acknowledged, unless it was damaged before its seal";
                    self.out.notes.push(format!("{} at byte {at}: {what}", path.display()));
                }
                break;
            }
            self.damage(&path, at as u64, format!("commit {number} is damaged, and was acknowledged"));
            self.salvage(image, at, number, &path);
            let Some(next) = next else { break };
            if next.1 > number + 1 {
                self.doubt();
            }
            (at, number) = next;
        }
        Ok(())
    }

    /// Collects the whole frames of a damaged commit.
    fn salvage(&mut self, image: &Image, at: usize, number: u64, path: &Path) {
        let Some(body) = image.commit_body(at, number) else {
            self.doubt();
            self.out.commit = self.out.commit.max(number);
            return;
        };
        let mut found = Vec::new();
        frames(body, 0, |header| header.kind != Kind::Ids, |_, frame| found.push(frame));
        let all_headers = found.iter().all(|frame| matches!(frame, Ok(_) | Err((_, Some(_)))));
        self.commit(number, path, at, found.into_iter());
        if !all_headers {
            self.doubt();
        }
    }

    fn commit<'b>(
        &mut self,
        number: u64,
        path: &Path,
        at: usize,
        frames: impl Iterator<Item = Result<(Header, &'b [u8]), (BadFrame, Option<Header>)>>,
    ) {
        self.out.commit = self.out.commit.max(number);
        if number <= self.already {
            return;
        }
        self.already = number;
        for frame in frames {
            match frame {
                Ok((header, body)) => self.frame(&header, body, path, at),
                Err((_, Some(header))) if header.kind == Kind::Batches => self.lost_frame(&header),
                Err(_) => self.doubt(),
            }
        }
    }

    fn lost_frame(&mut self, header: &Header) {
        let topic = self.owner(header.topic, header.first.get());
        if header.end.get() > topic.entry.tail {
            topic.lost.push((topic.entry.tail, header.end.get()));
            topic.entry.tail = header.end.get();
        }
    }

    fn frame(&mut self, header: &Header, body: &[u8], path: &Path, at: usize) {
        self.out.clock = self.out.clock.max(header.last_time.0);
        match header.kind {
            Kind::Change => match catalog::Change::decode(body).ok().and_then(|change| change.kind) {
                Some(kind) => self.change(&kind),
                None => self.damage(path, at as u64, "a change cannot be read"),
            },
            Kind::Ids => self.damage(path, at as u64, "a journal holds a frame of ids"),
            Kind::Batches => {
                let has_catalog = self.out.catalog.is_some();
                let fresh = !self.out.topics.contains_key(&header.topic);
                let topic = self.owner(header.topic, header.first.get());
                let (first, end, tail) = (header.first.get(), header.end.get(), topic.entry.tail);
                if end <= tail {
                    return;
                }
                let lost = first > tail;
                if lost {
                    topic.lost.push((tail, first));
                }
                topic.doubt = false;
                topic.entry.tail = end;
                topic.entry.last_publish = header.last_time.0;
                let (blocks, ids) = body.split_at(header.blocks_len as usize);
                let (blocks, ids) = (Bytes::copy_from_slice(blocks), Bytes::copy_from_slice(ids));
                topic.pending.push(Pending { header: *header, blocks, ids });
                if has_catalog && (fresh || lost) {
                    self.damage(
                        path,
                        at as u64,
                        format!("offsets of topic {} before {first} are missing", header.topic),
                    );
                }
            }
        }
    }

    fn change(&mut self, kind: &ChangeKind) {
        match kind {
            ChangeKind::Create(entry) => {
                self.out.next_topic = self.out.next_topic.max(entry.id + 1);
                // Without a catalog, the topic may already be known by its segments.
                let there = self.out.topics.remove(&entry.id);
                let mut entry = entry.clone();
                if let Some(there) = there {
                    (entry.tail, entry.segments) = (there.entry.tail, there.entry.segments);
                }
                self.out.topics.insert(entry.id, topic(entry, true));
            }
            ChangeKind::Update(change) => {
                if let Some(topic) = self.out.topics.get_mut(&change.id) {
                    (topic.entry.retention, topic.entry.updated) = (change.retention, change.updated);
                }
            }
            ChangeKind::Delete(id) => {
                self.out.topics.remove(id);
            }
            ChangeKind::Trim(change) => {
                if let Some(topic) = self.out.topics.get_mut(&change.id) {
                    topic.entry.earliest = topic.entry.earliest.max(change.earliest);
                }
            }
        }
    }
}
