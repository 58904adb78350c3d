//! Connection to NATS as configured. A NATS that can never work is refused. Credentials are not logged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ContextBuilder, CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::StorageType;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::cache_budget::CacheBudget;
use super::create_lock;
use super::id_budget::IdBudget;
use super::link::Link;
use super::names::StreamConfig;
use super::nats::{IdleTimes, Nats};
use super::placement;
use crate::backoff::{Backoff, spread};
use crate::config::{Config, HANDED_OVER_BYTES_MAX, NatsConfig, NatsStorage, format_size};
use crate::storage::Reason;
use crate::storage::clock::Clock;

/// Bytes that a message needs in addition to the records of its batches: batch headers, trace contexts and message
/// headers.
pub const MESSAGE_OVERHEAD: usize = 64 << 10;
/// Part of [`MESSAGE_OVERHEAD`] that is reserved for the headers that every message has.
const HEADERS: usize = 4 << 10;
/// Longest pause between two attempts to connect at start.
const RETRY: Duration = Duration::from_secs(1);
/// Interval at which a lasting reason to wait is logged again.
const WARN_AGAIN: Duration = Duration::from_secs(30);
/// Time that a new cluster has to find its servers before it is asked which ones it counts. It is also the interval
/// between two such requests.
const EXPLAIN_AFTER: Duration = Duration::from_secs(5);
/// Maximum time of one attempt to connect. A server that hangs may be tried again before the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time of a request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of the client's pings. After the third ping without an answer, the client connects to another server. That
/// happens before a publish is given up, even if one attempt to connect fails.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause between two attempts to reconnect.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Maximum number of commands waiting for the client's task.
const COMMANDS_MAX: usize = 4096;

/// Reason why NATS cannot be used as configured. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is not valid.
    #[error("nats.url {url}: {why}: write nats://HOST:4222, several with commas")]
    Url {
        /// Configured address.
        url: String,
        /// Fault of the address.
        why: io::Error,
    },
    /// A file of credentials or certificates cannot be used.
    #[error("{setting} {path}: {why}")]
    File {
        /// Name of the setting.
        setting: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Fault of the file.
        why: String,
    },
    /// NATS refuses the credentials.
    #[error("NATS at {url} refuses the credentials: {why}")]
    Refused {
        /// Address of the server.
        url: String,
        /// Answer of the server.
        why: String,
    },
    /// The server is too old.
    #[error("NATS is of version {0}: 2.10 or later is needed")]
    TooOld(String),
    /// The largest batch exceeds the message size of NATS, which would end the connection.
    #[error(
        "NATS takes messages of {found} bytes, and batches need {needed}: set max_payload of every nats-server to \
         {needed} or more, or lower batch_bytes_max to {fitting} or less"
    )]
    MaxPayload {
        /// Size that NATS accepts, in bytes.
        found: usize,
        /// Required size, in bytes.
        needed: usize,
        /// Largest limit of a batch that fits.
        fitting: usize,
    },
}

/// Connects to NATS, waits until it is reachable and usable, and checks its version and limits.
///
/// # Errors
/// The configuration can never work.
pub async fn connect(config: &Config, reason: &Reason) -> Result<Nats, OpenError> {
    let link = Link::default();
    let nats = &config.nats;
    let mut waiting = Waiting { reason, warned: None };
    let client = connected(nats, &link, &mut waiting).await?;
    let found = client.server_info();
    if !client.is_server_compatible(2, 10, 0) {
        return Err(OpenError::TooOld(found.version));
    }
    let batch = config.batch_bytes_max as usize;
    let needed = batch + MESSAGE_OVERHEAD;
    if client.max_payload() < needed {
        let found = client.max_payload();
        return Err(OpenError::MaxPayload { found, needed, fitting: found.saturating_sub(MESSAGE_OVERHEAD) });
    }
    let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
    let storage = match nats.storage {
        NatsStorage::File => StorageType::File,
        NatsStorage::Memory => StorageType::Memory,
    };
    warn_of(nats);
    let stream_config =
        StreamConfig { replicas: nats.replicas, storage, message_bytes_max: needed - HEADERS };
    let opened = Nats {
        context,
        client,
        link,
        stream_config,
        storage: config.storage.clone(),
        cache: CacheBudget::new(config.storage.cache_bytes),
        ids: Arc::new(IdBudget::new(config.storage.request_ids_max)),
        handed_over: Arc::new(Semaphore::new(HANDED_OVER_BYTES_MAX)),
        hands_over: true,
        idle_times: IdleTimes::default(),
        tasks: TaskTracker::new(),
        hurried: CancellationToken::new(),
        closing: CancellationToken::new(),
        closed: AtomicBool::new(false),
        full_ms: AtomicU64::new(0),
        started: Instant::now(),
        clock: Clock::default(),
        skew_reported_ms: AtomicU64::new(0),
    };
    usable(&opened, &nats.url, &mut waiting).await;
    reason.set(None);
    let max_payload = format_size(opened.client.max_payload() as u64);
    info!(version = found.version, cluster = found.cluster, max_payload, "NATS is ready");
    Ok(opened)
}

