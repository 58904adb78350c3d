//! The contract that every engine keeps: [`Log`], [`TopicLog`] and [`Appender`].

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::chunk::{Chunk, Numbering};
use super::error::Error;
use super::health::Health;
use super::jetstream::ReplicaBus;
use super::lineage::Lineage;
use super::retention::Retention;
use super::topic_state::{TopicInfo, TopicState};
use crate::record::{Batch, Epoch, Offset, Receipt, Scope, TopicName, UnixMicros};
use crate::telemetry::trace::Steps;

/// A future of the contract.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All topics of one engine.
pub trait Log: Send + Sync + 'static {
    /// Returns the topic of this name if it is known without waiting for anybody.
    fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>>;

    /// Looks up the topic of this name.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`].
    fn get<'a>(&'a self, name: &'a TopicName) -> BoxFuture<'a, Result<Arc<dyn TopicLog>, Error>>;

    /// Creates a topic, durably.
    ///
    /// # Errors
    /// [`Error::TopicExists`], [`Error::TopicLimit`], or the storage's own.
    fn create(
        &self,
        name: TopicName,
        retention: Retention,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>>;

    /// Creates a topic, durably, as an earlier incarnation of this lineage was: its first record will have the offset
    /// `first`. Until its tail reaches the lineage's cut, it takes only batches of the backup
    /// ([`Batch::restored`](crate::record::Batch::restored)).
    ///
    /// # Errors
    /// The same as [`Self::create`].
    fn restore(
        &self,
        name: TopicName,
        first: Offset,
        lineage: Lineage,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>>;

    /// Numbering of the records of every topic.
    fn numbering(&self) -> Numbering;

    /// Returns true if no other process writes to this log for as long as it is open.
    fn has_sole_owner(&self) -> bool {
        false
    }

    /// Lists up to `limit` topics in the order of their names: those after `after` whose name begins with `prefix`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, Error>>;

    /// Lists the names of the same topics as [`Self::list`], which may be much cheaper.
    fn names<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicName>, Error>> {
        Box::pin(async move {
            let page = self.list(prefix, after, limit).await?;
            Ok(page.into_iter().map(|info| info.name).collect())
        })
    }

    /// Lists all names after `after` that begin with `prefix`, if this engine has to read every name to find any of
    /// them. None if the engine finds a few names at the cost of a few: then [`Self::names`] is the way to list them.
    fn all_names<'a>(
        &'a self,
        _prefix: &'a str,
        _after: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<TopicName>>, Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Describes these topics as they are now, without those that are gone.
    fn infos(&self, names: Vec<TopicName>) -> BoxFuture<'_, Result<Vec<TopicInfo>, Error>> {
        Box::pin(async move {
            let mut infos = Vec::with_capacity(names.len());
            for name in &names {
                match self.get(name).await {
                    Ok(topic) => infos.push(topic.info()),
                    Err(Error::TopicNotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(infos)
        })
    }

    /// Describes all topics, in no order, for statistics taken every few seconds. An engine that would have to ask a
    /// server about each of them may describe some as they were a while ago.
    fn sample(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, Error>> {
        /// Topics listed at once, before other tasks get their turn.
        const PAGE: usize = 256;
        Box::pin(async move {
            let mut all: Vec<TopicInfo> = Vec::new();
            loop {
                let after = all.last().map(|last| last.name.as_str().to_owned());
                let page = self.list("", after.as_deref(), PAGE).await?;
                let is_last = page.len() < PAGE;
                all.extend(page);
                if is_last {
                    return Ok(all);
                }
                tokio::task::yield_now().await;
            }
        })
    }

    /// Replaces a topic's retention, durably.
    fn update<'a>(
        &'a self,
        name: &'a TopicName,
        retention: Retention,
    ) -> BoxFuture<'a, Result<TopicInfo, Error>>;

    /// Deletes a topic, durably; if `epoch` is given, only that incarnation.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::EpochChanged`].
    fn delete<'a>(&'a self, name: &'a TopicName, epoch: Option<Epoch>) -> BoxFuture<'a, Result<(), Error>>;

    /// Forgets whole batches before an offset, durably, and returns the earliest offset that is left.
    ///
    /// # Errors
    /// [`Error::BeyondTail`], [`Error::TopicNotFound`], [`Error::EpochChanged`].
    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, Error>>;

    /// Messages between the processes that share this log. None if there is only one.
    fn bus(&self) -> Option<ReplicaBus> {
        None
    }

    /// Reports whether the storage takes writes, and why not.
    fn health(&self) -> watch::Receiver<Health>;

    /// Announces that calls will be cut off soon. Appends that wait for a storage which does not answer then fail
    /// within about a second; the others go on.
    fn hurry(&self) {}

    /// Refuses new appends, makes what was accepted durable and closes. Later calls do nothing.
    ///
    /// # Errors
    /// Some of the accepted appends could not be made durable.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// One incarnation of a topic.
pub trait TopicLog: Send + Sync + 'static {
    /// Returns the state that all engines keep alike.
    fn state(&self) -> &TopicState;

    /// Name of the topic.
    fn name(&self) -> &TopicName {
        &self.state().name
    }

    /// The incarnation.
    fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// The offset that the next record will get; everything before it is durable.
    fn tail(&self) -> Offset {
        self.state().tail()
    }

    /// The offset of the oldest record kept; the tail where there is none.
    fn earliest(&self) -> Offset {
        self.state().earliest()
    }

    /// Returns true if this incarnation was deleted.
    fn is_deleted(&self) -> bool {
        self.state().is_deleted()
    }

    /// Describes the topic as it is now.
    fn info(&self) -> TopicInfo;

    /// Resolves once the tail is beyond `offset` or the topic is deleted. Cancel-safe.
    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()> {
        Box::pin(self.state().wait_beyond(offset))
    }

    /// Finds the offset of a start, which lies between the earliest offset and the tail. An offset between two records
    /// means the second one.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::BeyondTail`], or the storage's own.
    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>>;

    /// Reads from memory, from `from` on, without waiting: at most about `bytes_max` bytes, at least one batch. None if
    /// the records must be read from disk, or there are none yet.
    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        self.state().read_cached(from, bytes_max)
    }

    /// Reads from `from` on: at most about `bytes_max` bytes, at least one batch; an empty chunk at the tail.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::Damaged`], [`Error::TopicNotFound`] once deleted.
    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>>;

    /// Counts the records from `from` up to `to`.
    ///
    /// # Errors
    /// The storage's own.
    fn records_between(&self, from: Offset, to: Offset) -> BoxFuture<'_, Result<u64, Error>> {
        let (from, to) = (from.max(self.earliest()), to.min(self.tail()));
        Box::pin(std::future::ready(Ok(to.get().saturating_sub(from.get()))))
    }

    /// Starts an ordered sequence of appends.
    fn appender(&self) -> Box<dyn Appender>;

    /// Lists the request ids of the window that were stored with batches from `from` on, for a backup: up to `limit`, in the
    /// order of their batches.
    ///
    /// # Errors
    /// The storage's own.
    fn request_ids(&self, from: Offset, limit: usize) -> BoxFuture<'_, Result<Vec<StoredId>, Error>>;
}

/// A request id, as an engine stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredId {
    /// Offset of the first record of its batch.
    pub first: Offset,
    /// The id, in a form of the engine's own.
    pub id: Bytes,
    /// Scope of the id.
    pub scope: Scope,
}

