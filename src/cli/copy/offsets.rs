//! The file of offsets: it maps each batch's offset at the source to its offset at the destination, as one JSON object
//! per batch, for subscribers that store their own positions. Only batches that are durable at the destination are
//! listed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::cli::{Failure, output};
use crate::proto::v1;

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    topic: String,
    source_epoch: String,
    epoch: String,
    /// First offsets at the source of the batches that are not acknowledged yet.
    sent: VecDeque<u64>,
    /// The first failure, which is reported at the end.
    failure: Option<std::io::Error>,
}

/// Writer of the offsets file, whose lines are in the order of the destination.
#[derive(Debug)]
pub(super) struct Offsets(Mutex<Inner>);

impl Offsets {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        let (topic, source_epoch, epoch) = Default::default();
        let (sent, failure) = (VecDeque::new(), None);
        Ok(Self(Mutex::new(Inner { file: BufWriter::new(file), topic, source_epoch, epoch, sent, failure })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn topic(&self, source: &v1::Topic, epoch: &str) {
        let mut inner = self.lock();
        (inner.topic, inner.source_epoch) = (source.name.clone(), source.epoch.clone());
        inner.epoch = epoch.to_owned();
        inner.sent.clear();
    }

    /// Notes that the batch at this offset of the source is about to be published.
    pub(super) fn sent(&self, source: u64) {
        self.lock().sent.push_back(source);
    }

    /// Writes that the oldest batch that was sent is durable at this offset.
    pub(super) fn stored(&self, offset: u64, records: u64) {
        let mut inner = self.lock();
        let Some(source) = inner.sent.pop_front() else { return };
        let put = inner.put(source, offset, records);
        if let Err(error) = put {
            inner.failure.get_or_insert(error);
        }
    }

    /// Writes the offsets of a batch that an earlier run copied.
    pub(super) fn note(&self, source: u64, offset: u64, records: u64) -> Result<(), Failure> {
        Ok(self.lock().put(source, offset, records)?)
    }

    pub(super) fn finish(&self) -> Result<(), Failure> {
        let mut inner = self.lock();
        match inner.failure.take() {
            Some(error) => Err(Failure::failed(format!("cannot write the offsets: {error}"))),
            None => Ok(inner.file.flush()?),
        }
    }
}

impl Inner {
    fn put(&mut self, source: u64, offset: u64, records: u64) -> std::io::Result<()> {
        let line = json!({
            "topic": self.topic,
            "source_epoch": self.source_epoch,
            "source_offset": source,
            "epoch": self.epoch,
            "offset": offset,
            "records": records,
        });
        output::put_json(&mut self.file, &line)
    }
}
