//! Building of a commit: offsets are assigned, duplicates are found and conditions are checked. Nothing here
//! does I/O, and readers see a commit only once it is durable.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_TARGET, Header, IdEntry, Kind};
use super::journal::CommitBuf;
use super::queue::TopicAppend;
use super::topic::Topic;
use crate::record::{Batch, Offset, Position, Receipt, UnixMicros, block};
use crate::storage::append::{Append, Reply};
use crate::storage::tail::Run;
use crate::storage::window::{self, Mark, Owner, Window};
use crate::storage::{Appended, Error};
use crate::telemetry::trace::Steps;

/// Maximum number of bytes that a batch takes in the journal beyond its records: block head 40, trace context
/// 60, request id 161, its share of a frame header 64.
const BATCH_OVERHEAD_MAX: u64 = 340;

/// A run that is not durable yet, or not in a segment yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Topic of the run.
    pub topic: Arc<Topic>,
    /// The run itself, with its blocks.
    pub run: Run,
    /// Request ids stored with the run.
    pub ids: Bytes,
}

impl Pending {
    /// Returns the bytes it takes in memory until it is in a segment. For a small run, most of them are
    /// overhead.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// Overhead in bytes: the value itself, its slot in the tail cache, and the reference counts of its
        /// blocks and ids.
        const BESIDE: usize = 2 * size_of::<Pending>() + 64;
        self.run.blocks.len() + self.ids.len() + BESIDE
    }
}

/// Returns the ids sections of a topic's runs.
pub fn ids_of(runs: &[Pending], topic: u64) -> impl Iterator<Item = Bytes> {
    let of_topic = runs.iter().filter(move |item| item.topic.id == topic && !item.ids.is_empty());
    of_topic.map(|item| item.ids.clone())
}

#[derive(Debug)]
struct Building {
    topic: Arc<Topic>,
    first: Offset,
    next: Offset,
    batches: u32,
    blocks: Vec<u8>,
    ids: Vec<u8>,
}

/// A commit being built.
#[derive(Debug)]
pub struct CommitBuilder {
    time: UnixMicros,
    /// Time on the steady clock, used for ages.
    steady: UnixMicros,
    open: HashMap<u64, Building>,
    /// Bytes to allocate at once for the first topic's blocks.
    room: usize,
    done: Vec<Pending>,
    fresh: window::Map,
    /// Answer to send to each append once the commit is durable.
    replies: Vec<(Reply, Appended)>,
}

impl CommitBuilder {
    /// Starts a commit stored at `time`, which is `steady` on the clock that does not jump, for `appends`
    /// appends that take at most `bound` bytes.
    #[must_use]
    pub fn new(time: UnixMicros, steady: UnixMicros, appends: usize, bound: u64) -> Self {
        Self {
            time,
            steady,
            open: HashMap::new(),
            room: bound.min(FRAME_TARGET as u64) as usize,
            done: Vec::new(),
            fresh: window::Map::default(),
            replies: Vec::with_capacity(appends),
        }
    }

    /// Returns the maximum number of bytes that an append takes in the journal.
    #[must_use]
    pub fn bound(append: &TopicAppend) -> u64 {
        append.append.batches.iter().map(|batch| batch.records().len() as u64 + BATCH_OVERHEAD_MAX).sum()
    }

    /// Adds the batches of one append, up to the first that must be refused.
    pub fn add(&mut self, append: TopicAppend, window: &Window) {
        let TopicAppend { topic, append: Append { batches, reply } } = append;
        let mut appended = Appended { receipts: Vec::with_capacity(batches.len()), ..Appended::default() };
        if reply.is_refused() {
            appended.failure = Some(Error::EarlierFailed);
        } else if topic.state.is_deleted() {
            appended.failure = Some(Error::TopicNotFound);
        } else {
            for batch in &batches {
                match self.add_batch(&topic, batch, window) {
                    Ok(receipt) => appended.receipts.push(receipt),
                    Err(error) => {
                        appended.failure = Some(error);
                        break;
                    }
                }
            }
        }
        if appended.failure.is_some() {
            reply.refuse();
        }
        self.replies.push((reply, appended));
    }

