//! The contract that every engine keeps: [`Log`], [`TopicLog`] and [`Appender`].

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::chunk::Chunk;
use super::error::Error;
use super::health::Health;
use super::retention::Retention;
use super::topic_state::TopicInfo;
use crate::record::{Batch, Epoch, Offset, Receipt, TopicName, UnixMicros};
use crate::telemetry::trace::Steps;

/// A future of the contract.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All topics of one engine.
pub trait Log: Send + Sync + 'static {
    /// The topic of this name, where that is known without waiting for anybody.
    fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>>;

    /// The topic of this name.
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

    /// Up to `limit` topics by name, those after `after` whose name begins with `prefix`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, Error>>;

    /// The names of the same topics as [`Self::list`], which may be much cheaper.
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

    /// All names behind `after` that begin with `prefix`, where this engine looks at all to find any; none
    /// where a look at a few of them costs no more than a few.
    fn all_names<'a>(
        &'a self,
        _prefix: &'a str,
        _after: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeSet<TopicName>>, Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// What these topics are like now; those that are gone are left out.
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

    /// All topics, in no order, for whoever counts them every few seconds: an engine that would have to ask
    /// others for each tells of some what it knew a while ago.
    fn sample(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>, Error>> {
        /// Topics asked for at once, before calls have their turn.
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

    /// Deletes a topic, durably; where `epoch` is given, only that incarnation.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::EpochChanged`].
    fn delete<'a>(&'a self, name: &'a TopicName, epoch: Option<Epoch>) -> BoxFuture<'a, Result<(), Error>>;

    /// Forgets whole batches before an offset, durably; answers the real earliest offset.
    ///
    /// # Errors
    /// [`Error::BeyondTail`], [`Error::TopicNotFound`], [`Error::EpochChanged`].
    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, Error>>;

    /// Whether the storage takes writes, and why not.
    fn health(&self) -> watch::Receiver<Health>;

    /// Says that calls are cut off soon: appends that wait for a storage which does not answer are given
    /// their answer now, in about a second. The others go on.
    fn hurry(&self) {}

    /// Refuses new appends, makes what was accepted durable and closes. Later calls do nothing.
    ///
    /// # Errors
    /// What was accepted could not be made durable.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// One incarnation of a topic.
pub trait TopicLog: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &TopicName;

    /// Its incarnation.
    fn epoch(&self) -> Epoch;

    /// All there is to know about it now.
    fn info(&self) -> TopicInfo;

    /// The offset the next record will get; everything before it is durable.
    fn tail(&self) -> Offset;

    /// The offset of the oldest record kept; the tail where there is none.
    fn earliest(&self) -> Offset;

    /// Whether this incarnation was deleted.
    fn is_deleted(&self) -> bool;

    /// Resolves once the tail is beyond `offset` or the topic is deleted. Cancel-safe.
    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'_, ()>;

    /// Where a start lies: at or before the tail, at or after the earliest.
    /// An offset between records rounds up.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::BeyondTail`], or the storage's own.
    fn resolve(&self, start: Start) -> BoxFuture<'_, Result<Offset, Error>>;

    /// What is in memory from `from` on, without waiting: at most about `bytes_max`, at least one
    /// batch. None where it must be read from disk, or there is nothing yet.
    fn read_cached(&self, from: Offset, bytes_max: usize) -> Option<Chunk>;

    /// What is stored from `from` on: at most about `bytes_max` bytes, at least one batch; an
    /// empty chunk at the tail.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::Damaged`], [`Error::TopicNotFound`] once deleted.
    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'_, Result<Chunk, Error>>;

    /// Starts an ordered sequence of appends.
    fn appender(&self) -> Box<dyn Appender>;
}

/// Whatever must be held until an append's outcome is known, whoever waits for it: the share of a
/// budget that its bytes take.
#[derive(Default)]
pub struct Hold(Option<Box<dyn std::any::Any + Send>>);

impl Hold {
    /// Holds `what` until it is dropped.
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
    /// Stores batches in this order, after those of every earlier call. The future resolves when
    /// the outcome is known; dropping it cancels nothing. Once a batch was refused, it and all
    /// later ones of this appender are definitely not stored; unless the storage itself failed
    /// ([`Stored::Unknown`]), which leaves it open for the batches appended together with it.
    /// `hold` is dropped once the outcome is known, also where nobody waits for it any more.
    fn append(&mut self, batches: Vec<Batch>, hold: Hold) -> BoxFuture<'static, Appended>;
}

/// What became of the batches of one append.
#[derive(Debug, Default)]
pub struct Appended {
    /// The receipts of the first so many batches: all durable.
    pub receipts: Vec<Receipt>,
    /// Why the batch after those, and with it all later ones, was refused.
    pub failure: Option<Error>,
    /// When what was done with them, where the engine stored them; it is measured once a group.
    pub steps: Option<Steps>,
}

impl Appended {
    /// Nothing is stored, for this reason.
    #[must_use]
    pub const fn failed(error: Error) -> Self {
        Self { receipts: Vec::new(), failure: Some(error), steps: None }
    }
}

/// Where a subscription starts.
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
    /// So many records before the tail.
    Last(u64),
}
