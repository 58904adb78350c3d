//! The `Log` contract in memory, for the tests of what is built on it.
//! Never: durable, bounded, or fast.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::record::{Batch, Epoch, Offset, Position, Receipt, TopicName, UnixMicros, block};
use crate::storage::{
    Appended, Appender, BoxFuture, Chunk, Error, Health, Hold, Log, Retention, Start, TopicInfo, TopicLog,
};

/// All topics.
pub(crate) struct MemoryLog {
    topics: Mutex<BTreeMap<TopicName, Arc<MemoryTopic>>>,
    epochs: AtomicU64,
    health: watch::Sender<Health>,
    /// Topics that lists have named.
    listed: AtomicUsize,
}

/// One block and where it ends.
struct Stored {
    bytes: Bytes,
    first: Offset,
    next: Offset,
    time: UnixMicros,
}

/// One topic.
pub(crate) struct MemoryTopic {
    me: Weak<Self>,
    name: TopicName,
    epoch: Epoch,
    blocks: Mutex<Vec<Stored>>,
    /// Reads below this offset are not served from memory.
    cached_from: Mutex<Offset>,
    earliest: Mutex<Offset>,
    /// The answer to the next appends.
    refusals: Mutex<Vec<Option<Error>>>,
    deleted: AtomicBool,
    /// Appends resolve only while this is true.
    durable: watch::Sender<bool>,
    tail: watch::Sender<Offset>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl MemoryLog {
    pub(crate) fn new() -> Arc<Self> {
        let (health, _) = watch::channel(Health::Serving);
        Arc::new(Self {
            topics: Mutex::default(),
            epochs: AtomicU64::new(1),
            health,
            listed: AtomicUsize::new(0),
        })
    }

    /// How many topics were looked at to answer all lists so far.
    pub(crate) fn listed(&self) -> usize {
        self.listed.load(Ordering::Relaxed)
    }

    /// The topic by name, for tests to meddle with.
    pub(crate) fn topic(&self, name: &str) -> Arc<MemoryTopic> {
        Arc::clone(locked(&self.topics).get(name).expect("the test made it"))
    }
}

impl Log for MemoryLog {
    fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>> {
        locked(&self.topics).get(name).map(|topic| Arc::clone(topic) as Arc<dyn TopicLog>)
    }

