//! The one list of settings: from it come the flags, the variables, the keys of the file, and
//! the help. A test holds it against the fields of [`super::Config`].
//! Never: defaults; those are [`super::Config::default`]'s.

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file; a dot stands before a key of a table.
    pub key: &'static str,
    /// What the help calls its value.
    pub value_name: &'static str,
    /// What the help says.
    pub help: &'static str,
    /// Whether its value is never printed.
    pub secret: bool,
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

    /// Whether the flag may stand without a value, for `true`.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.value_name == BOOL
    }
}

/// How every variable of ours begins.
pub const PREFIX: &str = "STREAMWAY_";

const ADDR: &str = "ADDR";
const BOOL: &str = "true|false";
const COUNT: &str = "N";
const DURATION: &str = "DURATION";
const ENGINE: &str = "embedded|jetstream";
const FILE: &str = "FILE";
const SIZE: &str = "SIZE";

const fn setting(key: &'static str, value_name: &'static str, help: &'static str) -> Setting {
    Setting { key, value_name, help, secret: false }
}

const fn secret(key: &'static str, value_name: &'static str, help: &'static str) -> Setting {
    Setting { key, value_name, help, secret: true }
}

/// All settings, in the order the help shows them.
pub const SETTINGS: &[Setting] = &[
    setting("listen", ADDR, "Where gRPC is served; port 0 takes a free one, and the log names it"),
    setting("admin_listen", ADDR, "Where health and probes are served, in plaintext"),
    setting("engine", ENGINE, "Where topics are kept: in files, or in a NATS cluster shared by replicas"),
    setting("data_dir", "DIR", "Where the embedded log keeps its files"),
    setting("drain_delay", DURATION, "How long readiness is off before connections are told to go"),
    setting("drain_timeout", DURATION, "Longest time from SIGTERM to exit, the delay included"),
    setting("auto_create_topics", BOOL, "Whether a topic is created when it is first used"),
    setting(
        "auto_create_on_subscribe",
        BOOL,
        "Whether that use may be a subscription that waits for records to come",
    ),
    setting("reflection", BOOL, "Whether gRPC reflection is served"),
    setting("topics_max", COUNT, "Most topics"),
    setting("batch_records_max", COUNT, "Most records in one batch"),
    setting("batch_bytes_max", SIZE, "Most bytes of records in one batch"),
    setting("message_bytes_max", SIZE, "Most bytes in one gRPC message"),
    setting("window_max", COUNT, "Most publishes of one call that are not acknowledged yet"),
    setting("inflight_bytes_max", SIZE, "Most bytes of publishes in flight on the whole server"),
    setting("delivery_bytes_max", SIZE, "Most bytes that answers keep until their clients have read them"),
    setting("heartbeat_interval", DURATION, "Silence after which a subscriber is sent a heartbeat"),
    setting("connections_max", COUNT, "Most open connections"),
    setting("streams_per_connection_max", COUNT, "Most open streams on one connection"),
    setting("streams_max", COUNT, "Most open streams on the whole server"),
    setting(
        "stream_age_max",
        DURATION,
        "Age, give or take a tenth, at which a stream is told to resume on a new one; 0 for none",
    ),
    setting("preface_timeout", DURATION, "Longest time from a connection to its HTTP/2 preface"),
    setting(
        "connection_age_max",
        DURATION,
        "Age, give or take a tenth, at which a connection takes no new calls; 0 for none",
    ),
    setting(
        "connection_age_grace",
        DURATION,
        "How long calls of such a connection go on until they are told to resume on another",
    ),
    setting(
        "connection_inflight_bytes_max",
        SIZE,
        "One connection's part of inflight-bytes-max, and as much again of messages partly received",
    ),
    setting("admin_connections_max", COUNT, "Most open connections of the admin port"),
    setting("memory_max", SIZE, "Refuse to start with limits that add up to more; 0 to not add up"),
    setting("http2.keepalive_interval", DURATION, "How often a silent peer is asked whether it is there"),
    setting("http2.keepalive_timeout", DURATION, "How long it may take to answer"),
    setting("http2.stream_window_bytes", SIZE, "What one call may send ahead"),
    setting("http2.connection_window_bytes", SIZE, "What all calls of a connection may send ahead"),
    setting("http2.send_buffer_bytes", SIZE, "Most bytes buffered for a call whose peer does not read"),
    setting("http2.header_list_bytes_max", SIZE, "Most bytes of a request's headers"),
    setting("http2.local_resets_max", COUNT, "Most streams a peer may have the server reset"),
    setting("http2.pending_resets_max", COUNT, "Most streams a peer may reset before they are accepted"),
    setting(
        "reload_interval",
        DURATION,
        "How often files are looked at for changes: certificates, identities, policy",
    ),
    setting("tls.cert", FILE, "PEM file of the certificate and its chain; turns TLS on, and plaintext off"),
    setting("tls.key", FILE, "PEM file of the certificate's private key"),
    setting("tls.client_ca", FILE, "PEM file of the CAs whose client certificates are accepted"),
    setting(
        "tls.client_auth",
        "none|optional|required",
        "Whether clients present a certificate; required where there is a tls-client-ca",
    ),
    setting("tls.min_version", "1.2|1.3", "Oldest version of TLS that is spoken"),
    setting("tls.handshake_timeout", DURATION, "Longest time a TLS handshake may take"),
    setting("auth_tokens", FILE, "Static tokens: names and hashes; `streamway token` makes its lines"),
    setting("auth_jwks", FILE, "Public keys (JWKS) of the issuer whose JWTs are taken"),
    setting("auth_jwt_issuer", "ISS", "What `iss` of a JWT must be"),
    setting("auth_jwt_audience", "AUD", "What `aud` of a JWT must be, or hold"),
    setting("auth_jwt_leeway", DURATION, "How much the issuer's clock may differ from ours"),
    setting("auth_jwt_principal_claim", "CLAIM", "The claim of a JWT that names the principal"),
    setting("auth_policy", FILE, "Who may do what, in TOML; must be there where there are identities"),
    setting(
        "auth_connection_failures_per_s",
        COUNT,
        "Most invalid JWTs of one connection whose signature is checked in a second; 0 for no limit",
    ),
    setting(
        "auth_peer_failures_per_s",
        COUNT,
        "The same of one peer's address, all its connections together; 0 for no limit",
    ),
    setting(
        "quota_publish_bytes_per_s",
        SIZE,
        "Most bytes published in a second by all together; 0 for none",
    ),
    setting(
        "quota_publish_records_per_s",
        COUNT,
        "Most records published in a second by all together; 0 for none",
    ),
    setting("quota_subscriptions_max", COUNT, "Most open subscriptions of all together; 0 for no limit"),
    setting("storage.journal_bytes", SIZE, "Size of one journal file; also how much a checkpoint covers"),
    setting("storage.segment_bytes", SIZE, "Size at which a segment is full"),
    setting("storage.cache_bytes", SIZE, "Memory for subscribers that keep up"),
    setting("storage.unflushed_bytes_max", SIZE, "Most bytes not yet in segments; publishing waits above it"),
    setting("storage.open_files_max", COUNT, "Most open segment files"),
    setting("storage.request_id_window", DURATION, "How long a request_id is remembered"),
    setting("storage.request_ids_max", COUNT, "How many of the newest request_ids are remembered"),
    setting("nats.url", "URL", "NATS servers of the engine jetstream, with commas between them"),
    setting("nats.replicas", COUNT, "Copies NATS keeps of a new topic; 3 survive the loss of a server"),
    setting("nats.storage", "file|memory", "Where NATS keeps new topics"),
    setting("nats.creds_file", FILE, "Credentials for NATS: a JWT and its seed"),
    setting("nats.nkey_file", FILE, "Credentials for NATS: an nkey's seed"),
    setting("nats.token_file", FILE, "Credentials for NATS: a token"),
    setting("nats.user", "USER", "Credentials for NATS: a user, with nats.password"),
    secret("nats.password", "PASSWORD", "Password of nats.user; better as a variable than as a flag"),
    setting("nats.tls_ca", FILE, "Certificates that those of NATS are checked against"),
    setting("nats.tls_cert", FILE, "Certificate shown to NATS, with nats.tls_key"),
    setting("nats.tls_key", FILE, "Key of nats.tls_cert"),
    setting(
        "telemetry.topics_max",
        COUNT,
        "Most topics that metrics count by name, all others together; 100, but 0 where there is a policy",
    ),
    setting("telemetry.access_log_every", COUNT, "One call in so many is in the access log; 0 for none"),
];
