//! State that all topics share: the client, and the requests that the engine makes to JetStream. Callers retry, because
//! only they know how long they can wait.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::context::{Context, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{self, Info, LastRawMessageErrorKind, PurgeErrorKind};
use async_nats::jetstream::{ErrorCode, context};
use futures_util::future;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::ages::Ages;
use super::cache_budget::CacheBudget;
use super::id_budget::IdBudget;
use super::link::Link;
use super::names::StreamConfig;
use crate::backoff::spread;
use crate::config::StorageConfig;
use crate::record::{Offset, UnixMicros};
use crate::storage::clock::Clock;
use crate::storage::{Error, Stored};

/// Times after which something idle ends, is renewed or is checked. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimes {
    /// Time for which an unused topic is still followed.
    pub topic: Duration,
    /// Time for which NATS keeps an unused consumer.
    pub consumer: Duration,
    /// Time for which NATS keeps a request for messages that do not exist yet.
    pub request: Duration,
    /// Interval of a consumer's heartbeats. A consumer that is silent for twice as long counts as lost, because its
    /// server may have stopped.
    pub heartbeat: Duration,
    /// Maximum wait for an answer of a consumer. The answer never comes over a lost connection or from a server that is
    /// gone.
    pub answer: Duration,
    /// Interval at which a follower asks for the state of its stream, which others may have changed.
    pub refresh: Duration,
    /// Maximum time for the attempts to create a stream. With the last request, it stays below the 10 s that clients
    /// usually wait.
    pub create: Duration,
    /// Minimum interval between two log lines about a clock difference.
    pub skew: Duration,
    /// Time for which request ids are read in addition to their window, because the clocks of the NATS servers differ.
    pub ids_slack: Duration,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self {
            topic: Duration::from_secs(60),
            consumer: Duration::from_secs(60),
            request: Duration::from_secs(30),
            heartbeat: Duration::from_secs(1),
            answer: Duration::from_secs(4),
            refresh: Duration::from_secs(5),
            create: Duration::from_secs(5),
            skew: Duration::from_secs(600),
            ids_slack: Duration::from_secs(60),
        }
    }
}

/// Maximum wait for the creation of a consumer.
const CONSUMER_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Pause before another consumer is requested. NATS may place a consumer on a server that died less than a minute ago,
/// and then never answers. Each request is placed independently.
const CONSUMER_AGAIN: Duration = Duration::from_millis(700);
/// Maximum number of consumers requested.
const CONSUMERS_MAX: u32 = 3;

/// Pause before a request without an answer is sent again. A stream that has no leader yet does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Maximum number of requests, including the first.
const ASKS: u32 = 4;

/// Pause after the first attempt. It doubles with each attempt.
const CREATE_PAUSE: Duration = Duration::from_millis(50);

/// Reason why a stream was not created.
#[derive(Debug)]
pub enum Refusal {
    /// NATS answered that the stream was not created.
    Nothing(Error),
    /// The stream may still be created.
    Unknown(Error),
}

/// State that all topics share.
#[derive(Debug)]
pub struct Nats {
    /// Context for requests to JetStream.
    pub context: Context,
    /// Client for core NATS, with which messages are published.
    pub client: Client,
    /// State of the connection.
    pub link: Link,
    /// Settings of new streams.
    pub stream_config: StreamConfig,
    /// Storage settings: memory and the request id window.
    pub storage: StorageConfig,
    /// Memory of all tail caches.
    pub cache: CacheBudget,
    /// Request ids of all topics.
    pub ids: Arc<IdBudget>,
    /// Budget of bytes for the batches of other replicas.
    pub handed_over: Arc<Semaphore>,
    /// Set if batches are handed to other replicas and accepted from them. A test clears it to simulate an earlier
    /// version.
    pub hands_over: bool,
    /// Idle times, which tests shorten.
    pub idle_times: IdleTimes,
    /// All tasks of the engine.
    pub tasks: TaskTracker,
    /// Cancelled when the calls in progress are about to be ended. Callers that wait for an unresponsive NATS then fail
    /// at once.
    pub hurried: CancellationToken,
    /// Cancelled when the log closes. Accepted appends are finished first.
    pub closing: CancellationToken,
    /// Set once new appends are refused.
    pub closed: AtomicBool,
    /// Time at which a message was last refused because the store is full, in milliseconds since the start of the
    /// engine; 0 for never.
    pub full_ms: AtomicU64,
    /// Start of the engine, from which times in milliseconds are counted.
    pub started: Instant,
    /// Clocks: the wall clock for publish times, the steady clock for ages.
    pub clock: Clock,
    /// Time at which a clock difference was last logged, in milliseconds since the start of the engine; 0 for never.
    pub skew_reported_ms: AtomicU64,
}

