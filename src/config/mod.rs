//! One checked configuration: defaults < TOML file < `STREAMWAY_*` environment < flags.
//! Never: read again after start-up; nothing else reads the environment.

mod check;
mod human;
mod load;
mod nats;
mod settings;
mod tls;

pub use check::faults;
pub use human::{format_size, parse_duration, parse_size};
pub use load::{CONFIG_VARIABLE, Error, Input, Loaded, defaults, load};
pub use nats::{Engine, NatsConfig, NatsStorage, Secret};
pub use settings::{SETTINGS, Setting};
pub use tls::{ClientAuth, TlsConfig, TlsVersion};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything the server can be told. Field names are the flags' and the TOML keys' names; each
/// has a row in [`SETTINGS`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where gRPC is served. Port 0 takes a free one; the start log names it.
    #[serde(with = "human::address")]
    pub listen: SocketAddr,
    /// Where health and probes are served, in plaintext.
    #[serde(with = "human::address")]
    pub admin_listen: SocketAddr,
    /// Where topics are kept.
    #[serde(with = "human::plain")]
    pub engine: Engine,
    /// Where the embedded log keeps its files.
    pub data_dir: PathBuf,
    /// How long readiness is off before connections are told to go, inside the drain timeout.
    #[serde(with = "human::duration")]
    pub drain_delay: Duration,
    /// Budget from SIGTERM to exit.
    #[serde(with = "human::duration")]
    pub drain_timeout: Duration,
    /// Whether topics are created on first use.
    #[serde(with = "human::plain")]
    pub auto_create_topics: bool,
    /// Whether that use may be a subscription.
    #[serde(with = "human::plain")]
    pub auto_create_on_subscribe: bool,
    /// Whether gRPC reflection is served.
    #[serde(with = "human::plain")]
    pub reflection: bool,
    /// Most topics.
    #[serde(with = "human::plain")]
    pub topics_max: usize,
    /// Most records in a batch.
    #[serde(with = "human::plain")]
    pub batch_records_max: u32,
    /// Most bytes of records in a batch.
    #[serde(with = "human::size")]
    pub batch_bytes_max: u32,
    /// Most bytes in one gRPC message.
    #[serde(with = "human::size")]
    pub message_bytes_max: usize,
    /// Most publishes of one Exchange or Ingest not acknowledged yet.
    #[serde(with = "human::plain")]
    pub window_max: u32,
    /// Most bytes of publishes in flight on the whole server.
    #[serde(with = "human::size")]
    pub inflight_bytes_max: usize,
    /// Most bytes that answers keep until they are read.
    #[serde(with = "human::size")]
    pub delivery_bytes_max: usize,
    /// Silence after which a subscriber is sent a heartbeat, where it does not say.
    #[serde(with = "human::duration")]
    pub heartbeat_interval: Duration,
    /// Most open connections.
    #[serde(with = "human::plain")]
    pub connections_max: usize,
    /// Most open streams on one connection.
    #[serde(with = "human::plain")]
    pub streams_per_connection_max: u32,
    /// Most open streams on all connections.
    #[serde(with = "human::plain")]
    pub streams_max: usize,
    /// Age at which a subscription, an Exchange or an Ingest is told to begin anew; 0 for none.
    #[serde(with = "human::duration")]
    pub stream_age_max: Duration,
    /// Longest time from a connection to its HTTP/2 preface.
    #[serde(with = "human::duration")]
    pub preface_timeout: Duration,
    /// Age at which a connection takes no new calls; 0 for none.
    #[serde(with = "human::duration")]
    pub connection_age_max: Duration,
    /// How long the calls of a connection that is too old may go on.
    #[serde(with = "human::duration")]
    pub connection_age_grace: Duration,
    /// Most bytes of request messages partly received, on one connection.
    #[serde(with = "human::size")]
    pub connection_inflight_bytes_max: usize,
    /// Most open connections of the admin port.
    #[serde(with = "human::plain")]
    pub admin_connections_max: usize,
    /// Start-up refuses limits that add up to more memory; 0 to not add up.
    #[serde(with = "human::size")]
    pub memory_max: u64,
    /// Settings of HTTP/2.
    pub http2: Http2Config,
    /// How often files that may change under the running server are looked at: certificates,
    /// identities, policy.
    #[serde(with = "human::duration")]
    pub reload_interval: Duration,
    /// Settings of TLS on the gRPC port.
    pub tls: TlsConfig,
    /// File with the names and hashes of static tokens.
    #[serde(deserialize_with = "human::optional")]
    pub auth_tokens: Option<PathBuf>,
    /// File with the public keys (JWKS) that JWTs are signed with.
    #[serde(deserialize_with = "human::optional")]
    pub auth_jwks: Option<PathBuf>,
    /// What `iss` of a JWT must be.
    #[serde(deserialize_with = "human::optional")]
    pub auth_jwt_issuer: Option<String>,
    /// What `aud` of a JWT must be, or hold.
    #[serde(deserialize_with = "human::optional")]
    pub auth_jwt_audience: Option<String>,
    /// How much the issuer's clock may differ from ours.
    #[serde(with = "human::duration")]
    pub auth_jwt_leeway: Duration,
    /// The claim of a JWT that names the principal.
    pub auth_jwt_principal_claim: String,
    /// File that says who may do what.
    #[serde(deserialize_with = "human::optional")]
    pub auth_policy: Option<PathBuf>,
    /// Most invalid tokens of one connection that are checked in a second; 0 for no limit.
    #[serde(with = "human::plain")]
    pub auth_connection_failures_per_s: u64,
    /// Most invalid tokens of one peer's address that are checked in a second; 0 for no limit.
    #[serde(with = "human::plain")]
    pub auth_peer_failures_per_s: u64,
    /// Most bytes of records published in a second by all callers together; 0 for no limit.
    #[serde(with = "human::size")]
    pub quota_publish_bytes_per_s: u64,
    /// Most records published in a second by all callers together; 0 for no limit.
    #[serde(with = "human::plain")]
    pub quota_publish_records_per_s: u64,
    /// Most open subscriptions of all callers together; 0 for no limit.
    #[serde(with = "human::plain")]
    pub quota_subscriptions_max: u64,
    /// Settings of the log.
    pub storage: StorageConfig,
    /// Settings of the JetStream engine.
    pub nats: NatsConfig,
    /// Settings of metrics and logs; those of OTLP are the standard `OTEL_*` variables.
    pub telemetry: TelemetryConfig,
}

