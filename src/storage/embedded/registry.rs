//! The registry of all topics, by name and by id. The committer decides which changes may be made, and makes
//! them here; everyone may read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use super::catalog::{ChangeKind, TopicEntry};
use super::segment::Segment;
use super::topic::{NUMBERING, Topic};
use crate::record::{Epoch, Offset, TopicName, UnixMicros};
use crate::storage::TopicInfo;
use crate::storage::topic_state::Settings;

#[derive(Debug, Default)]
struct Maps {
    #[cfg(test)]
    listed: std::sync::atomic::AtomicUsize,
    by_name: BTreeMap<TopicName, Arc<Topic>>,
    by_id: HashMap<u64, Arc<Topic>>,
    /// Number of internal topics.
    internal: usize,
}

/// Registry of all topics.
#[derive(Debug, Default)]
pub struct Registry(RwLock<Maps>);

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.0.read().expect("no panic while it is held")
    }

    /// Returns the topic with this name.
    #[must_use]
    pub fn get(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.read().by_name.get(name).cloned()
    }

    /// Returns the topic with this id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<Arc<Topic>> {
        self.read().by_id.get(&id).cloned()
    }

    /// Returns the number of topics, without internal ones.
    #[must_use]
    pub fn count(&self) -> usize {
        let maps = self.read();
        maps.by_name.len() - maps.internal
    }

    /// Returns all topics, internal ones included, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.read().by_name.values().cloned().collect()
    }

    /// Returns up to `limit` topics, in the order of their names, with names that begin with `prefix` and
    /// come after `after`. Internal topics are left out.
    #[must_use]
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Arc<Topic>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let maps = self.read();
        let range = maps.by_name.range::<str, _>((from, Bound::Unbounded));
        let named = range.take_while(|(name, _)| name.as_str().starts_with(prefix) && !name.is_internal());
        let page: Vec<_> = named.take(limit).map(|(_, topic)| topic.clone()).collect();
        #[cfg(test)]
        maps.listed.fetch_add(page.len(), std::sync::atomic::Ordering::Relaxed);
        page
    }

    /// Returns the number of topics in all pages so far.
    #[cfg(test)]
    pub fn listed(&self) -> usize {
        self.read().listed.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Adds a topic.
    pub fn insert(&self, topic: Arc<Topic>) {
        let mut maps = self.0.write().expect("no panic while it is held");
        maps.internal += usize::from(topic.state.name.is_internal());
        maps.by_id.insert(topic.id, topic.clone());
        maps.by_name.insert(topic.state.name.clone(), topic);
    }

    /// Makes a durable change visible. A new topic is `created` if that is given, and is built from its entry
    /// otherwise. A change of a topic that does not exist has no effect.
    pub fn apply(&self, change: &ChangeKind, created: Option<&Arc<Topic>>) {
        match change {
            ChangeKind::Create(entry) => {
                let topic = created.cloned().or_else(|| {
                    TopicName::stored(&entry.name).ok().map(|name| Arc::new(topic_of(entry, name)))
                });
                topic.into_iter().for_each(|topic| self.insert(topic));
            }
            ChangeKind::Update(entry) => {
                let retention = entry.retention.unwrap_or_default().into();
                let settings = Settings { retention, updated: UnixMicros(entry.updated) };
                if let Some(topic) = self.by_id(entry.id) {
                    topic.state.set_settings(settings);
                }
            }
            ChangeKind::Delete(id) => {
                let mut maps = self.0.write().expect("no panic while it is held");
                if let Some(topic) = maps.by_id.remove(id) {
                    maps.by_name.remove(&topic.state.name);
                    maps.internal -= usize::from(topic.state.name.is_internal());
                    topic.delete();
                }
            }
            ChangeKind::Trim(entry) => {
                if let Some(topic) = self.by_id(entry.id) {
                    topic.state.trim(Offset::new(entry.earliest));
                }
            }
        }
    }
}

/// Builds the topic that an entry describes.
#[must_use]
pub fn topic_of(entry: &TopicEntry, name: TopicName) -> Topic {
    let known = TopicInfo {
        name,
        epoch: Epoch::new(entry.epoch),
        created: UnixMicros(entry.created),
        updated: UnixMicros(entry.updated),
        retention: entry.retention.unwrap_or_default().into(),
        earliest: Offset::new(entry.earliest),
        tail: Offset::new(entry.tail),
        stored_bytes: 0,
        last_publish: (entry.last_publish > 0).then_some(UnixMicros(entry.last_publish)),
        lineage: entry.lineage(),
        numbering: NUMBERING,
    };
    let topic = Topic::new(entry.id, known);
    topic.segments.store(Arc::new(entry.segments.iter().map(Segment::from).collect()));
    topic
}
