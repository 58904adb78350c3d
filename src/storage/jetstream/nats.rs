//! State that all topics share: the client, and the requests that the engine makes to JetStream. Callers retry, because they
//! know how long they can wait.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
use crate::storage::{Charge, Error, Stored};

/// Times after which something idle ends, is renewed or is checked. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimes {
    /// Time for which an unused topic is still followed.
    pub topic: Duration,
    /// Time for which NATS keeps an unused consumer.
    pub consumer: Duration,
    /// Time for which NATS keeps a request for messages that do not exist yet.
    pub request: Duration,
    /// Interval of a consumer's heartbeats. A consumer that is silent for twice as long counts as lost: its server may have
    /// stopped.
    pub heartbeat: Duration,
    /// Time without another message after which the end of a topic's newest message is written down.
    pub quiet: Duration,
    /// Maximum wait for an answer of a consumer, which never comes over a lost connection or from a server that is gone.
    pub answer: Duration,
    /// Interval at which a follower asks for its stream's state, which others may have changed.
    pub refresh: Duration,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self {
            topic: Duration::from_secs(60),
            consumer: Duration::from_secs(60),
            request: Duration::from_secs(30),
            heartbeat: Duration::from_secs(1),
            quiet: Duration::from_secs(5),
            answer: Duration::from_secs(4),
            refresh: Duration::from_secs(5),
        }
    }
}

/// Maximum wait for the creation of a consumer.
const CONSUMER_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Pause before another consumer is requested. NATS may place one on a server that died less than a minute ago, and then
/// never answers. Each request is placed anew.
const CONSUMER_AGAIN: Duration = Duration::from_millis(700);
/// Maximum number of consumers requested.
const CONSUMERS_MAX: u32 = 3;

/// When a question that nobody has answered is asked again: a stream that has no leader yet has nobody who
/// answers for it.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Maximum number of requests, with the first.
const ASKS: u32 = 4;

/// How long the creation of a stream is tried: with the last request less than the 10 s that clients
/// tend to wait.
const CREATE_PATIENCE: Duration = Duration::from_secs(5);
/// Between the first two attempts.
const CREATE_PAUSE: Duration = Duration::from_millis(50);

/// Reason why a stream was not created.
#[derive(Debug)]
pub enum Refusal {
    /// NATS says that it did not.
    Nothing(Error),
    /// It may come yet.
    Unknown(Error),
}

/// State that all topics share.
#[derive(Debug)]
pub struct Nats {
    /// JetStream's requests.
    pub context: Context,
    /// The client itself, for publishing.
    pub client: Client,
    /// State of the connection.
    pub link: Link,
    /// Settings of new streams.
    pub stream_config: StreamConfig,
    /// Memory and windows.
    pub storage: StorageConfig,
    /// The memory of all tail caches.
    pub cache: CacheBudget,
    /// The request ids of all topics.
    pub ids: Arc<IdBudget>,
    /// Budget that batches of other replicas are charged to, once it is known.
    pub budget: OnceLock<Charge>,
    /// Set if batches are handed over and taken. A test clears it to play an earlier version.
    pub hands_over: bool,
    /// Times of the engine's timers.
    pub idle_times: IdleTimes,
    /// Every task of the engine.
    pub tasks: TaskTracker,
    /// Calls are cut off soon: whoever waits for a NATS that does not answer is told now.
    pub hurried: CancellationToken,
    /// The log closes: finish what was accepted.
    pub closing: CancellationToken,
    /// Nothing new is accepted.
    pub closed: AtomicBool,
    /// When a message was last refused because the store is full, in milliseconds of the engine; 0 where none was.
    pub full_ms: AtomicU64,
    /// When the engine started; times of use are counted from here.
    pub started: Instant,
    /// The clocks: the wall's for publish times, the steady one for ages.
    pub clock: Clock,
    /// When a clock that is off was reported last, in milliseconds since the start; 0 for never.
    pub skew_reported_ms: AtomicU64,
}

/// Converts a time of NATS's.
#[must_use]
pub fn micros(time: async_nats::datetime::DateTime) -> UnixMicros {
    UnixMicros(u64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or_default())
}

