//! The owner of a shard in a fleet: it is found, or this replica becomes it.
//!
//! Whoever owns a shard listens at the shard's address on the bus between the replicas. A replica that finds nobody there
//! reads the shard, and begins the next term once the last one was handed over, or its owner has been silent for
//! [`TAKEOVER`]. The shard's log decides between two that begin at the same time. When an owner is lost, the calls of its
//! members end, and their clients take their sessions up again through any replica.

mod client;
mod frames;
mod link;
mod server;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::server::Served;
use super::begun::Begun;
use super::error::Error;
use super::logic::Shard;
use super::mailbox::{Found, Mailbox};
use super::shard::{Shared, Task};
use super::shard_log::{self, Reader};
use crate::storage::{self, ReplicaBus};
use crate::topic;

/// Time after the last command of an owner that is silent, as this replica folded it, until another one begins. An owner
/// gives no leases for the last third of it.
const TAKEOVER: Duration = Duration::from_secs(6);
/// Pause between two attempts to find the owner of a shard that is not silent yet.
const FIND_AGAIN: Duration = Duration::from_millis(500);

/// A shard whose owner is wanted.
pub(super) struct Wanted {
    pub shard: u64,
    pub topic: std::sync::Arc<dyn storage::TopicLog>,
    pub shared: Shared,
    pub bus: ReplicaBus,
    pub tasks: TaskTracker,
}

impl Wanted {
    /// Finds the owner, or becomes it.
    ///
    /// # Errors
    /// The shard cannot be read.
    pub(super) async fn find(self) -> Result<Found, Error> {
        loop {
            if let Some(mailbox) = self.connect().await {
                return Ok(Found { mailbox, is_owner: false });
            }
            let (mut reader, mut shard) = self.fold().await?;
            let mut quiet_at = Instant::now() + TAKEOVER;
            while !shard.is_free() && Instant::now() < quiet_at {
                let read = tokio::time::timeout(FIND_AGAIN, reader.next()).await;
                match read {
                    Err(_) => {}
                    Ok(Ok(commands)) => {
                        for (at, size, command) in commands {
                            shard.apply(at, size, &command);
                        }
                        quiet_at = Instant::now() + TAKEOVER;
                    }
                    Ok(Err(storage::Error::Trimmed { .. })) => {
                        (reader, shard) = self.fold().await?;
                        quiet_at = Instant::now() + TAKEOVER;
                    }
                    Ok(Err(error)) => return Err(topic::Error::from(error).into()),
                }
                if !shard.is_free()
                    && let Some(mailbox) = self.connect().await
                {
                    return Ok(Found { mailbox, is_owner: false });
                }
            }
            if let Some(mailbox) = self.begin(reader, shard).await? {
                return Ok(Found { mailbox, is_owner: true });
            }
            tokio::time::sleep(FIND_AGAIN).await;
        }
    }

    async fn fold(&self) -> Result<(Reader, Shard), Error> {
        loop {
            match shard_log::fold(self.topic.clone()).await {
                // The owner has trimmed it meanwhile.
                Err(storage::Error::Trimmed { .. }) => tokio::time::sleep(FIND_AGAIN).await,
                folded => return Ok(folded.map_err(topic::Error::from)?),
            }
        }
    }

    fn address(&self) -> String {
        format!("shard-{}-{}", self.shard, self.topic.epoch())
    }

    async fn connect(&self) -> Option<Mailbox> {
        let here = (self.shared.topics.clone(), self.shared.recent.clone());
        let connected = client::connect(&self.bus, &self.address(), here, &self.tasks).await;
        connected.unwrap_or_else(|error| {
            tracing::debug!(shard = self.shard, %error, "the owner of the shard does not answer");
            None
        })
    }

    /// Begins the next term. None if another replica did.
    async fn begin(&self, reader: Reader, shard: Shard) -> Result<Option<Mailbox>, Error> {
        let inbox = self.bus.listen(&self.address()).await.map_err(topic::Error::from)?;
        let begun = Begun::new(reader, shard, self.topic.clone(), &self.shared.topics).await?;
        let (sender, mailbox) = mpsc::unbounded_channel();
        let (owning, owns) = oneshot::channel();
        self.tasks.spawn(Task::new(begun, self.shared.clone(), mailbox).run(Some(owning)));
        match owns.await {
            Ok(owns) => owns?,
            Err(_) => return Ok(None),
        }
        tracing::info!(shard = self.shard, "this replica owns a shard of groups");
        let topics = self.shared.topics.clone();
        let served = Served::new(self.bus.clone(), sender.clone(), topics, self.tasks.clone());
        self.tasks.spawn(server::serve(served, inbox));
        Ok(Some(sender))
    }
}