/// Settings of metrics and logs. Flags and variables carry the prefix `telemetry-`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Most topics that are counted by name; see [`Config::named_topics_max`].
    #[serde(deserialize_with = "human::optional")]
    pub topics_max: Option<usize>,
    /// One call in so many has a line in the access log; 0 for none.
    #[serde(with = "human::plain")]
    pub access_log_every: u32,
}

/// Settings of a gRPC connection's HTTP/2. Flags and variables carry the prefix `http2-`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http2Config {
    /// A silent peer is asked this often whether it is there.
    #[serde(with = "human::duration")]
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    #[serde(with = "human::duration")]
    pub keepalive_timeout: Duration,
    /// What one call may send ahead. Much less than a connection's, so that no call starves the others.
    #[serde(with = "human::size")]
    pub stream_window_bytes: u32,
    /// What all calls of a connection may send ahead.
    #[serde(with = "human::size")]
    pub connection_window_bytes: u32,
    /// Most bytes buffered for a call whose peer does not read, before the next message is made: a
    /// subscriber that is stuck costs this and one delivery.
    #[serde(with = "human::size")]
    pub send_buffer_bytes: usize,
    /// Most bytes of a request's headers: gRPC's customary limit is 8 KiB, tokens and baggage need more.
    #[serde(with = "human::size")]
    pub header_list_bytes_max: u32,
    /// Most streams that the peer had the server reset, before the connection ends.
    #[serde(with = "human::plain")]
    pub local_resets_max: usize,
    /// Most streams the peer reset before they were accepted (CVE-2023-44487), before the connection ends.
    #[serde(with = "human::plain")]
    pub pending_resets_max: usize,
}

