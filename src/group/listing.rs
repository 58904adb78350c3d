//! Lists of groups in order: those of the shards, merged. Each shard is asked for a few groups at a time, so that a page costs
//! little more than its own groups.

use std::collections::VecDeque;

use futures_util::future::try_join_all;
use futures_util::{StreamExt, stream};

use super::attempts::WhenLost;
use super::error::Error;
use super::groups::Groups;
use super::info::{Info, Listed};
use super::logic::{GroupName, SHARDS};
use super::mailbox::{Message, Name};
use super::shard_log;
use super::shards::Missing;
use crate::record::TopicName;

/// Most groups that a shard is asked for at once, as an answer of another replica has a limited size.
const ASKED_MAX: usize = 200;
/// Fewest groups that a shard is asked for at once.
const ASKED_MIN: usize = 8;
/// Groups that are completed at the same time.
const DESCRIBED_AT_ONCE: usize = 16;

/// The next groups of a shard.
struct Run {
    shard: u64,
    found: VecDeque<Info>,
    /// The group after which the next ones come.
    after: Option<Name>,
    /// True once it has no more than those found.
    is_done: bool,
    is_damaged: bool,
}

impl Groups {
    /// Returns up to `limit` groups in the order of their topics and names, of one topic or of all, that come after
    /// `after`; without members. Fewer than `limit` are the last. Groups whose storage is damaged are left out, and their
    /// storage is named.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn list(
        &self,
        topic: Option<&TopicName>,
        after: Option<(TopicName, GroupName)>,
        limit: usize,
    ) -> Result<Listed, Error> {
        let after = after.map(|(topic, group)| Name { topic, group });
        let asked = (limit * 2 / SHARDS as usize).clamp(ASKED_MIN, ASKED_MAX).min(limit);
        let mut runs: Vec<Run> = (0..SHARDS).map(|shard| Run::new(shard, after.clone())).collect();
        let mut groups = Vec::new();
        while groups.len() < limit {
            try_join_all(runs.iter_mut().map(|run| run.fill(self, topic, asked))).await?;
            // The next group is the first one of all runs, once each has one or is at its end.
            let with_first = runs.iter_mut().filter(|run| !run.found.is_empty());
            let next = with_first.min_by(|a, b| a.name().cmp(&b.name()));
            let Some(next) = next.and_then(|run| run.found.pop_front()) else { break };
            groups.push(next);
        }
        let damaged = runs.iter().filter(|run| run.is_damaged).map(|run| shard_log::name(run.shard));
        Ok(Listed { groups: self.completed(groups).await, damaged: damaged.collect() })
    }

    /// Lists groups without members for statistics: those of all shards, or in a fleet those of which this replica is the
    /// owner. Also makes sure, shard by shard with every call, that each shard of a fleet has an owner.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn sample(
        &self,
        after: Option<(TopicName, GroupName)>,
        limit: usize,
    ) -> Result<Vec<Info>, Error> {
        if !self.is_of_fleet().await? {
            return Ok(self.list(None, after, limit).await?.groups);
        }
        if after.is_none() {
            self.look_after_next().await?;
        }
        let after = after.map(|(topic, group)| Name { topic, group });
        let mut found = self.owned_groups(after.as_ref(), limit).await;
        found.sort_by(|a, b| (&a.topic, &a.name).cmp(&(&b.topic, &b.name)));
        found.truncate(limit);
        Ok(self.completed(found).await)
    }

    /// Completes descriptions of groups, in their order.
    async fn completed(&self, found: Vec<Info>) -> Vec<Info> {
        let completed = stream::iter(found).map(|info| self.with_age(info));
        completed.buffered(DESCRIBED_AT_ONCE).collect().await
    }
}

impl Run {
    const fn new(shard: u64, after: Option<Name>) -> Self {
        Self { shard, found: VecDeque::new(), after, is_done: false, is_damaged: false }
    }

    /// Asks the shard for its next groups if none are left.
    async fn fill(&mut self, groups: &Groups, topic: Option<&TopicName>, count: usize) -> Result<(), Error> {
        if self.is_done || !self.found.is_empty() {
            return Ok(());
        }
        let message = |reply| Message::List(topic.cloned(), self.after.clone(), count, reply);
        let asked = groups.ask_shard(self.shard, Missing::Leave, WhenLost::Repeat, message).await;
        let page = match asked {
            Err(error) if error.is_of_damage() => {
                self.is_damaged = true;
                Vec::new()
            }
            asked => asked?.unwrap_or_default(),
        };
        self.is_done = page.len() < count;
        if let Some(last) = page.last() {
            self.after = Some(Name { topic: last.topic.clone(), group: last.name.clone() });
        }
        self.found = page.into();
        Ok(())
    }

    /// Name of its first group.
    fn name(&self) -> Option<(&TopicName, &GroupName)> {
        self.found.front().map(|info| (&info.topic, &info.name))
    }
}
