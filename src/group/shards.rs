//! The shards of all groups, and the task to which messages of each go: the owner here, or the link to the owner at another
//! replica. It is started when a shard is first needed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared as SharedFuture;
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::begun::Begun;
use super::error::Error;
use super::fleet::Wanted;
use super::logic::SHARDS;
use super::mailbox::{Found, Mailbox, Message};
use super::recent::Recent;
use super::shard::{Shared, Task};
use super::shard_log;
use crate::config::Config;
use crate::record::BatchLimits;
use crate::storage::{self, BoxFuture, Log, Retention, Stored, TopicLog};
use crate::topic::{self, Topics};

/// Longest wait for the log of a server that is starting.
const START_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a shard to be handed over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait of a call for the owner of its shard. It is longer than it takes until another replica follows an owner
/// that was killed.
const FIND_TIMEOUT: Duration = Duration::from_secs(9);

/// Result of a search for the owner of a shard.
type Result<T> = std::result::Result<T, Error>;
/// A search for the owner of a shard, which all calls that need it wait for.
type Finding = SharedFuture<BoxFuture<'static, Result<Found>>>;

/// The shards.
pub(super) struct Shards {
    pub topics: Topics,
    pub batch_limits: BatchLimits,
    pub recent: Arc<Recent>,
    log: SetOnce<Arc<dyn Log>>,
    groups_max: usize,
    members_max: usize,
    count: Arc<AtomicUsize>,
    slots: Vec<Mutex<Slot>>,
    tasks: TaskTracker,
    /// The shard whose owner is looked after next.
    looked_after: AtomicU64,
}

/// Task of a shard.
enum Slot {
    /// It was not needed so far, or it ended.
    Resting,
    Finding(Finding),
    Working(Found),
    Closed,
}

/// Choice between creating the topic of a shard that has none, and leaving it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Leave,
}

impl Shards {
    pub(super) fn new(config: &Config, topics: Topics) -> Self {
        Self {
            topics,
            batch_limits: BatchLimits {
                records_max: config.batch_records_max,
                bytes_max: config.batch_bytes_max,
            },
            recent: Arc::default(),
            log: SetOnce::new(),
            groups_max: config.groups_max,
            members_max: config.group_members_max,
            count: Arc::default(),
            slots: (0..SHARDS).map(|_| Mutex::new(Slot::Resting)).collect(),
            tasks: TaskTracker::new(),
            looked_after: AtomicU64::new(fastrand::u64(..SHARDS)),
        }
    }

    /// Starts to serve the groups that this log stores. A second log is ignored.
    pub(super) fn open(&self, log: Arc<dyn Log>) {
        let _ = self.log.set(log);
    }

    /// Hands the shards over, and stops.
    pub(super) async fn close(&self) {
        let mut closing = Vec::new();
        for slot in &self.slots {
            let closed = std::mem::replace(&mut *lock(slot), Slot::Closed);
            if let Some(found) = closed.found() {
                let (closed, wait) = oneshot::channel();
                if found.mailbox.send(Message::Close(closed)).is_ok() {
                    closing.push(wait);
                }
            }
        }
        self.tasks.close();
        let all = async {
            for closed in closing {
                let _ = closed.await;
            }
            self.tasks.wait().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("groups were not handed over in time");
        }
    }

    /// The log, which a server that is starting does not have yet.
    pub(super) async fn log(&self) -> Result<&Arc<dyn Log>> {
        let shutdown = self.topics.shutdown_signal();
        match self.log.get() {
            Some(log) => Ok(log),
            None => tokio::select! {
                log = self.log.wait() => Ok(log),
                () = shutdown.cancelled() => Err(topic::Error::Draining.into()),
                () = tokio::time::sleep(START_TIMEOUT) => Err(topic::Error::Starting.into()),
            },
        }
    }

