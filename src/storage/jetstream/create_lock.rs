//! Lock on the creation of a topic. Several replicas may create one topic at the same time. The first one to take the
//! lock chooses the settings of the topic, and all of them create that same stream.
//!
//! If a cluster of nats-server 2.10 is asked for one stream with two configurations at once, it confirms one of them
//! and later gives the stream the epoch and subject of the other. If it is asked twice for the same configuration, it
//! confirms both. So each creator first publishes its settings to the topic's subject in a stream of locks, on the
//! condition that this subject has no message. The locks of existing topics stay; a deletion removes the lock first. A
//! topic exists if its own stream exists, whatever the lock says.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, PurgeErrorKind, Stream};

use super::flight::{Outcome, send};
use super::names::{self, AGE_MIN, Meta, StreamConfig};
use super::nats::{Nats, unavailable};
use crate::backoff::spread;
use crate::record::{TopicName, UnixMicros};
use crate::storage::Error;

/// Stream of the locks. No topic's stream has this name, see [`names::stream`].
pub const STREAM: &str = "streamway_claims";
/// Subject of a message that belongs to no topic, because no topic's name begins with an underscore.
const PROBE: &str = "streamway_claims._probe";
/// Header with the condition for storing a message: the sequence of the newest message of the same subject.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Header of the lock of an internal topic, which says if its stream was created. Older versions leave it out.
const STATE: &str = "Streamway-Topic-State";
const CREATING: &str = "creating";
const CREATED: &str = "created";
/// Maximum number of attempts to take a lock that others take and release in the meantime.
const ATTEMPTS: usize = 4;
/// Maximum number of attempts while the message of another creator is being stored. With the pauses, they last longer
/// than NATS takes to store a message, and shorter than callers wait for a new topic.
const RACES: usize = 100;
/// Pause after each of these attempts.
const RACE_PAUSE: Duration = Duration::from_millis(30);

/// Lock on a topic that is being created.
#[derive(Debug)]
pub struct Lock {
    /// Settings that all creators use for the stream.
    pub meta: Meta,
    /// Sequence of the lock's message. None if another creator took the lock.
    pub acquired: Option<u64>,
    /// Sequence of the lock's message.
    sequence: u64,
    state: State,
}

/// State of the topic of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The stream is being created, or could not be.
    Creating,
    /// The stream was created.
    Created,
    /// An older version took the lock.
    Unknown,
}

impl Lock {
    /// Returns true if the stream was created, so that its absence is a loss.
    #[must_use]
    pub fn was_created(&self) -> bool {
        /// A creation takes less time than this, even where clocks differ.
        const CREATION_MAX: Duration = Duration::from_secs(60);
        let age = UnixMicros::now().0.saturating_sub(self.meta.updated.0);
        match self.state {
            State::Creating => false,
            State::Created => true,
            State::Unknown => Duration::from_micros(age) >= CREATION_MAX,
        }
    }
}

fn subject(topic: &TopicName) -> String {
    format!("{STREAM}.{}", names::escaped(topic))
}

fn config(like: StreamConfig) -> Config {
    Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.*")],
        num_replicas: like.replicas,
        storage: like.storage,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_consumers: -1,
        duplicate_window: AGE_MIN,
        ..Config::default()
    }
}

/// Creates the stream of locks if there is none. It has the same replication and storage as topics, so its existence
/// shows that topics can be created.
///
/// # Errors
/// NATS cannot create it.
pub async fn open(nats: &Nats) -> Result<(), CreateStreamError> {
    nats.context.get_or_create_stream(config(nats.stream_config)).await.map(|_| ())
}

async fn stream(nats: &Nats) -> Result<Stream<()>, Error> {
    nats.context.get_stream_no_info(STREAM).await.map_err(unavailable)
}

