//! Lists of topics. NATS lists their names cheaply; details are requested only for a few. The list of all streams is
//! never requested, because its cost grows with the number of streams.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::log::JetStreamLog;
use super::names::{self, Meta};
use super::nats::unavailable;
use super::topic::info_of;
use crate::record::TopicName;
use crate::storage::{Error, TopicInfo};

/// Maximum number of requests at the same time.
const AT_ONCE: usize = 16;
/// Maximum number of known topics that one sample requests again: those with the oldest results.
const ASKED_MAX: usize = 100;
/// Maximum number of apparently deleted topics that one sample checks.
const GONE_MAX: usize = 100;

impl JetStreamLog {
    /// Implements [`crate::storage::Log::names`].
    pub(super) async fn names(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BTreeSet<TopicName>, Error> {
        let wanted = |name: &TopicName| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
        };
        // NATS does not list names in order. At most `limit` of them are stored here.
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

    /// Requests the details of these topics. Topics that are deleted, or that are not ours, are left out.
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

    /// Implements [`crate::storage::Log::list`].
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
            // Topics that were deleted in the meantime are replaced by the next ones, because a short page counts as
            // the last page.
            if is_last || page.len() >= limit {
                return Ok(page);
            }
        }
    }

    /// Implements [`crate::storage::Log::sample`], and forgets topics that other replicas deleted.
    pub(super) async fn sample_all(&self) -> Result<Vec<TopicInfo>, Error> {
        let names = self.names("", None, usize::MAX).await?;
        self.forget_gone(&names).await;
        let now = self.nats.now_ms();
        let mut sampled = std::mem::take(&mut *self.sampled());
        sampled.retain(|name, _| names.contains(name));
        // The state of a topic that is followed is known without a request.
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

    /// Forgets the topics that are not among `names`.
    async fn forget_gone(&self, names: &BTreeSet<TopicName>) {
        let kept: HashSet<_> = self.topics().keys().filter(|name| !name.is_internal()).cloned().collect();
        for name in kept.into_iter().filter(|name| !names.contains(name)).take(GONE_MAX) {
            // The topic may have been created after the names were listed.
            let _ = self.fetch(&name).await;
        }
    }
}
