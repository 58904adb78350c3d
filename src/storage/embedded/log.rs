//! The embedded log: opens the directory, starts the committer and the checkpointer, and implements the
//! storage contract.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::checkpoint_queue::CheckpointQueue;
use super::disk::{Disk, RealDisk};
use super::handle::Handle;
use super::health::Monitor;
use super::open::OpenError;
use super::queue::{Change, Op, Queue};
use super::reader::{self, Files};
use super::registry::Registry;
use super::topic::{NUMBERING, Topic};
use super::{cached, checkpoint, commit, committer, dir as data_dir, journal, recovery, retention};
use crate::config::StorageConfig;
use crate::record::{Epoch, Offset, Position, TopicName};
use crate::storage::clock::Clock;
use crate::storage::window::Window;
use crate::storage::{
    BoxFuture, Error, Health, Lineage, Log, Numbering, Retention, Stored, TopicInfo, TopicLog,
};

/// The embedded engine.
#[derive(Debug)]
pub struct EmbeddedLog {
    pub(super) queue: Queue,
    pub(super) registry: Arc<Registry>,
    pub(super) files: Arc<Files>,
    health: Monitor,
    request_id_window: Duration,
    threads: Mutex<Vec<JoinHandle<()>>>,
    // The lock is held for as long as the log is open.
    _lock: Option<std::fs::File>,
}

impl EmbeddedLog {
    /// Opens or creates the log in `dir`, and recovers what a crash left. Blocks the thread, for up to a second.
    ///
    /// # Errors
    /// Fails if the directory is locked, read-only, of a newer format, not a directory, or damaged.
    pub fn open(dir: &Path, config: &StorageConfig, topics_max: usize) -> Result<Arc<Self>, OpenError> {
        if dir.exists() && !dir.is_dir() {
            return Err(OpenError::NotADirectory(dir.into()));
        }
        data_dir::make(dir).map_err(|e| OpenError::io(dir, e))?;
        if let Some(parent) = dir.canonicalize().ok().as_deref().and_then(Path::parent) {
            // An error is ignored, because this process need not sync a parent that it may not open.
            let _ = RealDisk.sync_dir(parent);
        }
        let lock = data_dir::lock(dir)?;
        Self::open_on(Arc::new(RealDisk), Clock::default(), dir, config, topics_max, Some(lock))
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        clock: Clock,
        dir: &Path,
        config: &StorageConfig,
        topics_max: usize,
        lock: Option<std::fs::File>,
    ) -> Result<Arc<Self>, OpenError> {
        let window = Window::new(config.request_id_window, config.request_ids_max, clock.steady());
        let found = recovery::recover(&*disk, dir, config.journal_bytes, window)?;
        let (queue, health) = (Queue::default(), Monitor::default());
        let registry = Arc::new(found.registry);
        let files = Files::new(disk.clone(), dir.into(), config.open_files_max, health.clone());
        let files = Arc::new(files);
        let checkpoint_queue = Arc::new(CheckpointQueue::new(config.unflushed_bytes_max, found.spares));
        checkpoint_queue.add(found.pending.iter().map(commit::Pending::bytes).sum());
        let store = committer::Store {
            disk: disk.clone(),
            dir: dir.into(),
            journal_bytes: config.journal_bytes,
            topics_max,
        };
        let committer = committer::Committer {
            store,
            queue: queue.clone(),
            registry: registry.clone(),
            journal: found.journal,
            window: found.window,
            clock: found.clock,
            time: clock.clone(),
            next_topic: found.next_topic,
            pending: found.pending,
            checkpoint_queue: checkpoint_queue.clone(),
            health: health.clone(),
            buffer: journal::CommitBuf::default(),
            sealed: found.sealed,
            first_journal: found.catalog.journal,
            failed: None,
        };
        let replayed = !committer.pending.is_empty() || committer.journal.seq > found.catalog.journal;
        let checkpointer = checkpoint::Checkpointer {
            disk,
            dir: dir.into(),
            segment_bytes: config.segment_bytes,
            ids_max: config.request_ids_max,
            catalog: found.catalog,
            checkpoint_queue,
            files: files.clone(),
            health: health.clone(),
            retention_task: retention::RetentionTask::new(registry.clone(), queue.clone(), clock),
            retention_ran: None,
            journal_requested: None,
            cached: cached::Cached::new(config.cache_bytes),
        };
        if replayed {
            // Replayed commits go to segments soon, so that the time of recovery does not grow with each
            // restart.
            let _ = queue.push(Op::Rotate);
        }
        let threads = vec![
            spawn(dir, "streamway-commit", move || committer.run())?,
            spawn(dir, "streamway-checkpoint", move || checkpointer.run())?,
        ];
        Ok(Arc::new(Self {
            queue,
            registry,
            files,
            health,
            request_id_window: config.request_id_window,
            threads: Mutex::new(threads),
            _lock: lock,
        }))
    }

