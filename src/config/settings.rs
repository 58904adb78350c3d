//! The one list of settings: each row makes a field of [`Config`], its default, a flag, a variable, a
//! key of the file, and a line of the help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::types::{AuditLog, ClientAuth, Engine, LogFormat, LogLevel, NatsStorage, Secret, TlsVersion};
use super::value::{Address, Age, Count, File, Hidden, Optional, Period, Required, Size, Text, Word};
use super::web::{Hosts, HttpListen, Origins};

/// Maximum bytes of other replicas' batches that a replica on JetStream holds. They have this budget to themselves,
/// so that a replica which is busy with its own publishes still stores those of others.
pub const HANDED_OVER_BYTES_MAX: usize = 16 << 20;

/// Largest limit of the members of a group: an owner keeps their order by credit in use.
const GROUP_MEMBERS_MAX: u64 = 10_000;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Key in the file; a dot stands before a key of a table.
    pub key: &'static str,
    /// Placeholder of its value in the help.
    pub value_name: &'static str,
    /// Description in the help.
    pub help: &'static str,
    /// Reads a value into the configuration, or says why it is not one.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// Writes the value; a secret one is hidden.
    pub(super) get: fn(&Config) -> String,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Setting {
    /// The flag, without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// Tells whether the flag may stand without a value, for `true`.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.value_name == BOOL
    }

    /// Tells whether the value is never printed.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.value_name == PASSWORD
    }
}

/// A value that is laid over the default.
pub(super) struct Override {
    pub(super) setting: Setting,
    pub(super) value: String,
    /// Place it comes from.
    pub(super) source: String,
}

/// Prefix of every environment variable of a setting.
pub const PREFIX: &str = "STREAMWAY_";

const BOOL: &str = "true|false";
const PASSWORD: &str = "PASSWORD";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Longest duration of any setting: far from where adding it to a clock overflows.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest duration of a setting that must not be zero.
const NON_ZERO: Duration = Duration::from_micros(1);
/// Maximum of settings that count permits.
const PERMITS_MAX: u64 = tokio::sync::Semaphore::MAX_PERMITS as u64;
/// Maximum bytes of records in a batch: what the log takes in one frame, with room for the rest.
const BATCH_BYTES_MAX: u64 = 16 << 20;
/// Largest window of HTTP/2 (RFC 9113, section 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;
/// gRPC's customary limit of a call's metadata.
const HEADER_LIST_MIN: u64 = 8 << 10;
/// Intervals of heartbeats that the contract allows.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = SECOND..=Duration::from_secs(600);
/// Maximum difference of clocks: an expired token is worth something for so long.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// A row reads `field: Type = default, "VALUE_NAME", Kind(bounds), "help";` where `Kind` is a type of
/// `value`. Rows in braces are keys of the top level; rows of a table follow its name.
macro_rules! settings {
    ($(
        { $($key:ident: $type:ty = $default:expr, $name:expr, $kind:ident $(($bounds:expr))?, $help:literal;)* }
        $table:ident: $Table:ident = $about:literal {
            $($inner:ident: $inner_type:ty = $inner_default:expr, $inner_name:expr,
                $inner_kind:ident $(($inner_bounds:expr))?, $inner_help:literal;)*
        }
    )*) => {
        /// Everything the server can be told.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $help] pub $key: $type,)* #[doc = $about] pub $table: $Table,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($($key: $default,)* $table: $Table::default(),)* }
            }
        }

        $(
            #[doc = $about]
            #[derive(Clone, Debug)]
            pub struct $Table {
                $(#[doc = $inner_help] pub $inner: $inner_type,)*
            }

            impl Default for $Table {
                fn default() -> Self {
                    Self { $($inner: $inner_default,)* }
                }
            }
        )*

        /// All settings, in the order the help shows them.
        pub const SETTINGS: &[Setting] = &[$(
            $(Setting {
                key: stringify!($key),
                value_name: $name,
                help: $help,
                set: |config, text| { config.$key = $kind::read(text $(, $bounds)?)?; Ok(()) },
                get: |config| $kind::write(&config.$key),
            },)*
            $(Setting {
                key: concat!(stringify!($table), ".", stringify!($inner)),
                value_name: $inner_name,
                help: $inner_help,
                set: |config, text| {
                    config.$table.$inner = $inner_kind::read(text $(, $inner_bounds)?)?;
                    Ok(())
                },
                get: |config| $inner_kind::write(&config.$table.$inner),
            },)*
        )*];
    };
}

