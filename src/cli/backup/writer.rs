//! Writing of a backup, which an interrupted run leaves as `FILE.partial` and the next one continues.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::contents::{Contents, refused};
use super::frames::{BODY_MAX, BUFFER, Bad, FRAME_HEADER_LEN, HEADER_LEN, Kind, Place, VERSION, header};
use crate::cli::{Failure, files};
use crate::proto::v1;
use crate::record::Position;
use crate::record::block::Block;

/// A backup that is being written. Its file name ends in `.partial` until it is complete.
#[derive(Debug)]
pub(in crate::cli) struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    place: Place,
    pub(super) counts: [u64; 2],
    topics: u64,
    /// Topics that an earlier run finished.
    pub(in crate::cli) done: HashSet<String>,
    /// True if the file is complete but not renamed yet.
    pub(in crate::cli) is_complete: bool,
    /// The topic in which an earlier run was interrupted, and the position at which it continues.
    pub(in crate::cli) open: Option<(v1::Topic, Position)>,
}

impl Writer {
    /// Starts a backup, or continues one that was interrupted.
    pub(in crate::cli) fn open(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            return Err(Failure::failed(format!("{} is there already; name another file", path.display())));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let cannot =
            |error: io::Error| Failure::failed(format!("cannot write {}: {error}", partial.display()));
        let mut file = files::open_kept(&partial).map_err(cannot)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!("{} is being written by another process", partial.display()))
        })?;
        if file.metadata().map_err(cannot)?.len() < HEADER_LEN {
            file.set_len(0).map_err(cannot)?;
            file.write_all(&header(VERSION).0).map_err(cannot)?;
            file.rewind().map_err(cannot)?;
        }
        let found = Contents::read(file.try_clone().map_err(cannot)?, |_| ());
        let mut found = found.map_err(|bad| refused(&partial, 0, bad))?;
        if found.version != VERSION {
            let partial = partial.display();
            return Err(Failure::failed(format!(
                "an earlier streamway began {partial}: remove it to begin anew"
            )));
        }
        if let Some(Bad::Io(error)) = found.bad {
            return Err(cannot(error));
        }
        // A topic without batches begins anew, because it may lack some of its groups.
        if found.open.is_some()
            && let Some(last) = found.topics.pop_if(|last| last.batches == 0)
        {
            (found.open, found.end) = (None, last.begun);
        }
        // The bytes after the last complete frame are from a write that was interrupted.
        file.set_len(found.end.at).map_err(cannot)?;
        file.seek(SeekFrom::Start(found.end.at)).map_err(cannot)?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER, file),
            place: found.end,
            counts: [0; 2],
            topics: found.topics.len() as u64,
            done: found.topics.iter().map(|saved| saved.topic.name.clone()).collect(),
            open: None,
            is_complete: found.is_complete,
            partial,
        };
        if let (Some(position), Some(last)) = (found.open, found.topics.last()) {
            writer.counts = [last.records, last.batches];
            writer.done.remove(&last.topic.name);
            writer.open = Some((last.topic.clone(), position));
        }
        Ok(writer)
    }

    /// Returns the path of the unfinished file.
    pub(in crate::cli) fn partial(&self) -> &Path {
        &self.partial
    }

    pub(super) fn put(&mut self, kind: Kind, body: &[u8]) -> Result<(), Failure> {
        let mut header = [0; FRAME_HEADER_LEN];
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= BODY_MAX);
        let len = len.ok_or_else(|| Failure::failed("a batch is longer than a backup takes"))?;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
        let chain = crc32c::crc32c_append(crc32c::crc32c_append(self.place.chain, &header[..8]), body);
        header[8..].copy_from_slice(&chain.to_le_bytes());
        self.file.write_all(&header).and_then(|()| self.file.write_all(body)).map_err(|e| self.cannot(&e))?;
        self.place = Place { at: self.place.at + (FRAME_HEADER_LEN + body.len()) as u64, chain };
        Ok(())
    }

    fn cannot(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot write {}: {error}", self.partial.display()))
    }

    pub(in crate::cli) fn begin(&mut self, topic: &v1::Topic) -> Result<(), Failure> {
        (self.counts, self.topics) = ([0; 2], self.topics + 1);
        self.put(Kind::Topic, &topic.encode_to_vec())
    }

    /// Adds a part of a group of the topic, before the topic's batches.
    pub(in crate::cli) fn group(&mut self, part: &v1::SavedGroup) -> Result<(), Failure> {
        self.put(Kind::Group, &part.encode_to_vec())
    }

    pub(in crate::cli) fn batch(&mut self, block: &Block<'_>) -> Result<(), Failure> {
        self.counts = [self.counts[0] + block.count(), self.counts[1] + 1];
        self.put(Kind::Batch, block.bytes)
    }

    /// Adds a page of the topic's request ids.
    pub(in crate::cli) fn request_ids(&mut self, page: &v1::ListRequestIdsResponse) -> Result<(), Failure> {
        self.put(Kind::RequestIds, &page.encode_to_vec())
    }

    /// Ends a topic, whose tail this is.
    pub(in crate::cli) fn end(&mut self, tail: u64) -> Result<(), Failure> {
        let [records, batches] = self.counts;
        self.put(Kind::TopicEnd, &[records, batches, tail].map(u64::to_le_bytes).concat())?;
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(|error| self.cannot(&error))
    }

    /// Completes the file. All of it is on disk before it gets its final name.
    pub(in crate::cli) fn finish(&mut self) -> Result<(), Failure> {
        if !self.is_complete {
            self.put(Kind::End, &self.topics.to_le_bytes())?;
        }
        let mut rename = || -> io::Result<()> {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            files::finish_kept(&self.partial, &self.path)
        };
        rename().map_err(|error| Failure::failed(format!("cannot write {}: {error}", self.path.display())))
    }
}