/// Logs which parts of P1 these settings give up.
fn warn_of(nats: &NatsConfig) {
    if nats.replicas < 3 {
        warn!(
            replicas = nats.replicas,
            "nats.replicas is below 3: a record is lost with the disk of the one server that has it"
        );
    }
    if nats.storage == NatsStorage::Memory {
        warn!("nats.storage is memory: acknowledged records are lost when the NATS servers stop");
    }
}

/// Waits until JetStream can be used: a leader of the cluster answers, and a stream with the settings of topics can be
/// created. A cluster that has just started may answer before it can create streams.
async fn usable(nats: &Nats, urls: &str, waiting: &mut Waiting<'_>) {
    let mut backoff = Backoff::new(RETRY / 16, RETRY);
    // Time of the latest explanation of missing servers, and its text.
    let (mut since, mut known) = (Instant::now(), String::new());
    while let Err(obstacle) = try_out(nats).await {
        if obstacle.servers_are_missing && since.elapsed() >= EXPLAIN_AFTER {
            known = format!("; {}", placement::explain(nats, urls).await);
            since = Instant::now();
        }
        let known = if obstacle.servers_are_missing { known.as_str() } else { "" };
        waiting.warn_once(format!("{}{known}", obstacle.why));
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Reason why JetStream cannot be used yet.
#[derive(Debug)]
struct Obstacle {
    why: String,
    /// Set if the cluster may not have heard of all its servers.
    servers_are_missing: bool,
}

/// Asks JetStream for its state, and makes sure that a stream with the settings of topics exists.
async fn try_out(nats: &Nats) -> Result<(), Obstacle> {
    match tokio::time::timeout(REQUEST_TIMEOUT, nats.topics()).await {
        Ok(Ok(_)) => create_lock::open(nats).await.map_err(|error| Obstacle {
            why: format!("it cannot keep a stream of nats.replicas {}: {error}", nats.stream_config.replicas),
            servers_are_missing: has_too_few_servers(&error),
        }),
        Ok(Err(error)) => Err(Obstacle {
            why: format!("JetStream does not answer, is it enabled, and has it a leader? {error}"),
            servers_are_missing: true,
        }),
        Err(_) => Err(Obstacle {
            why: "JetStream does not answer, has it a leader?".into(),
            servers_are_missing: true,
        }),
    }
}

fn has_too_few_servers(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::CLUSTER_NO_PEERS)
}

/// Reason why the start waits, as shown in the log and by `/readyz`.
#[derive(Debug)]
struct Waiting<'a> {
    reason: &'a Reason,
    warned: Option<(String, tokio::time::Instant)>,
}

impl Waiting<'_> {
    /// Logs each new reason once, and a lasting one again after [`WARN_AGAIN`]. Returns true if it was logged.
    fn warn_once(&mut self, reason: String) -> bool {
        self.reason.set(Some(format!("waiting for NATS: {reason}")));
        let now = tokio::time::Instant::now();
        let lasts = self.warned.as_ref().is_some_and(|(last, at)| *last == reason && now - *at < WARN_AGAIN);
        if !lasts {
            warn!(reason, "waiting for NATS");
            self.warned = Some((reason, now));
        }
        !lasts
    }
}