/// Converts a time that NATS reports.
#[must_use]
pub fn micros(time: async_nats::datetime::DateTime) -> UnixMicros {
    UnixMicros(u64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or_default())
}

fn parse_time(text: &str) -> Option<UnixMicros> {
    let time = async_nats::datetime::parse_rfc3339(text).ok()?;
    Some(micros(time))
}

/// Error for storage that cannot answer now. Nothing was stored.
pub fn unavailable(reason: impl Display) -> Error {
    Error::Unavailable { reason: format!("NATS: {reason}"), stored: Stored::Nothing }
}

/// Error for storage that cannot answer now. The request may have been carried out, or may still be.
pub fn doubtful(reason: impl Display) -> Error {
    Error::Unavailable { reason: format!("NATS: {reason}"), stored: Stored::Unknown }
}

/// Converts the refusal of a stream configuration to an error, if the reason is that NATS cannot reserve its size.
#[must_use]
pub fn no_room(config: &stream::Config, why: &async_nats::jetstream::Error) -> Option<Error> {
    const FULL: [ErrorCode; 4] = [
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ];
    let (code, text) = (why.error_code(), why.to_string());
    // A cluster says "no suitable peers for placement, insufficient storage".
    let is_full =
        FULL.contains(&code) || code == ErrorCode::CLUSTER_NO_PEERS && text.contains("insufficient");
    let bytes = u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0 && is_full)?;
    let reason = format!(
        "NATS reserves a topic's max_bytes in its store: {text}: ask for less, or give nats-server a larger \
         max_file_store"
    );
    Some(Error::NoRoom { bytes, reason })
}

impl Nats {
    /// Milliseconds since the engine started.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Records that a message was refused because the store is full.
    pub fn found_full(&self) {
        self.full_ms.store(self.now_ms().max(1), Ordering::Relaxed);
    }

    /// Returns true if the store was full within the last 10 s. That is longer than the interval of the next try,
    /// because some servers of a cluster may be full while others are not.
    #[must_use]
    pub fn is_full(&self) -> bool {
        const A_MOMENT_MS: u64 = 10_000;
        let full = self.full_ms.load(Ordering::Relaxed);
        full > 0 && self.now_ms().saturating_sub(full) < A_MOMENT_MS
    }

    fn reachable(&self) -> Result<(), Error> {
        if self.link.state().up { Ok(()) } else { Err(unavailable("not connected")) }
    }