    fn add_batch(&mut self, topic: &Arc<Topic>, batch: &Batch, window: &Window) -> Result<Receipt, Error> {
        let mut unknown = None;
        if let Some(id) = batch.request_id() {
            let (key, known) = window.find(topic.id, id.scope(), id.as_bytes(), self.steady);
            let known = self.fresh.get(&key).copied().or(known);
            // A batch of a backup was stored once, whatever else has its id.
            if let Some(stored) = known.filter(|_| !batch.is_restored()) {
                if !stored.is_repeated_by(batch) {
                    return Err(Error::RequestIdReused { first: stored.first });
                }
                return Ok(receipt(topic, stored.first, stored.next(), stored.time, true));
            }
            unknown = Some((key, id));
        }
        if crc32c::crc32c(batch.records()) != batch.crc() {
            return Err(Error::Damaged("the batch changed in memory after it was received".into()));
        }
        let time = self.time;
        let building = self.building(topic);
        let first = building.next;
        if !batch.is_restored() {
            topic.state.check_complete(first)?;
        }
        if batch.expected_offset().is_some_and(|expected| expected != first) {
            return Err(Error::ExpectedOffset { epoch: topic.state.epoch, tail: first });
        }
        block::encode(first, time, batch, &mut building.blocks);
        building.next = first.plus(u64::from(batch.count()));
        building.batches += 1;
        let end = building.next;
        if let Some((key, id)) = unknown {
            let (count, scope, content) = (batch.count(), id.scope(), batch.content());
            let mark = Some(Mark { scope, content });
            IdEntry { first, count, mark, id: id.as_bytes() }.encode(&mut building.ids);
            let owner = Owner::of(scope);
            let stored = window::Stored { first, span: count, content, owner, time, at: self.steady };
            if self.fresh.is_empty() {
                self.fresh.reserve(self.replies.capacity());
            }
            self.fresh.insert(key, stored);
        }
        Ok(receipt(topic, first, end, time, false))
    }

    /// Returns the run to which this topic's next batch is added.
    fn building(&mut self, topic: &Arc<Topic>) -> &mut Building {
        let (time, room) = (self.time, &mut self.room);
        let building = self.open.entry(topic.id).or_insert_with(|| Building {
            topic: topic.clone(),
            first: topic.state.tail(),
            next: topic.state.tail(),
            batches: 0,
            blocks: Vec::with_capacity(std::mem::take(room)),
            ids: Vec::new(),
        });
        if building.blocks.len() >= FRAME_TARGET {
            self.done.push(building.finish(time));
        }
        building
    }

    /// Finishes the commit, and puts its journal bytes into `out`.
    #[must_use]
    pub fn finish(mut self, out: &mut CommitBuf) -> Built {
        let time = self.time;
        let last = self.open.values_mut().filter(|building| building.batches > 0);
        self.done.extend(last.map(|building| building.finish(time)));
        out.clear();
        for Pending { topic, run, ids } in &self.done {
            let header = Header {
                kind: Kind::Batches,
                body_crc: crc32c::crc32c_append(run.crc, ids),
                blocks_len: run.blocks.len() as u32,
                ids_len: ids.len() as u32,
                batches: run.batches,
                topic: topic.id,
                first: run.first,
                end: run.end,
                first_time: run.first_time,
                last_time: run.last_time,
            };
            out.push(&header, &[&run.blocks, ids]);
        }
        Built { runs: self.done, steady: self.steady, fresh: self.fresh, replies: self.replies }
    }
}

impl Building {
    /// Returns the run built so far; the next batch starts a new one.
    fn finish(&mut self, time: UnixMicros) -> Pending {
        let blocks = Bytes::copy_from_slice(&self.blocks);
        let run = Run {
            crc: crc32c::crc32c(&blocks),
            blocks,
            batches: self.batches,
            first: self.first,
            end: self.next,
            first_time: time,
            last_time: time,
        };
        let ids = Bytes::copy_from_slice(&self.ids);
        (self.first, self.batches) = (self.next, 0);
        self.blocks.clear();
        self.ids.clear();
        Pending { topic: self.topic.clone(), run, ids }
    }
}

fn receipt(topic: &Topic, first: Offset, end: Offset, time: UnixMicros, duplicate: bool) -> Receipt {
    Receipt { first, next: Position { epoch: topic.state.epoch, offset: end }, time, duplicate }
}

/// A finished commit that is still to be written.
#[derive(Debug)]
pub struct Built {
    /// Runs of the commit; those of each topic are in order.
    pub runs: Vec<Pending>,
    steady: UnixMicros,
    fresh: window::Map,
    replies: Vec<(Reply, Appended)>,
}

impl Built {
    /// Shows a durable commit to readers and answers its publishers. `steps` holds the times of its write, if
    /// it had to be written.
    pub fn publish(self, window: &mut Window, pending: &mut Vec<Pending>, steps: Option<Steps>) {
        window.extend(self.fresh, self.steady);
        for item in &self.runs {
            item.topic.publish(item.run.clone());
        }
        for (reply, mut appended) in self.replies {
            appended.steps = steps;
            reply.send(appended);
        }
        let mut last = None;
        for item in &self.runs {
            if last != Some(item.topic.id) {
                item.topic.state.wake();
            }
            last = Some(item.topic.id);
        }
        pending.extend(self.runs);
    }

    /// Answers every publisher of this commit with `error`.
    pub fn refuse(self, error: &Error) {
        for (reply, _) in self.replies {
            reply.send(Appended::failed(error.clone()));
        }
    }
}
