//! Who creates a topic, where several replicas do at once: whoever claims it first says what it is, and
//! all of them create that very stream.
//!
//! A cluster of nats-server 2.10 that is asked for one stream in two ways at once answers one of the two,
//! and gives the stream the other's epoch and subject later. Asked twice for the same it answers both.
//! So each creator first publishes what it wants to the topic's subject in a stream of claims, on the
//! condition that nothing is there. Claims of topics that exist stay; a deletion withdraws the claim first.
//!
//! Never: says whether a topic exists; its own stream does.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, PurgeErrorKind, Stream};

use super::flight::{Outcome, send};
use super::names::{self, Kept, LEAST, Meta};
use super::nats::{Nats, unavailable};
use crate::record::TopicName;
use crate::storage::Error;

/// The stream of claims. No topic's stream is called so, see [`names::stream`].
pub const STREAM: &str = "streamway_claims";
/// Where a message of nobody's goes, of which one is kept. No topic's name begins so.
const PROBE: &str = "streamway_claims._probe";
/// The sequence of the newest message of the same subject, on condition of which NATS stores one.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Losing to others that withdraw again this often is no accident.
const ATTEMPTS: usize = 4;
/// How often a claim may meet another's that is being stored, and the pause after each time: together longer than
/// NATS takes to store one, and less than a new topic is waited for.
const RACES: usize = 100;
const RACE_PAUSE: Duration = Duration::from_millis(30);

/// What a topic that is being created is to be.
#[derive(Debug)]
pub struct Claim {
    /// What all creators make of it.
    pub meta: Meta,
    /// Its place among the claims, where it is this caller's.
    pub mine: Option<u64>,
}

fn subject(topic: &TopicName) -> String {
    format!("{STREAM}.{}", names::escaped(topic))
}

fn config(kept: Kept) -> Config {
    Config {
        name: STREAM.into(),
        subjects: vec![format!("{STREAM}.*")],
        num_replicas: kept.replicas,
        storage: kept.storage,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_consumers: -1,
        duplicate_window: LEAST,
        ..Config::default()
    }
}

/// Makes sure that there is a stream of claims: that NATS keeps one as topics are kept, so that topics
/// can be created.
///
/// # Errors
/// Why it cannot.
pub async fn open(nats: &Nats) -> Result<(), CreateStreamError> {
    nats.context.get_or_create_stream(config(nats.kept)).await.map(|_| ())
}

async fn stream(nats: &Nats) -> Result<Stream<()>, Error> {
    nats.context.get_stream_no_info(STREAM).await.map_err(unavailable)
}

/// Claims a topic as `wanted`, or learns what somebody else has claimed it as.
///
/// # Errors
/// NATS cannot answer.
pub async fn claim(nats: &Nats, wanted: Meta) -> Result<Claim, Error> {
    let subject = subject(&wanted.topic);
    let (mut attempts, mut races) = (0, 0);
    while attempts < ATTEMPTS && races < RACES {
        attempts += 1;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, "0");
        let request = async_nats::Request::new().headers(headers).payload(wanted.encode().into());
        match send(nats, &subject, request).await {
            Outcome::Stored(sequence) => return Ok(Claim { meta: wanted, mine: Some(sequence) }),
            Outcome::Taken(_) => {}
            // Another's claim is there in a moment, or was refused itself.
            Outcome::Racing => {
                attempts -= 1;
                races += 1;
                tokio::time::sleep(RACE_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
            Outcome::Refused(error) => return Err(error),
            Outcome::Unknown(reason) => return Err(unavailable(reason)),
            // Its servers lost it, or it has no leader.
            Outcome::Nobody => {
                open(nats).await.map_err(unavailable)?;
                continue;
            }
        }
        if let Some(meta) = claimed(nats, &wanted.topic).await? {
            return Ok(Claim { meta, mine: None });
        }
    }
    Err(unavailable("the topic cannot be claimed: others create and delete it all the time"))
}

/// What a topic is claimed as; none where the claim was withdrawn meanwhile.
async fn claimed(nats: &Nats, topic: &TopicName) -> Result<Option<Meta>, Error> {
    match stream(nats).await?.get_last_raw_message_by_subject(&subject(topic)).await {
        Ok(message) => {
            let meta = Meta::decode(topic, &message.payload);
            meta.map(Some).ok_or_else(|| unavailable("a claim that is not this server's"))
        }
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(unavailable(error)),
        },
    }
}

/// Stores a message that says nothing, as whether there is room is known to those who write.
pub async fn probe(nats: &Nats) {
    if let Outcome::Unknown(reason) = send(nats, PROBE, async_nats::Request::new()).await {
        tracing::debug!(reason, "whether there is room is not known");
    }
}

/// Withdraws a claim of one's own of which nothing came.
pub async fn release(nats: &Nats, claim: &Claim) {
    let (Some(sequence), Ok(stream)) = (claim.mine, stream(nats).await) else { return };
    if let Err(error) = stream.delete_message(sequence).await {
        // Whoever creates the topic next takes it up.
        tracing::debug!(topic = %claim.meta.topic, %error, "a claim is left");
    }
}

/// Withdraws whatever claim there is: the next incarnation is claimed anew.
///
/// # Errors
/// NATS cannot answer.
pub async fn forget(nats: &Nats, topic: &TopicName) -> Result<(), Error> {
    match stream(nats).await?.purge().filter(subject(topic)).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            PurgeErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
            _ => Err(unavailable(error)),
        },
    }
}