/// Takes the lock on a topic for `wanted`, or reads the settings for which another creator took it.
///
/// # Errors
/// NATS cannot answer.
pub async fn acquire(nats: &Nats, wanted: Meta) -> Result<Lock, Error> {
    let subject = subject(&wanted.topic);
    let (mut attempts, mut races) = (0, 0);
    while attempts < ATTEMPTS && races < RACES {
        attempts += 1;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, "0");
        if wanted.topic.is_internal() {
            headers.insert(STATE, CREATING);
        }
        let request = async_nats::Request::new().headers(headers).payload(wanted.encode().into());
        match send(nats, &subject, request).await {
            Outcome::Stored(sequence) => {
                let state = State::Creating;
                return Ok(Lock { meta: wanted, acquired: Some(sequence), sequence, state });
            }
            Outcome::Taken(_) => {}
            // The lock of the other creator is stored in a moment, or was refused as well.
            Outcome::Racing => {
                attempts -= 1;
                races += 1;
                tokio::time::sleep(spread(RACE_PAUSE, 0.5..1.5)).await;
            }
            Outcome::Refused(error) => return Err(error),
            Outcome::Unknown(reason) => return Err(unavailable(reason)),
            // The stream is lost, or has no leader.
            Outcome::Nobody => {
                open(nats).await.map_err(unavailable)?;
                continue;
            }
        }
        if let Some(lock) = find(nats, &wanted.topic).await? {
            return Ok(lock);
        }
    }
    Err(unavailable("the topic is created and deleted by others all the time"))
}

/// Returns the lock of a topic, which another creator took. None if there is none.
///
/// # Errors
/// NATS cannot answer.
pub async fn find(nats: &Nats, topic: &TopicName) -> Result<Option<Lock>, Error> {
    match stream(nats).await?.get_last_raw_message_by_subject(&subject(topic)).await {
        Ok(message) => {
            let meta = Meta::decode(topic, &message.payload).ok_or_else(|| {
                unavailable("the topic's message in streamway_claims was not written by this server")
            })?;
            let state = match message.headers.get(STATE).map(async_nats::HeaderValue::as_str) {
                Some(CREATED) => State::Created,
                Some(_) => State::Creating,
                None => State::Unknown,
            };
            Ok(Some(Lock { meta, acquired: None, sequence: message.sequence, state }))
        }
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(unavailable(error)),
        },
    }
}

/// Notes in the lock of an internal topic that its stream was created, so that its loss is noticed.
pub async fn confirm(nats: &Nats, lock: &Lock) {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, lock.sequence.to_string().as_str());
    headers.insert(STATE, CREATED);
    let request = async_nats::Request::new().headers(headers).payload(lock.meta.encode().into());
    match send(nats, &subject(&lock.meta.topic), request).await {
        // Another creator has noted it.
        Outcome::Stored(_) | Outcome::Taken(_) => {}
        _ => {
            tracing::warn!(topic = %lock.meta.topic, "a later loss of the topic's stream would not be noticed")
        }
    }
}

/// Stores an empty message, because only a write shows if the store has room.
pub async fn probe(nats: &Nats) {
    if let Outcome::Unknown(reason) = send(nats, PROBE, async_nats::Request::new()).await {
        tracing::debug!(reason, "the store was not probed for room");
    }
}

/// Releases the caller's lock after a creation that failed.
pub async fn release(nats: &Nats, lock: &Lock) {
    let (Some(sequence), Ok(stream)) = (lock.acquired, stream(nats).await) else { return };
    if let Err(error) = stream.delete_message(sequence).await {
        // The next creator then uses the settings of this lock.
        tracing::debug!(topic = %lock.meta.topic, %error, "the create lock is not released");
    }
}

/// Removes the lock of a topic that is deleted.
///
/// # Errors
/// NATS cannot answer.
pub async fn remove(nats: &Nats, topic: &TopicName) -> Result<(), Error> {
    match stream(nats).await?.purge().filter(subject(topic)).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            PurgeErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
            _ => Err(unavailable(error)),
        },
    }
}