settings! {
    {
        listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 50051)), "ADDR", Address,
            "Address of the gRPC port. `[::]` is every address of IPv6 and IPv4, or of IPv4 alone on a machine without IPv6. Port 0 takes a free one, and the log names it";
        admin_listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 8081)), "ADDR", Address,
            "Address of the admin port: health, probes and metrics, in plaintext";
        engine: Engine = Engine::Embedded, "embedded|jetstream", Word,
            "Storage of topics: files of this server, or a NATS cluster shared by replicas";
        data_dir: PathBuf = "./data".into(), "DIR", Required,
            "Directory of the embedded log's files";
        drain_delay: Duration = Duration::ZERO, "DURATION", Period(..=DAY),
            "Time between readiness going off and clients being told to go, at a shutdown";
        drain_timeout: Duration = 8 * SECOND, "DURATION", Period(NON_ZERO..=DAY),
            "Longest time from SIGTERM to exit, the drain delay included";
        auto_create_topics: bool = true, BOOL, Word,
            "Create a topic when it is first used";
        auto_create_on_subscribe: bool = true, BOOL, Word,
            "Create a topic also for a subscription that waits for records to come";
        reflection: bool = true, BOOL, Word,
            "Serve gRPC reflection";
        topics_max: usize = 10_000, "N", Count(1..),
            "Maximum number of topics";
        groups_max: usize = 10_000, "N", Count(1..),
            "Maximum number of groups";
        group_members_max: usize = 1000, "N", Count(1..=GROUP_MEMBERS_MAX),
            "Maximum members of one group";
        batch_records_max: u32 = 1000, "N", Count(1..),
            "Maximum records in one batch";
        batch_bytes_max: u32 = 1 << 20, "SIZE", Size(1..=BATCH_BYTES_MAX),
            "Maximum bytes of records in one batch";
        message_bytes_max: usize = 4 << 20, "SIZE", Size(1..),
            "Maximum bytes in one gRPC message";
        window_max: u32 = 16_384, "N", Count(1..),
            "Maximum publishes of one call that are not acknowledged yet";
        inflight_bytes_max: usize = 64 << 20, "SIZE", Size(1..),
            "Maximum bytes of publishes in flight on the whole server";
        delivery_bytes_max: usize = 256 << 20, "SIZE", Size(1..),
            "Maximum bytes of answers that wait for clients to read them";
        heartbeat_interval: Duration = 15 * SECOND, "DURATION", Period(HEARTBEAT),
            "Silence after which a subscriber is sent a heartbeat, unless it asks for another interval";
        connections_max: usize = 10_000, "N", Count(1..=PERMITS_MAX),
            "Maximum open connections";
        streams_per_connection_max: u32 = 10_000, "N", Count(1..),
            "Maximum open streams on one connection";
        streams_max: usize = 100_000, "N", Count(1..),
            "Maximum open streams on the whole server";
        stream_age_max: Duration = Duration::ZERO, "DURATION", Age(..=DAY),
            "Age, give or take a tenth, at which a stream is told to resume on a new one; 0 for none";
        preface_timeout: Duration = 10 * SECOND, "DURATION", Period(NON_ZERO..=DAY),
            "Longest time from the start of a connection to its HTTP/2 preface";
        connection_age_max: Duration = Duration::ZERO, "DURATION", Age(..=DAY),
            "Age, give or take a tenth, at which a connection takes no new calls; 0 for none";
        connection_age_grace: Duration = 30 * SECOND, "DURATION", Period(..=DAY),
            "Time for which the calls of such a connection go on until they are told to resume on another";
        connection_inflight_bytes_max: usize = 32 << 20, "SIZE", Size(1..),
            "Share of one connection in inflight-bytes-max, and as much again of messages partly received";
        admin_connections_max: usize = 256, "N", Count(1..=PERMITS_MAX),
            "Maximum open connections of the admin port";
        memory_max: u64 = 0, "SIZE", Size(..),
            "Refuse to start when the limits allow more memory than this; 0 for no check";
    }
    http2: Http2Config = "Settings of a gRPC connection's HTTP/2." {
        keepalive_interval: Duration = 30 * SECOND, "DURATION", Period(SECOND..=DAY),
            "Interval of the pings that a silent peer is sent";
        keepalive_timeout: Duration = 10 * SECOND, "DURATION", Period(NON_ZERO..=DAY),
            "Longest time until a peer answers a ping";
        // Much less than a connection's, so that no call starves the others.
        stream_window_bytes: u32 = 256 << 10, "SIZE", Size(1..),
            "Bytes that one call may send before the server has read them";
        connection_window_bytes: u32 = 16 << 20, "SIZE", Size(..=WINDOW_MAX),
            "Bytes that all calls of a connection may send before the server has read them";
        // A subscriber that does not read costs this and one delivery.
        send_buffer_bytes: usize = 64 << 10, "SIZE", Size(1..),
            "Maximum bytes buffered for a call whose peer does not read";
        // gRPC's customary limit is 8 KiB; tokens and baggage need more.
        header_list_bytes_max: u32 = 32 << 10, "SIZE", Size(HEADER_LIST_MIN..),
            "Maximum bytes of a request's headers";
        // The defaults of both are h2's own; the second bounds CVE-2023-44487.
        local_resets_max: usize = 1024, "N", Count(1..),
            "Maximum streams that a peer may cause the server to reset before its connection is closed";
        pending_resets_max: usize = 20, "N", Count(1..),
            "Maximum streams that a peer may reset before they are accepted";
    }
    {}
    http: HttpConfig = "Settings of the HTTP listener." {
        listen: HttpListen = HttpListen::default(), "ADDR|off", Word,
            "Address of the HTTP listener: the console, JSON, server-sent events and gRPC-Web. Where the default one is taken, the server serves without it";
        origins: Origins = Origins::default(), "ORIGINS", Word,
            "Origins, separated by commas, whose pages may call the HTTP listener; none but its own by default";
        hosts: Hosts = Hosts::default(), "NAMES", Word,
            "Names, separated by commas, by which browsers reach the HTTP listener, such as that of an ingress. Addresses, localhost, names of one label or of Kubernetes, and those of the certificate need no entry";
        // Proxies keep idle connections for a minute, and a server must not be the first to close one.
        idle_timeout: Duration = 90 * SECOND, "DURATION", Period(SECOND..=DAY),
            "Time after which a connection of the HTTP listener without a request is closed";
        body_timeout: Duration = 30 * SECOND, "DURATION", Period(SECOND..=DAY),
            "Longest silence within the body of a request to the HTTP listener";
    }
    {
        reload_interval: Duration = 10 * SECOND, "DURATION", Period(10 * MILLISECOND..=DAY),
            "Interval at which certificates, identities and the policy are read again";
    }
    tls: TlsConfig = "Settings of TLS on the gRPC port." {
        cert: Option<PathBuf> = None, "FILE", File,
            "PEM file of the certificate and its chain; turns TLS on, and plaintext off";
        key: Option<PathBuf> = None, "FILE", File,
            "PEM file of the certificate's private key";
        client_ca: Option<PathBuf> = None, "FILE", File,
            "PEM file of the CAs whose client certificates are accepted";
        client_auth: Option<ClientAuth> = None, "none|optional|required", Optional,
            "Client certificates: required by default where there is a tls-client-ca";
        min_version: TlsVersion = TlsVersion::V1_2, "1.2|1.3", Word,
            "Oldest accepted version of TLS";
        handshake_timeout: Duration = 10 * SECOND, "DURATION", Period(NON_ZERO..=DAY),
            "Longest time of a TLS handshake";
    }
    {
        auth_tokens: Option<PathBuf> = None, "FILE", File,
            "File of static tokens, by name and hash; `streamway token` makes its lines";
        auth_jwks: Option<PathBuf> = None, "FILE", File,
            "File of the public keys (JWKS) of the issuer whose JWTs are accepted";
        auth_jwt_issuer: Option<String> = None, "ISS", Optional,
            "Required `iss` of a JWT";
        auth_jwt_audience: Option<String> = None, "AUD", Optional,
            "Required `aud` of a JWT, or one of several";
        auth_jwt_leeway: Duration = 30 * SECOND, "DURATION", Period(..=LEEWAY_MAX),
            "Tolerated difference between the issuer's clock and this server's";
        auth_jwt_principal_claim: String = "sub".into(), "CLAIM", Required,
            "Claim of a JWT that names the principal";
        auth_policy: Option<PathBuf> = None, "FILE", File,
            "TOML file of who may do what; required where there are identities";
        auth_connection_failures_per_s: u64 = 20, "N", Count(..),
            "Maximum invalid JWTs of one connection whose signature is checked in a second; 0 for no limit";
        auth_peer_failures_per_s: u64 = 100, "N", Count(..),
            "The same for all connections of one peer's address together; 0 for no limit";
        quota_publish_bytes_per_s: u64 = 0, "SIZE", Size(..),
            "Maximum bytes published in a second by all callers together; 0 for no limit";
        quota_publish_records_per_s: u64 = 0, "N", Count(..),
            "Maximum records published in a second by all callers together; 0 for no limit";
        quota_subscriptions_max: u64 = 0, "N", Count(..),
            "Maximum open subscriptions of all callers together; 0 for no limit";
        audit_log: AuditLog = AuditLog::Stderr, "off|stderr|all", Word,
            "Record changes and refused attempts: not, on standard error, or also over OTLP where it exports logs";
    }
    // Those of files are the embedded log's; the cache and the request ids are every engine's.
    storage: StorageConfig = "Settings of the log." {
        journal_bytes: u64 = 64 << 20, "SIZE", Size(1..),
            "Size of one journal file; also how much a checkpoint covers";
        segment_bytes: u64 = 64 << 20, "SIZE", Size(1..),
            "Size at which a segment is full";
        cache_bytes: usize = 64 << 20, "SIZE", Size(..),
            "Maximum bytes of recent records kept in memory for subscribers that keep up";
        unflushed_bytes_max: usize = 192 << 20, "SIZE", Size(1..),
            "Maximum bytes not yet in segments; publishing waits above it";
        open_files_max: usize = 512, "N", Count(1..),
            "Maximum open segment files";
        request_id_window: Duration = 600 * SECOND, "DURATION", Period(NON_ZERO..=DAY),
            "Time for which a request_id is remembered";
        request_ids_max: usize = 1_000_000, "N", Count(1..),
            "Number of the newest request_ids that are remembered";
    }
    {}
    nats: NatsConfig = "Settings of the JetStream engine." {
        url: String = String::new(), "URL", Text,
            "NATS servers of the engine jetstream, separated by commas";
        replicas: usize = 3, "N", Count(..),
            "Copies that NATS keeps of a new topic; 3 survive the loss of a server";
        storage: NatsStorage = NatsStorage::File, "file|memory", Word,
            "Storage of new topics in NATS; memory does not survive a restart of all its servers";
        creds_file: PathBuf = PathBuf::new(), "FILE", Text,
            "Credentials for NATS: a file of a JWT and its seed";
        nkey_file: PathBuf = PathBuf::new(), "FILE", Text,
            "Credentials for NATS: a file of an nkey's seed";
        token_file: PathBuf = PathBuf::new(), "FILE", Text,
            "Credentials for NATS: a file of a token";
        user: String = String::new(), "USER", Text,
            "Credentials for NATS: a user, with nats.password";
        password: Secret = Secret::default(), PASSWORD, Hidden,
            "Password of nats.user; better as a variable than as a flag";
        tls_ca: PathBuf = PathBuf::new(), "FILE", Text,
            "CAs that the certificates of NATS servers are checked against; the system's by default";
        tls_cert: PathBuf = PathBuf::new(), "FILE", Text,
            "Certificate shown to NATS servers, with nats.tls_key";
        tls_key: PathBuf = PathBuf::new(), "FILE", Text,
            "Private key of nats.tls_cert";
    }
    {
        log_level: LogLevel = LogLevel::Info, "error|warn|info|debug|trace", Word,
            "Lowest level of log lines; -v and RUST_LOG take precedence";
        log_format: LogFormat = LogFormat::Auto, "auto|text|json", Word,
            "Form of log lines; auto is text on a terminal, and JSON elsewhere";
    }
    telemetry: TelemetryConfig = "Settings of metrics and logs; those of OTLP are the standard `OTEL_*` variables." {
        topics_max: Option<usize> = None, "N", Optional,
            "Maximum topics that metrics count by name, all others together; 100, but 0 where there is a policy";
        access_log_every: u32 = 0, "N", Count(..),
            "One call in so many is written to the access log; 0 for none";
    }
}

