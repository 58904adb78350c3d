//! New beginnings of damaged shards, which an operator asks for: their groups are given up.

use super::error::Error;
use super::groups::Groups;
use super::logic::SHARDS;
use super::shard_log;
use super::shards::Missing;
use crate::storage;
use crate::topic;

impl Groups {
    /// Returns the shard that an internal topic stores; none if it stores none.
    #[must_use]
    pub fn shard_named(internal_topic: &str) -> Option<u64> {
        (0..SHARDS).find(|shard| shard_log::name(*shard).as_str() == internal_topic)
    }

    /// Deletes the topic of a damaged shard with its groups. The next group that is created in the shard begins a new one.
    ///
    /// # Errors
    /// [`Error::NotDamaged`], or the storage failed.
    pub async fn reset(&self, shard: u64) -> Result<(), Error> {
        match self.shards().get(shard, Missing::Leave).await {
            Ok(_) => return Err(Error::NotDamaged),
            Err(error) if error.is_of_damage() => {
                tracing::warn!(shard = %shard_log::name(shard), %error, "damaged groups are given up");
            }
            Err(error) => return Err(error),
        }
        let deleted = self.shards().log().await?.delete(&shard_log::name(shard), None).await;
        match deleted {
            // Another call has deleted it.
            Ok(()) | Err(storage::Error::TopicNotFound) => Ok(()),
            Err(error) => Err(topic::Error::from(error).into()),
        }
    }
}