    /// Returns the state of a stream. None if the stream does not exist.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn info(&self, stream: &str) -> Result<Option<Info>, Error> {
        self.reachable()?;
        let asks = (0..ASKS).map(|earlier| {
            Box::pin(async move {
                tokio::time::sleep(ASK_AGAIN * earlier).await;
                self.ask(stream).await
            })
        });
        future::select_all(asks).await.0
    }

    /// Does the same as [`Self::info`], with a single request and without a check of the connection.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn ask(&self, stream: &str) -> Result<Option<Info>, Error> {
        match self.context.get_stream(stream).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(unavailable(error)),
            },
        }
    }

    /// Reads the clock of NATS, from which the ages of messages before `live_from` are computed. A large difference to
    /// the clock of this replica is logged.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn ages(&self, stream: &str, live_from: Offset) -> Result<Ages, Error> {
        #[derive(serde::Deserialize)]
        struct Now {
            /// Time of the server that answers. Versions before 2.10 do not send it.
            ts: Option<String>,
        }
        self.reachable()?;
        let wall = self.clock.wall();
        let asked = self.context.request(format!("STREAM.INFO.{stream}"), &());
        let answer: Response<Now> = asked.await.map_err(unavailable)?;
        let steady = self.clock.steady();
        let Response::Ok(Now { ts }) = answer else { return Err(unavailable("the stream is not there")) };
        let nats = ts.as_deref().and_then(parse_time).unwrap_or(wall);
        self.report_skew(wall, nats);
        Ok(Ages { live_from, nats, steady })
    }

    /// Logs a large difference between the clocks of this replica and NATS, at most once in [`IdleTimes::skew`]. Returns
    /// true if it was logged.
    pub fn report_skew(&self, wall: UnixMicros, nats: UnixMicros) -> bool {
        /// Maximum difference that is not logged. It covers clock drift and a slow answer.
        const SKEW_MAX_S: u64 = 30;
        let seconds = wall.0.abs_diff(nats.0) / 1_000_000;
        let (now, last) = (self.now_ms(), self.skew_reported_ms.load(Ordering::Relaxed));
        let is_due = last == 0 || u128::from(now.saturating_sub(last)) >= self.idle_times.skew.as_millis();
        let is_logged = seconds > SKEW_MAX_S && is_due;
        if is_logged {
            self.skew_reported_ms.store(now.max(1), Ordering::Relaxed);
            warn!(
                seconds,
                ahead = wall > nats,
                "clock of this replica and that of NATS differ: one of them makes wrong publish times, or ends \
                 retention by age at a wrong time. Set the clocks right"
            );
        }
        is_logged
    }

    /// Reads a stored message. None if it does not exist.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn message(&self, stream: &str, sequence: u64) -> Result<Option<StreamMessage>, Error> {
        self.reachable()?;
        let stream = self.context.get_stream_no_info(stream).await.map_err(unavailable)?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(why)
                    if [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_NOT_FOUND]
                        .contains(&why.error_code()) =>
                {
                    Ok(None)
                }
                _ => Err(unavailable(error)),
            },
        }
    }

    /// Removes every message before `sequence`, and does nothing if that is the first sequence. `sequence` may be at
    /// most one more than that of the newest message; otherwise NATS would give `sequence` to the next message.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn purge(&self, stream: &str, sequence: u64) -> Result<(), Error> {
        // To NATS, 0 and 1 mean no condition, which removes everything.
        if sequence <= 1 {
            return Ok(());
        }
        self.reachable()?;
        let stream = self.context.get_stream_no_info(stream).await.map_err(unavailable)?;
        stream.purge().sequence(sequence).await.map(|_| ()).map_err(|error| match error.kind() {
            PurgeErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Error::TopicNotFound
            }
            PurgeErrorKind::JetStream(_) => unavailable(error),
            _ => doubtful(error),
        })
    }

    /// Creates a consumer for one reader. NATS removes it when it is no longer used.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn consumer(
        &self,
        stream: &str,
        deliver_policy: DeliverPolicy,
        headers_only: bool,
    ) -> Result<PullConsumer, Error> {
        self.reachable()?;
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            headers_only,
            inactive_threshold: self.idle_times.consumer,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let created = (0..CONSUMERS_MAX).map(|earlier| {
            let config = config.clone();
            Box::pin(async move {
                tokio::time::sleep(CONSUMER_AGAIN * earlier).await;
                self.context.create_consumer_on_stream(config, stream).await
            })
        });
        match tokio::time::timeout(CONSUMER_TIMEOUT, future::select_all(created)).await {
            Ok((created, ..)) => created.map_err(unavailable),
            Err(_) => Err(unavailable("no consumer in time")),
        }
    }

    /// Creates a stream, or finds one with exactly this configuration. Retries for a while if a cluster cannot place
    /// the stream yet, for example after a start.
    ///
    /// # Errors
    /// The stream was not created, or it is unknown if it was.
    pub async fn create(&self, config: &stream::Config) -> Result<Info, Refusal> {
        let deadline = Instant::now() + self.idle_times.create;
        let (mut pause, mut is_doubtful) = (CREATE_PAUSE, false);
        loop {
            let refusal = match self.context.create_stream(config).await {
                Ok(_) => return self.appears(&config.name, deadline).await.map_err(Refusal::Unknown),
                Err(error) => match error.kind() {
                    CreateStreamErrorKind::JetStream(why)
                        if why.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                    {
                        return Err(Refusal::Nothing(Error::TopicExists));
                    }
                    CreateStreamErrorKind::JetStream(why) => {
                        Refusal::Nothing(no_room(config, &why).unwrap_or_else(|| unavailable(error)))
                    }
                    _ => Refusal::Unknown(doubtful(error)),
                },
            };
            // A refusal says nothing about an earlier attempt without an answer.
            let refusal = match refusal {
                Refusal::Nothing(error) if is_doubtful => Refusal::Unknown(doubtful(error)),
                refusal => refusal,
            };
            is_doubtful |= matches!(refusal, Refusal::Unknown(_));
            if Instant::now() + pause >= deadline {
                return Err(refusal);
            }
            tokio::time::sleep(spread(pause, 0.5..1.0)).await;
            pause *= 2;
        }
    }

    /// Waits until a created stream can be used, and returns its state. A cluster that is asked a second time for a
    /// stream that it is creating confirms at once, but reports for a moment that the stream does not exist.
    async fn appears(&self, stream: &str, deadline: Instant) -> Result<Info, Error> {
        loop {
            match self.info(stream).await? {
                Some(info) => return Ok(info),
                None if Instant::now() + CREATE_PAUSE >= deadline => {
                    return Err(doubtful("the stream is not there in time"));
                }
                None => tokio::time::sleep(spread(CREATE_PAUSE, 0.5..1.0)).await,
            }
        }
    }

    /// Returns the number of streams, without the stream of create locks.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn topics(&self) -> Result<usize, context::AccountError> {
        self.context.query_account().await.map(|account| account.streams.saturating_sub(1))
    }
}
