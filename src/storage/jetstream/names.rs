//! Names of streams and subjects, and the mapping between a topic's settings and the configuration and metadata of its
//! stream.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use crate::record::{Epoch, Offset, TopicName, UnixMicros};
use crate::storage::{Ancestor, Lineage, Retention};

/// Number of low bits of an offset that hold the index of a record in its message. The bits above hold the sequence.
pub const INDEX_BITS: u32 = 10;
/// Maximum number of records in one message.
pub const RECORDS_MAX: u32 = 1 << INDEX_BITS;

/// Prefix of the name of every topic's stream.
const PREFIX: &str = "streamway-";
const TOPIC: &str = "streamway.topic";
const EPOCH: &str = "streamway.epoch";
/// Takes the place of [`EPOCH`] in a restored topic, so that an earlier version, which would give its records other
/// offsets, does not take the stream for a topic.
const RESTORED_EPOCH: &str = "streamway.restored_epoch";
const RESTORED_FROM: &str = "streamway.restored_from";
const BASE: &str = "streamway.base";
const UPDATED: &str = "streamway.updated_us";
const MAX_AGE: &str = "streamway.max_age_us";
const MAX_BYTES: &str = "streamway.max_bytes";
const MAX_RECORDS: &str = "streamway.max_records";

/// Minimum age and duplicate window that NATS accepts.
pub const AGE_MIN: Duration = Duration::from_millis(100);
/// Ages from this one on are passed to NATS as unlimited, because it counts nanoseconds in 63 bits, which is 292 years.
const AGE_NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Sizes from this one on (1 EiB) are passed to NATS as unlimited. NATS reserves each size, adds the sizes up in 63
/// bits without a check for overflow, and no store is that large.
const BYTES_NEVER: u64 = 1 << 60;

/// Escapes a topic's name for use in subjects and stream names. A dot separates the tokens of a subject and is not
/// allowed in a stream's name; `=` occurs in no topic's name.
#[must_use]
pub fn escaped(topic: &TopicName) -> String {
    topic.as_str().replace('.', "=")
}

/// Returns the name of the stream that stores a topic.
#[must_use]
pub fn stream(topic: &TopicName) -> String {
    format!("{PREFIX}{}", escaped(topic))
}

/// Returns the topic that a stream of this name may store. None if it is certainly not one of our streams, or stores an
/// internal topic, which is never listed.
#[must_use]
pub fn topic(stream: &str) -> Option<TopicName> {
    unescaped(stream.strip_prefix(PREFIX)?)
}

/// Reverses [`escaped`]. None if the text is not the name of a topic.
#[must_use]
pub fn unescaped(text: &str) -> Option<TopicName> {
    TopicName::parse(&text.replace('=', ".")).ok()
}

/// Returns the subject of one incarnation. A publisher that knows only an earlier incarnation reaches nobody.
#[must_use]
pub fn subject(topic: &TopicName, epoch: Epoch) -> String {
    format!("streamway.{}.{epoch}", escaped(topic))
}

/// Settings that the streams of all topics share.
#[derive(Clone, Copy, Debug)]
pub struct StreamConfig {
    /// Number of copies.
    pub replicas: usize,
    /// Storage medium.
    pub storage: StorageType,
    /// Size of the largest message, in bytes.
    pub message_bytes_max: usize,
}

/// Settings of a topic that its stream's metadata contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Name of the topic.
    pub topic: TopicName,
    /// Epoch of its incarnation.
    pub epoch: Epoch,
    /// Retention of records.
    pub retention: Retention,
    /// Time of the last change of the retention.
    pub updated: UnixMicros,
    /// Earlier incarnations that it was restored from.
    pub lineage: Lineage,
    /// Number that is added to the sequences of NATS. It is 0 except for a restored topic, whose first record need not
    /// have the offset 0.
    pub base: u64,
}

