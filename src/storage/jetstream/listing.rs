//! Which topics there are: their names, which NATS lists cheaply, and of few of them what they are like.
//! Never: asks NATS for its list of streams, which costs it as much as it has streams.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::log::JetStreamLog;
use super::names::{self, Meta};
use super::nats::unavailable;
use super::topic::info_of;
use crate::record::TopicName;
use crate::storage::{Error, TopicInfo};

/// Questions that are asked at once.
const AT_ONCE: usize = 16;
/// Topics asked for again by one sample: those that were asked for longest ago.
const ASKED_MAX: usize = 100;
/// Topics that seem gone looked after by one sample.
const GONE_MAX: usize = 100;

impl JetStreamLog {
    /// As [`crate::storage::Log::names`].
    pub(super) async fn names(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BTreeSet<TopicName>, Error> {
        let wanted = |name: &TopicName| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
        };
        // NATS lists in an order of its own; what is kept of it is bounded.
        let mut found = BTreeSet::new();
        let mut streams = self.nats.context.stream_names();
        while let Some(stream) = streams.next().await {
            let stream = stream.map_err(unavailable)?;
            let Some(name) = names::topic(&stream).filter(wanted) else { continue };
            found.insert(name);
            if found.len() > limit {
                found.pop_last();
            }
        }
        Ok(found)
    }

    /// What these topics are like; those that are gone, or not ours, are left out.
    pub(super) async fn infos(
        &self,
        names: impl IntoIterator<Item = TopicName>,
    ) -> Result<Vec<TopicInfo>, Error> {
        let asked = stream::iter(names).map(async |name| {
            let info = self.nats.info(&names::stream(&name)).await?;
            Ok(info.and_then(|info| Some(info_of(Meta::of(&info.config)?, &info))))
        });
        asked.buffered(AT_ONCE).try_filter_map(async |found| Ok(found)).try_collect().await
    }

    /// As [`crate::storage::Log::list`].
    pub(super) async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<TopicInfo>, Error> {
        let (mut page, mut after) = (Vec::new(), after.map(str::to_owned));
        loop {
            let missing = limit - page.len();
            let names = self.names(prefix, after.as_deref(), missing).await?;
            let is_last = names.len() < missing;
            after = names.last().map(|name| name.as_str().to_owned());
            page.extend(self.infos(names).await?);
            // Where some were gone already, others take their place: a short page is the last one.
            if is_last || page.len() >= limit {
                return Ok(page);
            }
        }
    }

    /// As [`crate::storage::Log::sample`]. Forgets topics that other replicas deleted.
    pub(super) async fn sample_all(&self) -> Result<Vec<TopicInfo>, Error> {
        let names = self.names("", None, usize::MAX).await?;
        self.forget_gone(&names).await;
        let now = self.nats.now_ms();
        let mut sampled = std::mem::take(&mut *self.sampled());
        sampled.retain(|name, _| names.contains(name));
        // What is followed is known.
        for topic in self.topics().values().filter(|topic| topic.is_fresh()) {
            if names.contains(&topic.state.name) {
                sampled.insert(topic.state.name.clone(), (now, topic.info()));
            }
        }
        let mut old: Vec<_> = sampled.iter().map(|(name, (asked, _))| (*asked, name.clone())).collect();
        old.retain(|(asked, _)| *asked < now);
        old.sort_unstable();
        let again = old.into_iter().map(|(_, name)| name).take(ASKED_MAX);
        let unknown = names.iter().filter(|name| !sampled.contains_key(*name)).cloned();
        let asked: Vec<_> = unknown.chain(again).collect();
        let found = self.infos(asked.iter().cloned()).await;
        if let Ok(found) = &found {
            asked.iter().for_each(|name| drop(sampled.remove(name)));
            sampled.extend(found.iter().map(|info| (info.name.clone(), (now, info.clone()))));
        }
        let all = sampled.values().map(|(_, info)| info.clone()).collect();
        *self.sampled() = sampled;
        found.map(|_| all)
    }

    fn sampled(&self) -> std::sync::MutexGuard<'_, HashMap<TopicName, (u64, TopicInfo)>> {
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is kept of topics that are not among these any more.
    async fn forget_gone(&self, names: &BTreeSet<TopicName>) {
        let kept: HashSet<_> = self.topics().keys().cloned().collect();
        for name in kept.into_iter().filter(|name| !names.contains(name)).take(GONE_MAX) {
            // It may have been created since the names were listed.
            let _ = self.fetch(&name).await;
        }
    }
}
