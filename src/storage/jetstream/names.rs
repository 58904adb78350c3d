//! Names of streams and subjects, and the mapping between a topic's settings and its stream's configuration and metadata.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use crate::record::{Epoch, TopicName, UnixMicros};
use crate::storage::Retention;

/// Offsets of one message: the sequence is above these bits, a record's index below.
pub const INDEX_BITS: u32 = 10;
/// Most records in one message.
pub const RECORDS_MAX: u32 = 1 << INDEX_BITS;

/// Prefix of the name of every topic's stream.
const PREFIX: &str = "streamway-";
const TOPIC: &str = "streamway.topic";
const EPOCH: &str = "streamway.epoch";
const UPDATED: &str = "streamway.updated_us";
const MAX_AGE: &str = "streamway.max_age_us";
const MAX_BYTES: &str = "streamway.max_bytes";
const MAX_RECORDS: &str = "streamway.max_records";

/// The least age and window that NATS takes.
pub const AGE_MIN: Duration = Duration::from_millis(100);
/// Ages from here on are never over, and NATS is told so: it counts nanoseconds in 63 bits, 292 years.
const AGE_NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Sizes from here on are no limit, and NATS is told so: it reserves what it is told, sums it up in 63 bits
/// without noticing an overflow, and no store has so many bytes (1 EiB).
const BYTES_NEVER: u64 = 1 << 60;

/// A dot parts tokens of a subject, and may not stand in a stream's name; `=` is in no topic's.
#[must_use]
pub fn escaped(topic: &TopicName) -> String {
    topic.as_str().replace('.', "=")
}

/// The stream that keeps a topic.
#[must_use]
pub fn stream(topic: &TopicName) -> String {
    format!("{PREFIX}{}", escaped(topic))
}

/// The topic that a stream of this name may keep; none where it is certainly not one of ours.
#[must_use]
pub fn topic(stream: &str) -> Option<TopicName> {
    unescaped(stream.strip_prefix(PREFIX)?)
}

/// The topic that [`escaped`] made this of; none where it is no topic's.
#[must_use]
pub fn unescaped(text: &str) -> Option<TopicName> {
    TopicName::parse(&text.replace('=', ".")).ok()
}

/// The subject one incarnation is published to: whoever knows only an earlier one reaches nobody.
#[must_use]
pub fn subject(topic: &TopicName, epoch: Epoch) -> String {
    format!("streamway.{}.{epoch}", escaped(topic))
}

/// Settings that the streams of all topics share.
#[derive(Clone, Copy, Debug)]
pub struct StreamConfig {
    /// Number of copies.
    pub replicas: usize,
    /// Medium.
    pub storage: StorageType,
    /// Bytes of the largest message.
    pub message_bytes_max: usize,
}

/// Settings of a topic that its stream's metadata contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The topic.
    pub topic: TopicName,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Retention of records.
    pub retention: Retention,
    /// Time of the last change of the retention.
    pub updated: UnixMicros,
}

impl Meta {
    /// Reads the metadata of a stream; none if it is not a topic's.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let text = |key: &str| config.metadata.get(key).map(String::as_str);
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
        let topic = TopicName::parse(text(TOPIC)?).ok()?;
        let retention = Retention {
            max_age: number(MAX_AGE).map(Duration::from_micros),
            max_bytes: number(MAX_BYTES),
            max_records: number(MAX_RECORDS),
        };
        let meta = Self {
            epoch: Epoch::parse(text(EPOCH)?)?,
            retention,
            updated: UnixMicros(number(UPDATED).unwrap_or_default()),
            topic,
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

    /// Decodes the output of [`Self::encode`] for this topic; none if it is something else.
    #[must_use]
    pub fn decode(topic: &TopicName, bytes: &[u8]) -> Option<Self> {
        let metadata = serde_json::from_slice(bytes).ok()?;
        Self::of(&Config { name: stream(topic), metadata, ..Config::default() })
    }

    /// The configuration of a new stream.
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
            // The engine gives no message ids (see mod.rs): NATS need not remember any.
            duplicate_window: AGE_MIN,
            ..Config::default()
        };
        self.write(&mut config);
        config
    }

    /// Writes the settings into a stream's configuration.
    pub fn write(&self, config: &mut Config) {
        let Retention { max_age, max_bytes, max_records } = self.retention;
        // To NATS an age of zero, and a size of zero or less, are no limit.
        config.max_age =
            max_age.filter(|age| *age < AGE_NEVER).map_or(Duration::ZERO, |age| age.max(AGE_MIN));
        let bytes = max_bytes.filter(|bytes| *bytes < BYTES_NEVER);
        config.max_bytes = bytes.and_then(|bytes| i64::try_from(bytes.max(1)).ok()).unwrap_or(-1);
        let micros = max_age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        let pairs = [
            (TOPIC, Some(self.topic.to_string())),
            (EPOCH, Some(self.epoch.to_string())),
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

#[cfg(test)]
mod tests {
    use super::{Meta, StreamConfig, stream};
    use crate::record::{Epoch, TopicName, UnixMicros};
    use crate::storage::Retention;
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
            };
            let config = meta.config(shared);
            assert_eq!(config.name, "streamway-orders=eu-1_x");
            assert_eq!(config.subjects, ["streamway.orders=eu-1_x.0000000000000abc"]);
            assert_eq!(Meta::of(&config), Some(meta.clone()));
            assert_eq!(Meta::decode(&meta.topic, &meta.encode()), Some(meta.clone()));
            assert_eq!(super::topic(&config.name), Some(meta.topic.clone()));
            // Somebody's copy of the stream under another name is not the topic.
            let copied = async_nats::jetstream::stream::Config { name: "copy".into(), ..config };
            assert_eq!(Meta::of(&copied), None);
        }
        // What NATS cannot count is no limit there, and is remembered.
        let wanted =
            Retention { max_age: Some(Retention::AGE_MAX), max_bytes: Some(u64::MAX), max_records: Some(1) };
        let meta = Meta {
            topic: TopicName::parse("t").unwrap(),
            epoch: Epoch::new(1),
            retention: wanted,
            updated: UnixMicros(1),
        };
        let config = meta.config(shared);
        assert_eq!((config.max_age, config.max_bytes), (Duration::ZERO, -1));
        assert_eq!(Meta::of(&config), Some(meta));
        assert_eq!(super::topic("streamway_claims"), None);
        assert_ne!(stream(&TopicName::parse("a.b").unwrap()), stream(&TopicName::parse("a-b").unwrap()));
    }
}