async fn connected(nats: &NatsConfig, link: &Link, waiting: &mut Waiting<'_>) -> Result<Client, OpenError> {
    let url = &nats.url;
    let servers = url.split(',').map(|one| one.trim().parse::<ServerAddr>());
    let servers: Vec<_> =
        servers.collect::<Result<_, _>>().map_err(|why| OpenError::Url { url: url.clone(), why })?;
    loop {
        // The options are built again for each attempt, because the files may have been added in the meantime.
        let error = match options(nats, link).await?.connect(&servers[..]).await {
            Ok(client) => {
                link.notice(&async_nats::Event::Connected);
                return Ok(client);
            }
            Err(error) => error,
        };
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                return Err(OpenError::Refused { url: url.clone(), why: error.to_string() });
            }
            _ => {
                waiting.warn_once(error.to_string());
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn options(nats: &NatsConfig, link: &Link) -> Result<ConnectOptions, OpenError> {
    let link = Arc::new(link.clone());
    let mut options = ConnectOptions::new()
        .name("streamway")
        .connection_timeout(CONNECT_TIMEOUT)
        // This is the timeout of requests that the JetStream context sends; the context's own timeout does not apply to
        // them.
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .client_capacity(COMMANDS_MAX)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            let most =
                RECONNECT_MAX.min(Duration::from_millis(50) * u32::try_from(attempts).unwrap_or(u32::MAX));
            spread(most, 0.5..1.0)
        })
        .event_callback(move |event| {
            let link = link.clone();
            async move { link.notice(&event) }
        });
    let given = |path: &Path| !path.as_os_str().is_empty();
    if given(&nats.creds_file) {
        // The client requires a newline after the last line.
        options = options
            .credentials(&format!("{}\n", read("nats.creds_file", &nats.creds_file)?))
            .map_err(|error| file("nats.creds_file", &nats.creds_file, &error))?;
    }
    if given(&nats.nkey_file) {
        options = options.nkey(read("nats.nkey_file", &nats.nkey_file)?);
    }
    if given(&nats.token_file) {
        options = options.token(read("nats.token_file", &nats.token_file)?);
    }
    if !nats.user.is_empty() {
        options = options.user_and_password(nats.user.clone(), nats.password.reveal().to_owned());
    }
    if given(&nats.tls_ca) {
        read("nats.tls_ca", &nats.tls_ca)?;
        options = options.add_root_certificates(nats.tls_ca.clone()).require_tls(true);
    }
    if given(&nats.tls_cert) {
        read("nats.tls_cert", &nats.tls_cert)?;
        read("nats.tls_key", &nats.tls_key)?;
        options =
            options.add_client_certificate(nats.tls_cert.clone(), nats.tls_key.clone()).require_tls(true);
    }
    Ok(options)
}

/// Maximum size of a file. A bundle of all public CAs has 300 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

fn read(setting: &'static str, path: &Path) -> Result<String, OpenError> {
    let text = crate::file::read_text(path, FILE_BYTES_MAX).map_err(|error| file(setting, path, &error))?;
    Ok(text.trim().to_owned())
}

fn file(setting: &'static str, path: &Path, why: &io::Error) -> OpenError {
    OpenError::File { setting, path: path.into(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Reason, Waiting};

    #[tokio::test(start_paused = true)]
    async fn a_lasting_reason_to_wait_is_logged_again_and_not_each_time() {
        let reason = Reason::default();
        let mut waiting = Waiting { reason: &reason, warned: None };
        assert!(waiting.warn_once("one".into()), "new");
        let mut warned = 0;
        for _ in 0..120 {
            tokio::time::advance(Duration::from_secs(1)).await;
            warned += usize::from(waiting.warn_once("one".into()));
        }
        assert_eq!(warned, 4, "in two minutes");
        assert!(waiting.warn_once("other".into()), "new");
        assert_eq!(reason.get().as_deref(), Some("waiting for NATS: other"));
    }
}