    fn get<'a>(&'a self, name: &'a TopicName) -> BoxFuture<'a, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move { self.known(name).ok_or(Error::TopicNotFound) })
    }

    fn create(
        &self,
        name: TopicName,
        _retention: Retention,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            let mut topics = locked(&self.topics);
            if topics.contains_key(&name) {
                return Err(Error::TopicExists);
            }
            let topic = Arc::new_cyclic(|me| MemoryTopic {
                me: me.clone(),
                name: name.clone(),
                epoch: Epoch::new(self.epochs.fetch_add(1, Ordering::Relaxed)),
                blocks: Mutex::default(),
                cached_from: Mutex::default(),
                earliest: Mutex::default(),
                refusals: Mutex::default(),
                deleted: AtomicBool::new(false),
                durable: watch::channel(true).0,
                tail: watch::channel(Offset::ZERO).0,
            });
            topics.insert(name, Arc::clone(&topic));
            Ok(topic as Arc<dyn TopicLog>)
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, Error>> {
        Box::pin(async move {
            let topics = locked(&self.topics);
            let after = after.unwrap_or("");
            let wanted = topics.iter().filter(|(n, _)| n.as_str() > after && n.as_str().starts_with(prefix));
            let page: Vec<_> = wanted.take(limit).map(|(_, topic)| topic.info()).collect();
            self.listed.fetch_add(page.len(), Ordering::Relaxed);
            Ok(page)
        })
    }

    fn update<'a>(
        &'a self,
        name: &'a TopicName,
        retention: Retention,
    ) -> BoxFuture<'a, Result<TopicInfo, Error>> {
        Box::pin(async move { Ok(TopicInfo { retention, ..self.get(name).await?.info() }) })
    }

    fn delete<'a>(&'a self, name: &'a TopicName, epoch: Option<Epoch>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let current = self.get(name).await?.epoch();
            if epoch.is_some_and(|epoch| epoch != current) {
                return Err(Error::EpochChanged { current });
            }
            if let Some(topic) = locked(&self.topics).remove(name) {
                topic.deleted.store(true, Ordering::SeqCst);
                topic.tail.send_modify(|_| ());
            }
            Ok(())
        })
    }

    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        _epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, Error>> {
        Box::pin(async move {
            self.get(name).await?;
            let topic = self.topic(name.as_str());
            let earliest = {
                let mut blocks = locked(&topic.blocks);
                blocks.retain(|block| block.next > before);
                blocks.first().map_or(topic.tail(), |block| block.first)
            };
            *locked(&topic.earliest) = earliest;
            Ok(earliest)
        })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

impl MemoryTopic {
    /// Whether appends resolve, or wait for the disk.
    pub(crate) fn set_durable(&self, durable: bool) {
        self.durable.send_replace(durable);
    }

    /// What the next batches are answered: `None` stores one.
    pub(crate) fn answer(&self, refusals: Vec<Option<Error>>) {
        *locked(&self.refusals) = refusals;
    }

    /// Batches stored.
    pub(crate) fn stored(&self) -> usize {
        locked(&self.blocks).len()
    }

    /// From here on reads are served from memory.
    pub(crate) fn set_cached_from(&self, offset: Offset) {
        *locked(&self.cached_from) = offset;
    }

    /// Stores records of these values as one batch, at this time.
    pub(crate) fn put(&self, values: &[&str], time: UnixMicros) -> Receipt {
        self.store(&batch_of(values), time)
    }

    fn store(&self, batch: &Batch, time: UnixMicros) -> Receipt {
        let first = self.tail();
        let mut out = BytesMut::new();
        block::encode(first, time, batch, &mut out);
        let next = first.plus(u64::from(batch.count()));
        locked(&self.blocks).push(Stored { bytes: out.freeze(), first, next, time });
        self.tail.send_replace(next);
        Receipt { first, next: Position { epoch: self.epoch, offset: next }, time, duplicate: false }
    }

    fn chunk(&self, from: Offset, bytes_max: usize) -> Chunk {
        let blocks = locked(&self.blocks);
        let mut chunk = Chunk::empty(from);
        for stored in blocks.iter().filter(|stored| stored.next > from) {
            if !chunk.runs.is_empty() && chunk.bytes() + stored.bytes.len() > bytes_max {
                break;
            }
            if chunk.runs.is_empty() {
                chunk.first = stored.first;
            }
            chunk.records += stored.next.since(stored.first);
            chunk.next = stored.next;
            chunk.runs.push(stored.bytes.clone());
        }
        chunk
    }
}

/// A checked batch of records of these values.
pub(crate) fn batch_of(values: &[&str]) -> Batch {
    Batch::check(records_of(values), crate::record::BatchLimits::default()).expect("well-formed")
}

/// The `records` fields of records of these values.
pub(crate) fn records_of(values: &[&str]) -> Bytes {
    let records: Vec<Vec<u8>> = values
        .iter()
        .map(|value| {
            let mut record = Vec::new();
            prost::encoding::bytes::encode(2, &value.as_bytes().to_vec(), &mut record);
            record
        })
        .collect();
    block::records_fields(records.iter().map(Vec::as_slice))
}

impl TopicLog for MemoryTopic {
    fn name(&self) -> &TopicName {
        &self.name
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn info(&self) -> TopicInfo {
        TopicInfo {
            name: self.name.clone(),
            epoch: self.epoch,
            created: UnixMicros(0),
            updated: UnixMicros(0),
            retention: Retention::default(),
            earliest: self.earliest(),
            tail: self.tail(),
            stored_bytes: 0,
            last_publish: None,
        }
    }

    fn tail(&self) -> Offset {
        *self.tail.borrow()
    }

    fn earliest(&self) -> Offset {
        *locked(&self.earliest)
    }

    fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::SeqCst)
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut tail = self.tail.subscribe();
            let _ = tail.wait_for(|tail| *tail > offset || self.is_deleted()).await;
        })
    }

    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>> {
        Box::pin(async move {
            let (epoch, earliest, tail) = (self.epoch, self.earliest(), self.tail());
            match start {
                Start::Earliest => Ok(earliest),
                Start::Latest => Ok(tail),
                Start::At(at) if at < earliest => Err(Error::Trimmed { epoch, earliest, tail }),
                Start::At(at) if at > tail => Err(Error::BeyondTail { epoch, earliest, tail }),
                Start::At(at) => Ok(at),
                Start::Last(n) => Ok(Offset::new(tail.get().saturating_sub(n)).max(earliest)),
                Start::Time(time) => {
                    Ok(locked(&self.blocks).iter().find(|s| s.time >= time).map_or(tail, |s| s.first))
                }
            }
        })
    }

    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        let cached = from >= *locked(&self.cached_from) && from >= self.earliest() && from < self.tail();
        cached.then(|| self.chunk(from, bytes_max))
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>> {
        Box::pin(async move {
            let (epoch, earliest, tail) = (self.epoch, self.earliest(), self.tail());
            match () {
                () if self.is_deleted() => Err(Error::TopicNotFound),
                () if from < earliest => Err(Error::Trimmed { epoch, earliest, tail }),
                () => Ok(self.chunk(from, bytes_max)),
            }
        })
    }

    fn appender(&self) -> Box<dyn Appender> {
        let topic = self.me.upgrade().expect("borrowed from an Arc");
        Box::new(MemoryAppender { topic, failed: false })
    }
}

struct MemoryAppender {
    topic: Arc<MemoryTopic>,
    failed: bool,
}

impl Appender for MemoryAppender {
    fn append(&mut self, batches: Vec<Batch>, hold: Hold) -> BoxFuture<'static, Appended> {
        let mut appended = Appended::default();
        for batch in &batches {
            let answer = {
                let mut answers = locked(&self.topic.refusals);
                if answers.is_empty() { None } else { answers.remove(0) }
            };
            if let Some(error) = answer.or(self.failed.then_some(Error::EarlierFailed)) {
                self.failed = true;
                appended.failure = Some(error);
                break;
            }
            appended.receipts.push(self.topic.store(batch, UnixMicros::now()));
        }
        let mut durable = self.topic.durable.subscribe();
        let done = tokio::spawn(async move {
            let _ = durable.wait_for(|durable| *durable).await;
            drop(hold);
        });
        Box::pin(async move {
            let _ = done.await;
            appended
        })
    }
}