    fn handle(&self, topic: Arc<Topic>) -> Arc<dyn TopicLog> {
        let (files, queue) = (self.files.clone(), self.queue.clone());
        Arc::new(Handle { topic, files, queue, request_id_window: self.request_id_window })
    }

    /// Finds the topic; if `epoch` is given, only if an offset of that incarnation is valid in it.
    fn find(&self, name: &TopicName, epoch: Option<Epoch>, offset: Offset) -> Result<Arc<Topic>, Error> {
        let topic = self.registry.get(name).ok_or(Error::TopicNotFound)?;
        if let Some(epoch) = epoch {
            topic.state.lineage.offset(topic.state.epoch, Position { epoch, offset })?;
        }
        Ok(topic)
    }

    async fn trim_to(&self, topic: Arc<Topic>, before: Offset) -> Result<Offset, Error> {
        let tail = topic.state.tail();
        if before > tail {
            return Err(Error::BeyondTail {
                epoch: topic.state.epoch,
                earliest: topic.state.earliest(),
                tail,
            });
        }
        let (held, files) = (topic.clone(), self.files.clone());
        let earliest = tokio::task::spawn_blocking(move || reader::batch_start(&held, &files, before)).await;
        let unavailable = |error: tokio::task::JoinError| Error::Unavailable {
            reason: error.to_string(),
            stored: Stored::Nothing,
        };
        let earliest = earliest.map_err(unavailable)??;
        self.queue.change(Change::Trim(topic.clone(), earliest)).await?;
        Ok(topic.state.earliest())
    }
}

impl Log for EmbeddedLog {
    fn known(&self, name: &TopicName) -> Option<Arc<dyn TopicLog>> {
        self.registry.get(name).map(|state| self.handle(state))
    }

    fn get<'a>(&'a self, name: &'a TopicName) -> BoxFuture<'a, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(std::future::ready(self.known(name).ok_or(Error::TopicNotFound)))
    }

    fn create(
        &self,
        name: TopicName,
        retention: Retention,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            let state = self.queue.change(Change::Create(name, retention.normalized())).await?;
            Ok(self.handle(state))
        })
    }

    fn restore(
        &self,
        name: TopicName,
        first: Offset,
        lineage: Lineage,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, Error>> {
        Box::pin(async move {
            let state = self.queue.change(Change::Restore(name, first, lineage)).await?;
            Ok(self.handle(state))
        })
    }

    fn has_sole_owner(&self) -> bool {
        true
    }

    fn numbering(&self) -> Numbering {
        NUMBERING
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, Error>> {
        let page = self.registry.page(prefix, after, limit);
        Box::pin(std::future::ready(Ok(page.iter().map(|topic| topic.info()).collect())))
    }

    fn names<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicName>, Error>> {
        let page = self.registry.page(prefix, after, limit);
        Box::pin(std::future::ready(Ok(page.iter().map(|topic| topic.state.name.clone()).collect())))
    }

    fn update<'a>(
        &'a self,
        name: &'a TopicName,
        retention: Retention,
    ) -> BoxFuture<'a, Result<TopicInfo, Error>> {
        Box::pin(async move {
            let state = self.queue.change(Change::Update(name.clone(), retention.normalized())).await?;
            Ok(state.info())
        })
    }

    fn delete<'a>(&'a self, name: &'a TopicName, epoch: Option<Epoch>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.queue.change(Change::Delete(name.clone(), epoch)).await.map(|_| ()) })
    }

    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, Error>> {
        Box::pin(async move { self.trim_to(self.find(name, epoch, before)?, before).await })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while it is held"));
        Box::pin(async move {
            let joined = tokio::task::spawn_blocking(move || {
                threads.into_iter().map(JoinHandle::join).all(|result| result.is_ok())
            });
            if !matches!(joined.await, Ok(true)) {
                self.health.fail("a thread of the log panicked");
            }
            self.health.close();
            match &*self.health.subscribe().borrow() {
                Health::Failed(reason) => {
                    Err(Error::Unavailable { reason: reason.to_string(), stored: Stored::Unknown })
                }
                _ => Ok(()),
            }
        })
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.queue.close();
        for thread in std::mem::take(&mut *self.threads.lock().expect("no panic while it is held")) {
            let _ = thread.join();
        }
    }
}

fn spawn(dir: &Path, name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(|e| OpenError::io(dir, e))
}
