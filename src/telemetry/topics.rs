//! Counts by topic: a limited number of topics by name, all others together, so that clients cannot create
//! labels without end.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::metric::{Counter, Gauge};
use super::names::OTHER;

/// Default number of topics with a label of their own.
pub const TOPICS_MAX: usize = 100;

/// Counts of one topic, or of all beyond the limit.
#[derive(Debug, Default)]
pub struct Topic {
    /// The label.
    pub name: Box<str>,
    /// Records stored.
    pub published_records: Counter,
    /// Batches stored.
    pub published_batches: Counter,
    /// Bytes stored.
    pub published_bytes: Counter,
    /// Records delivered to subscribers.
    pub delivered_records: Counter,
    /// Bytes delivered to subscribers.
    pub delivered_bytes: Counter,
    /// Messages with records delivered to subscribers.
    pub delivered_messages: Counter,
    /// Stored bytes.
    pub stored_bytes: Gauge,
    /// The tail.
    pub tail: Gauge,
    /// The earliest offset.
    pub earliest: Gauge,
}

impl Topic {
    fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), ..Self::default() })
    }
}

/// State of a topic when the server samples all of them.
#[derive(Clone, Copy, Debug)]
pub struct TopicStats<'a> {
    /// Name of the topic.
    pub name: &'a str,
    /// Stored bytes.
    pub stored_bytes: u64,
    /// The tail.
    pub tail: u64,
    /// The earliest offset.
    pub earliest: u64,
}

static OTHERS: LazyLock<Arc<Topic>> = LazyLock::new(|| Topic::named(OTHER));

/// All topics that have a label.
#[derive(Debug)]
pub struct Topics {
    named: LazyLock<RwLock<HashMap<Box<str>, Arc<Topic>>>>,
    max: AtomicUsize,
}

impl Topics {
    pub(super) const fn new() -> Self {
        Self { named: LazyLock::new(RwLock::default), max: AtomicUsize::new(TOPICS_MAX) }
    }

    /// Sets the limit. Topics that have a label keep it.
    pub fn limit(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    /// Returns the counts of a topic. A look-up: once a call, not once a publish.
    #[must_use]
    pub fn of(&self, name: &str) -> Arc<Topic> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let found = match named.get(name) {
            Some(found) => Some(found.clone()),
            // Without waiting for others: most of ten thousand topics have no label.
            None => (named.len() >= self.max.load(Relaxed)).then(|| OTHERS.clone()),
        };
        drop(named);
        found.unwrap_or_else(|| self.add(name))
    }

    fn add(&self, name: &str) -> Arc<Topic> {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if named.len() >= self.max.load(Relaxed) && !named.contains_key(name) {
            return OTHERS.clone();
        }
        named.entry(name.into()).or_insert_with(|| Topic::named(name)).clone()
    }

    /// Updates the gauges of all topics. Those that are gone give their label up.
    pub fn update<'a>(&self, all: impl Iterator<Item = TopicStats<'a>>) {
        let (mut alive, mut others) = (HashSet::new(), 0);
        for seen in all {
            let topic = self.of(seen.name);
            if *topic.name != *seen.name {
                others += seen.stored_bytes;
                continue;
            }
            topic.stored_bytes.set(seen.stored_bytes);
            topic.tail.set(seen.tail);
            topic.earliest.set(seen.earliest);
            alive.insert(seen.name.to_owned());
        }
        OTHERS.stored_bytes.set(others);
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.retain(|name, _| alive.contains(&**name));
    }

    /// Lists the topics that have a label, by name, and the others where there are any.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Topic>> {
        let mut all: Vec<_> =
            self.named.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let others = &*OTHERS;
        if others.stored_bytes.get() > 0
            || others.published_batches.get() > 0
            || others.delivered_messages.get() > 0
        {
            all.push(others.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{OTHER, TopicStats, Topics};

    #[test]
    fn labels_are_capped_and_given_up_by_deleted_topics() {
        let topics = Topics::new();
        topics.limit(2);
        assert_eq!([&*topics.of("a").name, &*topics.of("b").name, &*topics.of("c").name], ["a", "b", OTHER]);
        topics.of("b").published_records.add(7);
        let seen = |name| TopicStats { name, stored_bytes: 10, tail: 5, earliest: 1 };
        topics.update([seen("b"), seen("c")].into_iter());
        assert_eq!(&*topics.of("c").name, "c", "a's label is free");
        assert_eq!((topics.of("b").published_records.get(), topics.of("b").stored_bytes.get()), (7, 10));
    }
}
