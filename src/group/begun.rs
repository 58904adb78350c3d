//! A shard that is ready for its next owner: it was folded, and the topics of its groups are known.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};

use super::logic::{GroupId, Shard};
use super::shard_log::Reader;
use crate::storage::{self, TopicLog};
use crate::topic::{self, Topics};

/// A shard that was folded.
pub(super) struct Begun {
    pub shard: Shard,
    /// Reader of the commands after those.
    pub reader: Reader,
    /// Topic that stores the shard.
    pub topic: Arc<dyn TopicLog>,
    /// Topics of its groups, without those that are gone.
    pub topics: HashMap<GroupId, Arc<dyn TopicLog>>,
}

impl Begun {
    /// Looks up the topics of the groups of a shard.
    ///
    /// # Errors
    /// The storage failed.
    pub(super) async fn new(
        reader: Reader,
        shard: Shard,
        topic: Arc<dyn TopicLog>,
        all: &Topics,
    ) -> Result<Self, topic::Error> {
        /// Topics looked up at the same time.
        const AT_ONCE: usize = 16;
        let wanted: Vec<_> = shard.groups().map(|(id, state)| (id, state.about.clone())).collect();
        let found =
            futures_util::stream::iter(wanted).map(async |(id, about)| match all.get(&about.topic).await {
                Ok(topic) => Ok((topic.epoch() == about.epoch).then_some((id, topic))),
                Err(topic::Error::Storage(storage::Error::TopicNotFound)) => Ok(None),
                Err(error) => Err(error),
            });
        let found = found.buffer_unordered(AT_ONCE).try_filter_map(async |found| Ok(found));
        Ok(Self { topics: found.try_collect().await?, reader, shard, topic })
    }
}