    /// The task to which messages of a shard go; none if the shard has no topic.
    pub(super) async fn get(&self, shard: u64, missing: Missing) -> Result<Option<Mailbox>> {
        let slot = self.slots.get(usize::try_from(shard).unwrap_or(0)).ok_or(Error::Lost)?;
        let known = match &*lock(slot) {
            Slot::Working(found) if !found.mailbox.is_closed() => return Ok(Some(found.mailbox.clone())),
            Slot::Closed => return Err(topic::Error::Draining.into()),
            Slot::Finding(finding) => Some(finding.clone()),
            _ => None,
        };
        let finding = match known {
            Some(finding) => finding,
            None => {
                let Some(topic) = self.topic(shard, missing).await? else { return Ok(None) };
                self.begin(slot, shard, topic).await?
            }
        };
        let found = tokio::time::timeout(FIND_TIMEOUT, finding.clone()).await;
        let found = found.map_err(|_| {
            let reason = "the groups' owner was lost, and another has not followed yet".to_owned();
            Error::from(topic::Error::from(storage::Error::Unavailable { reason, stored: Stored::Nothing }))
        })?;
        let mut slot = lock(slot);
        if matches!(&*slot, Slot::Finding(current) if current.ptr_eq(&finding)) {
            *slot = found.clone().map_or(Slot::Resting, Slot::Working);
        }
        match found {
            // It was reset meanwhile. Whoever asks again finds that out, or begins a new one.
            Err(Error::Topic(topic::Error::Storage(storage::Error::TopicNotFound))) => Err(Error::Moved),
            found => found.map(|found| Some(found.mailbox)),
        }
    }

    /// The tasks of the shards that this process owns now. Starts none.
    pub(super) fn owned(&self) -> Vec<Mailbox> {
        let found = self.slots.iter().filter_map(|slot| lock(slot).found().cloned());
        found
            .filter(|found| found.is_owner && !found.mailbox.is_closed())
            .map(|found| found.mailbox)
            .collect()
    }

    /// Makes sure that the next shard has an owner if it exists, so that all have one after a while.
    pub(super) async fn look_after_next(&self) -> Result<()> {
        let shard = self.looked_after.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.get(shard, Missing::Leave).await.map(drop)
    }

    async fn topic(&self, shard: u64, missing: Missing) -> Result<Option<Arc<dyn TopicLog>>> {
        let log = self.log().await?;
        let name = shard_log::name(shard);
        let found = match log.get(&name).await {
            Err(storage::Error::TopicNotFound) if missing == Missing::Leave => return Ok(None),
            Err(storage::Error::TopicNotFound) => log.create(name.clone(), Retention::default()).await,
            found => found,
        };
        match found {
            // Another replica has created it.
            Err(storage::Error::TopicExists) => Ok(Some(log.get(&name).await.map_err(topic::Error::from)?)),
            found => Ok(Some(found.map_err(topic::Error::from)?)),
        }
    }

    /// Begins to look for the owner of a shard, unless another call does.
    async fn begin(&self, slot: &Mutex<Slot>, shard: u64, topic: Arc<dyn TopicLog>) -> Result<Finding> {
        let log = self.log().await?;
        let shared = Shared {
            topics: self.topics.clone(),
            log: log.clone(),
            groups_max: self.groups_max,
            members_max: self.members_max,
            groups: self.count.clone(),
            batch_limits: self.batch_limits,
            recent: self.recent.clone(),
        };
        let (tasks, bus) = (self.tasks.clone(), log.bus());
        let shutdown = self.topics.shutdown_signal().clone();
        let mut slot = lock(slot);
        match &*slot {
            Slot::Finding(finding) => return Ok(finding.clone()),
            Slot::Working(found) if !found.mailbox.is_closed() => {
                return Ok(std::future::ready(Ok(found.clone())).boxed().shared());
            }
            Slot::Closed => return Err(topic::Error::Draining.into()),
            _ => {}
        }
        let finding: BoxFuture<'static, Result<Found>> = match bus {
            None => Box::pin(sole_owner(topic, shared, tasks)),
            Some(bus) => Box::pin(async move {
                tokio::select! {
                    found = Wanted { shard, topic, shared, bus, tasks }.find() => found,
                    () = shutdown.cancelled() => Err(topic::Error::Draining.into()),
                }
            }),
        };
        let finding = finding.shared();
        *slot = Slot::Finding(finding.clone());
        // It goes on if the calls that wait for it are cancelled.
        self.tasks.spawn(finding.clone().map(drop));
        Ok(finding)
    }
}

impl Slot {
    /// The task of the shard, if it was found.
    fn found(&self) -> Option<&Found> {
        match self {
            Self::Working(found) => Some(found),
            Self::Finding(finding) => finding.peek().and_then(|found| found.as_ref().ok()),
            Self::Resting | Self::Closed => None,
        }
    }
}

/// Starts the owner of a shard that no other process can own.
async fn sole_owner(topic: Arc<dyn TopicLog>, shared: Shared, tasks: TaskTracker) -> Result<Found> {
    let (reader, shard) = shard_log::fold(topic.clone()).await.map_err(topic::Error::from)?;
    let begun = Begun::new(reader, shard, topic, &shared.topics).await?;
    let (mailbox, messages) = mpsc::unbounded_channel();
    tasks.spawn(Task::new(begun, shared, messages).run(None));
    Ok(Found { mailbox, is_owner: true })
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