fn parse_time(text: &str) -> Option<UnixMicros> {
    let time = async_nats::datetime::parse_rfc3339(text).ok()?;
    Some(micros(time))
}

/// Storage that cannot answer now; nothing was stored.
pub fn unavailable(reason: impl Display) -> Error {
    Error::Unavailable { reason: format!("NATS: {reason}"), stored: Stored::Nothing }
}

/// Storage that cannot answer now; what was asked may have been done, or may yet be.
pub fn doubtful(reason: impl Display) -> Error {
    Error::Unavailable { reason: format!("NATS: {reason}"), stored: Stored::Unknown }
}

/// What a refusal of this configuration means, where NATS has no room to reserve its size.
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

    /// A message was refused because the store is full.
    pub fn found_full(&self) {
        self.full_ms.store(self.now_ms().max(1), Ordering::Relaxed);
    }

    /// Whether the store was full a moment ago: longer than it is tried again, as some servers of a cluster
    /// may be full and others not.
    #[must_use]
    pub fn is_full(&self) -> bool {
        const A_MOMENT_MS: u64 = 10_000;
        let full = self.full_ms.load(Ordering::Relaxed);
        full > 0 && self.now_ms().saturating_sub(full) < A_MOMENT_MS
    }

    fn reachable(&self) -> Result<(), Error> {
        if self.link.state().up { Ok(()) } else { Err(unavailable("not connected")) }
    }

    /// A stream as it is; none where there is none.
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

    /// [`Self::info`], asked once and of whatever connection there is.
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

    /// What NATS's clock says now, for messages before `live_from`. A clock of this replica that is far off is
    /// reported.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn ages(&self, stream: &str, live_from: Offset) -> Result<Ages, Error> {
        #[derive(serde::Deserialize)]
        struct Now {
            /// Of the server that answers. None of one older than 2.10.
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

    /// Says that this replica's clock and NATS's differ, now and then.
    fn report_skew(&self, wall: UnixMicros, nats: UnixMicros) {
        /// More than this is no drift, and no answer that took its time.
        const SKEW_MAX_S: u64 = 30;
        /// How often it is said.
        const EVERY_MS: u64 = 600_000;
        let seconds = wall.0.abs_diff(nats.0) / 1_000_000;
        if seconds <= SKEW_MAX_S {
            return;
        }
        let (now, last) = (self.now_ms(), self.skew_reported_ms.load(Ordering::Relaxed));
        if last == 0 || now.saturating_sub(last) >= EVERY_MS {
            self.skew_reported_ms.store(now.max(1), Ordering::Relaxed);
            warn!(
                seconds,
                ahead = wall > nats,
                "clock of this replica and that of NATS differ: one of them makes wrong publish times, or ends \
                 retention by age at a wrong time. Set the clocks right"
            );
        }
    }

    /// A stored message; none where it is not there.
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

    /// Forgets every message before `sequence`; nothing where that is the first there ever was. At most one
    /// beyond the newest: farther on NATS would give the next message that sequence.
    ///
    /// # Errors
    /// NATS cannot answer.
    pub async fn purge(&self, stream: &str, sequence: u64) -> Result<(), Error> {
        // NATS takes 0 and 1 for no condition, and forgets everything.
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

    /// A consumer of its own for one reader, which NATS forgets when it is not asked any more.
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

    /// Makes a stream, or finds that there is one of this very configuration. A cluster that cannot place
    /// it yet, as after a start, is given a while.
    ///
    /// # Errors
    /// It was not made, or perhaps not.
    pub async fn create(&self, config: &stream::Config) -> Result<Info, Refusal> {
        let deadline = Instant::now() + CREATE_PATIENCE;
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
            // A refusal says nothing of an attempt before it that was not answered.
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

    /// A stream that was made, once it can be used: a cluster that is asked a second time for the stream it
    /// is making agrees at once, and says for a moment that there is none.
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

    /// Number of streams, without that of the create locks.
    ///
    /// # Errors
    /// It does not.
    pub async fn topics(&self) -> Result<usize, context::AccountError> {
        self.context.query_account().await.map(|account| account.streams.saturating_sub(1))
    }
}