/// The first request ids of a topic, as many as are asked for.
#[derive(Debug)]
pub(super) struct FirstIds {
    found: BTreeMap<Offset, StoredId>,
    from: Offset,
    limit: usize,
}

impl FirstIds {
    /// Looks for up to `limit` ids of batches from `from` on.
    pub(super) const fn new(from: Offset, limit: usize) -> Self {
        Self { found: BTreeMap::new(), from, limit }
    }

    /// Offset from which on ids are looked for.
    pub(super) const fn from(&self) -> Offset {
        self.from
    }

    /// Returns true if an id of a batch at `first`, or of one after it, may be among the first ones.
    pub(super) fn wants(&self, first: Offset) -> bool {
        self.found.len() < self.limit || self.found.last_key_value().is_some_and(|(last, _)| first <= *last)
    }

    /// Takes an id, which may come more than once.
    pub(super) fn add(&mut self, first: Offset, id: &[u8], scope: Scope) {
        if first < self.from || !self.wants(first) {
            return;
        }
        let id = Bytes::copy_from_slice(id);
        self.found.insert(first, StoredId { first, id, scope });
        if self.found.len() > self.limit {
            self.found.pop_last();
        }
    }

    /// Returns what was found.
    pub(super) fn finish(self) -> Vec<StoredId> {
        self.found.into_values().collect()
    }
}

/// A resource that is held until the outcome of an append is known, even if nobody waits for it: the share of a memory
/// budget that the append's bytes take.
#[derive(Default)]
pub struct Hold(Option<Box<dyn std::any::Any + Send>>);

impl Hold {
    /// Holds `what` until the hold is dropped.
    #[must_use]
    pub fn of(what: impl Send + 'static) -> Self {
        Self(Some(Box::new(what)))
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&self.0.is_some()).finish()
    }
}

/// An ordered sequence of appends to one topic: the publishes of one call.
pub trait Appender: Send {
    /// Stores batches in this order, after those of every earlier call. The future resolves when the outcome is known;
    /// dropping it cancels nothing. Once a batch is refused, neither it nor any later batch of this appender is stored.
    /// The exception is a failure of the storage itself ([`Stored::Unknown`](super::Stored::Unknown)): then the batches
    /// that were appended together with it may be stored. `hold` is dropped once the outcome is known.
    fn append(&mut self, batches: Vec<Batch>, hold: Hold) -> BoxFuture<'static, Appended>;
}

/// Outcome of one append.
#[derive(Debug, Default)]
pub struct Appended {
    /// Receipts of the first batches: of all, or of those before the one that was refused. They are durable.
    pub receipts: Vec<Receipt>,
    /// Reason why the batch after those was refused, and all later ones with it.
    pub failure: Option<Error>,
    /// Times of the steps that stored them, measured once a commit; none where nothing had to be stored.
    pub steps: Option<Steps>,
}

impl Appended {
    /// Creates the outcome of an append of which no batch was stored.
    #[must_use]
    pub const fn failed(error: Error) -> Self {
        Self { receipts: Vec::new(), failure: Some(error), steps: None }
    }
}

/// Start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record kept.
    Earliest,
    /// The tail.
    Latest,
    /// This offset.
    At(Offset),
    /// The first batch stored at or after this time.
    Time(UnixMicros),
    /// This many records before the tail.
    Last(u64),
}