/// Settings of the log. Flags and variables carry the prefix `storage-`. Those of files are the
/// embedded log's; the cache and the ids are every engine's.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Size of one journal file, in bytes; also how much is written between checkpoints.
    #[serde(with = "human::size")]
    pub journal_bytes: u64,
    /// Size at which a segment is full, in bytes.
    #[serde(with = "human::size")]
    pub segment_bytes: u64,
    /// Most bytes of blocks kept in memory for subscribers that keep up, beyond those not yet in segments.
    #[serde(with = "human::size")]
    pub cache_bytes: usize,
    /// Most bytes of blocks not yet in segments; publishing waits above it.
    #[serde(with = "human::size")]
    pub unflushed_bytes_max: usize,
    /// Most open segment files.
    #[serde(with = "human::plain")]
    pub open_files_max: usize,
    /// How long a `request_id` is remembered.
    #[serde(with = "human::duration")]
    pub request_id_window: Duration,
    /// How many of the newest `request_id`s are remembered.
    #[serde(with = "human::plain")]
    pub request_ids_max: usize,
}

impl Config {
    /// Whether anything says who a caller is.
    #[must_use]
    pub const fn has_identities(&self) -> bool {
        self.auth_tokens.is_some() || self.auth_jwks.is_some() || self.tls.client_ca.is_some()
    }

    /// Most topics that metrics count by name; all others together. Whoever reaches the admin port reads
    /// the names, without an identity: where a policy says who may see which topics, none is named unasked.
    #[must_use]
    pub fn named_topics_max(&self) -> usize {
        const UNASKED: usize = 100;
        self.telemetry.topics_max.unwrap_or(if self.auth_policy.is_some() { 0 } else { UNASKED })
    }

    /// Where records are kept: a directory, or NATS.
    #[must_use]
    pub fn storage_location(&self) -> String {
        match self.engine {
            Engine::Embedded => self.data_dir.display().to_string(),
            Engine::JetStream => self.nats.url.clone(),
        }
    }

    /// The end of the drain timeout, which is kept for closing the log: 2 s, or a quarter of it.
    #[must_use]
    pub fn close_reserve(&self) -> Duration {
        const MAX: Duration = Duration::from_secs(2);
        MAX.min(self.drain_timeout / 4)
    }

    /// The longest drain delay that leaves calls a quarter of the drain timeout to end well.
    #[must_use]
    pub fn drain_delay_max(&self) -> Duration {
        self.drain_timeout - self.drain_timeout / 4 - self.close_reserve()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 50051)),
            admin_listen: SocketAddr::from(([0, 0, 0, 0], 8081)),
            engine: Engine::default(),
            data_dir: PathBuf::from("./data"),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(8),
            auto_create_topics: true,
            auto_create_on_subscribe: true,
            reflection: true,
            topics_max: 10_000,
            batch_records_max: 1000,
            batch_bytes_max: 1 << 20,
            message_bytes_max: 4 << 20,
            window_max: 16_384,
            inflight_bytes_max: 64 << 20,
            delivery_bytes_max: 256 << 20,
            heartbeat_interval: Duration::from_secs(15),
            connections_max: 10_000,
            streams_per_connection_max: 10_000,
            streams_max: 100_000,
            stream_age_max: Duration::ZERO,
            preface_timeout: Duration::from_secs(10),
            connection_age_max: Duration::ZERO,
            connection_age_grace: Duration::from_secs(30),
            connection_inflight_bytes_max: 32 << 20,
            admin_connections_max: 256,
            memory_max: 0,
            http2: Http2Config::default(),
            reload_interval: Duration::from_secs(10),
            tls: TlsConfig::default(),
            auth_tokens: None,
            auth_jwks: None,
            auth_jwt_issuer: None,
            auth_jwt_audience: None,
            auth_jwt_leeway: Duration::from_secs(30),
            auth_jwt_principal_claim: "sub".to_owned(),
            auth_policy: None,
            auth_connection_failures_per_s: 20,
            auth_peer_failures_per_s: 100,
            quota_publish_bytes_per_s: 0,
            quota_publish_records_per_s: 0,
            quota_subscriptions_max: 0,
            storage: StorageConfig::default(),
            nats: NatsConfig::default(),
            telemetry: TelemetryConfig { topics_max: None, access_log_every: 0 },
        }
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 16 << 20,
            send_buffer_bytes: 64 << 10,
            header_list_bytes_max: 32 << 10,
            // Both h2's own defaults.
            local_resets_max: 1024,
            pending_resets_max: 20,
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            journal_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            unflushed_bytes_max: 192 << 20,
            open_files_max: 512,
            request_id_window: Duration::from_secs(600),
            request_ids_max: 1_000_000,
        }
    }
}