impl Config {
    /// Tells whether callers have identities.
    #[must_use]
    pub const fn has_identities(&self) -> bool {
        self.auth_tokens.is_some() || self.auth_jwks.is_some() || self.tls.client_ca.is_some()
    }

    /// Maximum topics that metrics count by name; all others are counted together. Whoever reaches the admin
    /// port reads the names without an identity, so none is named by default where a policy restricts topics.
    #[must_use]
    pub fn named_topics_max(&self) -> usize {
        const DEFAULT: usize = 100;
        self.telemetry.topics_max.unwrap_or(if self.auth_policy.is_some() { 0 } else { DEFAULT })
    }

    /// Place where records are stored: a directory, or the servers of NATS.
    #[must_use]
    pub fn storage_location(&self) -> String {
        match self.engine {
            Engine::Embedded => self.data_dir.display().to_string(),
            Engine::JetStream => self.nats.url.clone(),
        }
    }

    /// End of the drain timeout, which is reserved for closing the log: 2 s, or a quarter of it.
    #[must_use]
    pub fn close_reserve(&self) -> Duration {
        const MAX: Duration = Duration::from_secs(2);
        MAX.min(self.drain_timeout / 4)
    }

    /// Longest drain delay that leaves calls a quarter of the drain timeout to end well.
    #[must_use]
    pub fn drain_delay_max(&self) -> Duration {
        self.drain_timeout - self.drain_timeout / 4 - self.close_reserve()
    }
}

impl TlsConfig {
    /// Requirement on client certificates: where a client CA is given, they are required by default.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        let default = if self.client_ca.is_some() { ClientAuth::Required } else { ClientAuth::None };
        self.client_auth.unwrap_or(default)
    }
}