impl Meta {
    /// Reads the metadata of a stream. None if the stream does not store a topic.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let text = |key: &str| config.metadata.get(key).map(String::as_str);
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
        let topic = TopicName::stored(text(TOPIC)?).ok()?;
        let retention = Retention {
            max_age: number(MAX_AGE).map(Duration::from_micros),
            max_bytes: number(MAX_BYTES),
            max_records: number(MAX_RECORDS),
        };
        let lineage = lineage_of(text(RESTORED_FROM).unwrap_or_default())?;
        let epoch = if lineage.ancestors().is_empty() { EPOCH } else { RESTORED_EPOCH };
        let meta = Self {
            epoch: Epoch::parse(text(epoch)?)?,
            retention,
            updated: UnixMicros(number(UPDATED).unwrap_or_default()),
            topic,
            lineage,
            base: number(BASE).unwrap_or_default(),
        };
        (config.name == stream(&meta.topic)).then_some(meta)
    }

    /// Encodes the settings for other creators of the same stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut config = Config::default();
        self.write(&mut config);
        serde_json::to_vec(&config.metadata).expect("a map of strings")
    }

    /// Decodes the output of [`Self::encode`] for this topic. None if the bytes are something else.
    #[must_use]
    pub fn decode(topic: &TopicName, bytes: &[u8]) -> Option<Self> {
        let metadata = serde_json::from_slice(bytes).ok()?;
        Self::of(&Config { name: stream(topic), metadata, ..Config::default() })
    }

    /// Builds the configuration of a new stream.
    #[must_use]
    pub fn config(&self, shared: StreamConfig) -> Config {
        let mut config = Config {
            name: stream(&self.topic),
            subjects: vec![subject(&self.topic, self.epoch)],
            num_replicas: shared.replicas,
            storage: shared.storage,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            // The engine uses no message ids (see mod.rs), so NATS need not remember any.
            duplicate_window: AGE_MIN,
            ..Config::default()
        };
        self.write(&mut config);
        config
    }

    /// Writes the settings into a stream's configuration.
    pub fn write(&self, config: &mut Config) {
        let Retention { max_age, max_bytes, max_records } = self.retention;
        // To NATS, an age of zero and a size of zero or less mean no limit.
        config.max_age =
            max_age.filter(|age| *age < AGE_NEVER).map_or(Duration::ZERO, |age| age.max(AGE_MIN));
        let bytes = max_bytes.filter(|bytes| *bytes < BYTES_NEVER);
        config.max_bytes = bytes.and_then(|bytes| i64::try_from(bytes.max(1)).ok()).unwrap_or(-1);
        let micros = max_age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        let is_restored = !self.lineage.ancestors().is_empty();
        let pairs = [
            (TOPIC, Some(self.topic.to_string())),
            (if is_restored { RESTORED_EPOCH } else { EPOCH }, Some(self.epoch.to_string())),
            (RESTORED_FROM, is_restored.then(|| lineage_text(&self.lineage))),
            (BASE, is_restored.then(|| self.base.to_string())),
            (UPDATED, Some(self.updated.0.to_string())),
            (MAX_AGE, micros.map(|n| n.to_string())),
            (MAX_BYTES, max_bytes.map(|n| n.to_string())),
            (MAX_RECORDS, max_records.map(|n| n.to_string())),
        ];
        let metadata: HashMap<_, _> =
            pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        config.metadata = metadata;
    }
}

fn lineage_text(lineage: &Lineage) -> String {
    let one = |ancestor: &Ancestor| format!("{}:{}", ancestor.epoch, ancestor.cut);
    lineage.ancestors().iter().map(one).collect::<Vec<_>>().join(",")
}

/// Parses the output of [`lineage_text`].
fn lineage_of(text: &str) -> Option<Lineage> {
    let one = |text: &str| {
        let (epoch, cut) = text.split_once(':')?;
        Some(Ancestor { epoch: Epoch::parse(epoch)?, cut: Offset::new(cut.parse().ok()?) })
    };
    let entries = text.split(',').filter(|entry| !entry.is_empty());
    Lineage::new(entries.map(one).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{Meta, StreamConfig, stream};
    use crate::record::{Epoch, Offset, TopicName, UnixMicros};
    use crate::storage::{Ancestor, Lineage, Retention};
    use async_nats::jetstream::stream::StorageType;
    use std::time::Duration;

    #[test]
    fn a_stream_remembers_its_topic() {
        let shared = StreamConfig { replicas: 3, storage: StorageType::File, message_bytes_max: 1 << 20 };
        let retention = Retention {
            max_age: Some(Duration::from_micros(5)),
            max_bytes: Some(7),
            max_records: Some(u64::MAX),
        };
        for retention in [retention, Retention::default()] {
            let meta = Meta {
                topic: TopicName::parse("orders.eu-1_x").unwrap(),
                epoch: Epoch::new(0xabc),
                retention,
                updated: UnixMicros(17),
                lineage: Lineage::default(),
                base: 0,
            };
            let config = meta.config(shared);
            assert_eq!(config.name, "streamway-orders=eu-1_x");
            assert_eq!(config.subjects, ["streamway.orders=eu-1_x.0000000000000abc"]);
            assert_eq!(Meta::of(&config), Some(meta.clone()));
            assert_eq!(Meta::decode(&meta.topic, &meta.encode()), Some(meta.clone()));
            assert_eq!(super::topic(&config.name), Some(meta.topic.clone()));
            // A copy of the stream under another name is not the topic.
            let copied = async_nats::jetstream::stream::Config { name: "copy".into(), ..config };
            assert_eq!(Meta::of(&copied), None);
        }
        // A limit that NATS cannot represent is unlimited there, but stays in the metadata.
        let wanted =
            Retention { max_age: Some(Retention::AGE_MAX), max_bytes: Some(u64::MAX), max_records: Some(1) };
        let meta = Meta {
            topic: TopicName::parse("t").unwrap(),
            epoch: Epoch::new(1),
            retention: wanted,
            updated: UnixMicros(1),
            lineage: Lineage::default(),
            base: 0,
        };
        let config = meta.config(shared);
        assert_eq!((config.max_age, config.max_bytes), (Duration::ZERO, -1));
        assert_eq!(Meta::of(&config), Some(meta.clone()));
        // A restored topic is a topic for this version only.
        let ancestor = |epoch, cut| Ancestor { epoch: Epoch::new(epoch), cut: Offset::new(cut) };
        let lineage = Lineage::new(vec![ancestor(3, 4096), ancestor(2, 1024)]).unwrap();
        let restored = Meta { lineage, base: 3, ..meta };
        let config = restored.config(shared);
        assert_eq!(config.metadata.get("streamway.epoch"), None);
        assert_eq!(Meta::of(&config), Some(restored.clone()));
        assert_eq!(Meta::decode(&restored.topic, &restored.encode()), Some(restored));
        assert_eq!(super::topic("streamway_claims"), None);
        assert_ne!(stream(&TopicName::parse("a.b").unwrap()), stream(&TopicName::parse("a-b").unwrap()));
    }
}
