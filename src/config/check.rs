//! What settings must keep among each other. Every rule broken is named, not only the first.
//! Never: touches the disk or the network.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::human::format_size;
use super::{ClientAuth, Config, Engine, Http2Config, StorageConfig, TlsConfig, nats};

/// Room a gRPC message needs beside the records of a batch: names, keys, trace context.
const MESSAGE_OVERHEAD: usize = 4096;
/// What the contract promises of heartbeats.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Longest duration: far from where adding it to a clock overflows.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes of records in a batch: what the log takes in one frame, with room for the rest.
const BATCH_BYTES_MAX: u32 = 16 << 20;

/// Shorter ages than this only make clients reconnect.
const AGE_MIN: Duration = Duration::from_secs(1);
/// A peer that is asked more often than this is being flooded.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
/// The protocol's largest window (RFC 9113, section 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// gRPC's customary limit of a call's metadata.
const HEADER_LIST_MIN: u32 = 8 << 10;

/// Everything that is wrong with a configuration, one line each.
#[must_use]
pub fn faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    zeros(config, &mut faults);
    sizes(config, &mut faults);
    if overlap(config.listen, config.admin_listen) {
        faults.push(format!(
            "listen {} and admin_listen {} are the same port",
            config.listen, config.admin_listen
        ));
    }
    most(config, &mut faults);
    drain(config, &mut faults);
    http2(&config.http2, &mut faults);
    ages(config, &mut faults);
    memory(config, &mut faults);
    tls(&config.tls, &mut faults);
    nats::faults(config, &mut faults);
    if !HEARTBEAT.contains(&config.heartbeat_interval) {
        faults.push(format!("heartbeat_interval {:?} must be 1s to 10m", config.heartbeat_interval));
    }
    identities(config, &mut faults);
    if config.data_dir.as_os_str().is_empty() {
        faults.push("data_dir must not be empty".into());
    }
    faults
}

/// The delay is part of the timeout, and must leave a quarter of it to tell clients and what
/// closing the log may take.
fn drain(config: &Config, faults: &mut Vec<String>) {
    let (delay, timeout) = (config.drain_delay, config.drain_timeout);
    if timeout.is_zero() {
        return faults.push("drain_timeout must be more than 0".into());
    }
    let longest = config.drain_delay_max();
    if delay > longest {
        faults.push(format!(
            "drain_delay {delay:?} must be at most {longest:?}, so that drain_timeout {timeout:?}, which it is \
             a part of, leaves time to tell clients and to close the log"
        ));
    }
}

fn tls(tls: &TlsConfig, faults: &mut Vec<String>) {
    match (&tls.cert, &tls.key) {
        (Some(_), None) => faults.push("tls.cert needs tls.key, the file of its private key".into()),
        (None, Some(_)) => faults.push("tls.key needs tls.cert, the file of its certificate".into()),
        (None, None) if tls.client_ca.is_some() => {
            faults.push("tls.client_ca needs tls.cert and tls.key: without them there is no TLS".into());
        }
        _ => {}
    }
    let asked = tls.client_auth.filter(|auth| *auth != ClientAuth::None);
    if asked.is_some() && tls.client_ca.is_none() {
        faults.push("tls.client_auth needs tls.client_ca, the CAs that client certificates come from".into());
    }
}

/// Most that clocks may differ: a token that has expired is worth something for so long.
const LEEWAY_MAX: Duration = Duration::from_secs(300);
/// Least time between two looks at the files.
const RELOAD_MIN: Duration = Duration::from_millis(10);

/// What goes together is there together: a half of it would let in the wrong callers, or nobody.
fn identities(config: &Config, faults: &mut Vec<String>) {
    if config.has_identities() && config.auth_policy.is_none() {
        faults.push(
            "identities without auth_policy: nobody may do anything that no rule allows; write a policy \
             (docs/security.md has the smallest)"
                .into(),
        );
    }
    let of_jwt =
        [("auth_jwt_issuer", &config.auth_jwt_issuer), ("auth_jwt_audience", &config.auth_jwt_audience)];
    for (key, value) in of_jwt {
        match (&config.auth_jwks, value) {
            (Some(_), None) => faults.push(format!(
                "auth_jwks needs {key}: a token that was meant for somebody else must not be taken"
            )),
            (None, Some(_)) => faults.push(format!("{key} does nothing without auth_jwks")),
            _ => {}
        }
    }
    if config.auth_jwt_principal_claim.is_empty() {
        faults.push("auth_jwt_principal_claim must not be empty".into());
    }
    if config.auth_jwt_leeway > LEEWAY_MAX {
        faults.push("auth_jwt_leeway must be at most 5m".into());
    }
    if config.reload_interval < RELOAD_MIN {
        faults.push("reload_interval must be at least 10ms".into());
    }
}

fn most(config: &Config, faults: &mut Vec<String>) {
    let durations = [
        ("drain_delay", config.drain_delay),
        ("drain_timeout", config.drain_timeout),
        ("stream_age_max", config.stream_age_max),
        ("preface_timeout", config.preface_timeout),
        ("connection_age_max", config.connection_age_max),
        ("connection_age_grace", config.connection_age_grace),
        ("http2.keepalive_interval", config.http2.keepalive_interval),
        ("http2.keepalive_timeout", config.http2.keepalive_timeout),
        ("reload_interval", config.reload_interval),
        ("tls.handshake_timeout", config.tls.handshake_timeout),
        ("storage.request_id_window", config.storage.request_id_window),
    ];
    let long = durations.iter().filter(|(_, value)| *value > DURATION_MAX);
    faults.extend(long.map(|(key, _)| format!("{key} must be at most 24h")));
    if config.batch_bytes_max > BATCH_BYTES_MAX {
        let most = format_size(BATCH_BYTES_MAX.into());
        faults.push(format!("batch_bytes_max must be at most {most}, what the log takes"));
    }
    let counts = [
        ("connections_max", config.connections_max),
        ("admin_connections_max", config.admin_connections_max),
    ];
    let most = Semaphore::MAX_PERMITS;
    let many = counts.iter().filter(|(_, value)| *value > most);
    faults.extend(many.map(|(key, _)| format!("{key} must be at most {most}")));
}

fn zeros(config: &Config, faults: &mut Vec<String>) {
    let (storage, http2) = (&config.storage, &config.http2);
    let limits = [
        ("topics_max", config.topics_max as u64),
        ("batch_records_max", config.batch_records_max.into()),
        ("batch_bytes_max", config.batch_bytes_max.into()),
        ("message_bytes_max", config.message_bytes_max as u64),
        ("window_max", config.window_max.into()),
        ("inflight_bytes_max", config.inflight_bytes_max as u64),
        ("delivery_bytes_max", config.delivery_bytes_max as u64),
        ("streams_max", config.streams_max as u64),
        ("connections_max", config.connections_max as u64),
        ("streams_per_connection_max", config.streams_per_connection_max.into()),
        ("preface_timeout", config.preface_timeout.as_nanos() as u64),
        ("connection_inflight_bytes_max", config.connection_inflight_bytes_max as u64),
        ("admin_connections_max", config.admin_connections_max as u64),
        ("http2.keepalive_timeout", http2.keepalive_timeout.as_nanos() as u64),
        ("http2.stream_window_bytes", http2.stream_window_bytes.into()),
        ("http2.send_buffer_bytes", http2.send_buffer_bytes as u64),
        ("http2.local_resets_max", http2.local_resets_max as u64),
        ("http2.pending_resets_max", http2.pending_resets_max as u64),
        ("tls.handshake_timeout", config.tls.handshake_timeout.as_nanos() as u64),
        ("storage.journal_bytes", storage.journal_bytes),
        ("storage.segment_bytes", storage.segment_bytes),
        ("storage.unflushed_bytes_max", storage.unflushed_bytes_max as u64),
        ("storage.open_files_max", storage.open_files_max as u64),
        ("storage.request_id_window", storage.request_id_window.as_nanos() as u64),
        ("storage.request_ids_max", storage.request_ids_max as u64),
    ];
    let zero = limits.iter().filter(|(_, value)| *value == 0);
    faults.extend(zero.map(|(key, _)| format!("{key} must be more than 0")));
}

fn sizes(config: &Config, faults: &mut Vec<String>) {
    let StorageConfig { journal_bytes, segment_bytes, unflushed_bytes_max, .. } = config.storage;
    let batch = u64::from(config.batch_bytes_max);
    let at_least = [
        (
            "message_bytes_max",
            config.message_bytes_max as u64,
            "batch_bytes_max + 4KiB",
            batch + MESSAGE_OVERHEAD as u64,
        ),
        ("inflight_bytes_max", config.inflight_bytes_max as u64, "batch_bytes_max", batch),
        ("delivery_bytes_max", config.delivery_bytes_max as u64, "16MiB, room for some readers", 16 << 20),
        (
            "connection_inflight_bytes_max",
            config.connection_inflight_bytes_max as u64,
            "message_bytes_max",
            config.message_bytes_max as u64,
        ),
        ("storage.journal_bytes", journal_bytes, "batch_bytes_max", batch),
        ("storage.segment_bytes", segment_bytes, "batch_bytes_max", batch),
        ("storage.unflushed_bytes_max", unflushed_bytes_max as u64, "storage.journal_bytes", journal_bytes),
    ];
    for (key, value, than, least) in at_least {
        if value != 0 && value < least {
            let (value, least) = (format_size(value), format_size(least));
            faults.push(format!("{key} {value} must be at least {than}, {least}"));
        }
    }
}

fn http2(http2: &Http2Config, faults: &mut Vec<String>) {
    let Http2Config { keepalive_interval: interval, keepalive_timeout: timeout, .. } = http2;
    if *interval < KEEPALIVE_MIN {
        faults.push(format!("http2.keepalive_interval {interval:?} must be at least {KEEPALIVE_MIN:?}"));
    } else if timeout > interval {
        faults.push(format!(
            "http2.keepalive_timeout {timeout:?} must be at most http2.keepalive_interval, {interval:?}: a peer \
             is asked again only once it has answered"
        ));
    }
    let (stream, connection) = (http2.stream_window_bytes, http2.connection_window_bytes);
    if connection > WINDOW_MAX {
        faults.push(format!("http2.connection_window_bytes must be at most {WINDOW_MAX}"));
    }
    if stream > connection {
        let (stream, connection) = (format_size(stream.into()), format_size(connection.into()));
        faults.push(format!(
            "http2.stream_window_bytes {stream} must be at most http2.connection_window_bytes, {connection}: one \
             call would starve the others"
        ));
    }
    if http2.header_list_bytes_max < HEADER_LIST_MIN {
        let least = format_size(HEADER_LIST_MIN.into());
        faults.push(format!("http2.header_list_bytes_max must be at least {least}, gRPC's customary limit"));
    }
}

fn ages(config: &Config, faults: &mut Vec<String>) {
    let (connection, grace) = (config.connection_age_max, config.connection_age_grace);
    for (name, age) in [("connection_age_max", connection), ("stream_age_max", config.stream_age_max)] {
        if !age.is_zero() && age < AGE_MIN {
            faults.push(format!("{name} {age:?} must be 0 for none, or at least {AGE_MIN:?}"));
        }
    }
    if connection.is_zero() {
        return;
    }
    let longest = connection.saturating_add(grace);
    if config.stream_age_max > longest {
        faults.push(format!(
            "stream_age_max {:?} can never be reached: connection_age_max and connection_age_grace end a \
             connection at {longest:?}",
            config.stream_age_max
        ));
    }
}

/// What one open call takes beside the budgets, in bytes: its task, its stream of HTTP/2, the headers that came with it
/// as far as they are not counted elsewhere, and the smallest frame its peer may leave unread. An idle subscription
/// takes half of it.
const STREAM_BYTES: u64 = 24 << 10;

/// What one remembered `request_id` takes on JetStream, where for a moment an eighth more than the limit are: 180 bytes each.
const REQUEST_ID_BYTES: u64 = 203;
/// What a replica on JetStream holds for others at most.
const HANDED_OVER_BYTES: u64 = 16 << 20;

/// Adds up what the limits allow at once. The memory of the process itself and of the system's sockets is not in it.
fn memory(config: &Config, faults: &mut Vec<String>) {
    let (storage, inflight) = (&config.storage, config.inflight_bytes_max as u64);
    let (connections, window) = (config.connections_max as u64, config.http2.connection_window_bytes);
    let engine = match config.engine {
        Engine::Embedded => (storage.unflushed_bytes_max as u64, "storage.unflushed_bytes_max".to_owned()),
        Engine::JetStream => {
            let ids = storage.request_ids_max;
            let bytes = (ids as u64).saturating_mul(REQUEST_ID_BYTES).saturating_add(HANDED_OVER_BYTES);
            (
                bytes,
                format!(
                    "storage.request_ids_max {ids} × {REQUEST_ID_BYTES} + batches of other replicas 16MiB"
                ),
            )
        }
    };
    let terms = [
        (storage.cache_bytes as u64, "storage.cache_bytes".to_owned()),
        engine,
        (
            inflight.saturating_mul(3),
            "3 × inflight_bytes_max (admitted, waiting, partly received)".to_owned(),
        ),
        (config.delivery_bytes_max as u64, "delivery_bytes_max".to_owned()),
        (
            (config.streams_max as u64).saturating_mul(STREAM_BYTES),
            format!("streams_max {} × {}", config.streams_max, format_size(STREAM_BYTES)),
        ),
        (
            connections.saturating_mul(window.into()),
            format!(
                "connections_max {connections} × http2.connection_window_bytes {}",
                format_size(window.into())
            ),
        ),
    ];
    let sum = terms.iter().fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
    if config.memory_max == 0 || sum <= config.memory_max {
        return;
    }
    let terms: Vec<String> =
        terms.iter().map(|(bytes, what)| format!("{} for {what}", format_size(*bytes))).collect();
    let (most, sum) = (format_size(config.memory_max), format_size(sum));
    faults.push(format!("memory_max {most} is less than the limits allow, {sum}: {}", terms.join(" + ")));
}

/// Whether the second bind would fail: same port, and one address covers the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::faults;
    use crate::config::{Config, Engine};
    use std::time::Duration;

    #[test]
    fn the_defaults_are_consistent() {
        assert_eq!(faults(&Config::default()), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_named() {
        let mut config = Config { topics_max: 0, batch_bytes_max: 8 << 20, ..Config::default() };
        config.admin_listen = ([127, 0, 0, 1], 50051).into();
        config.drain_delay = Duration::from_secs(8);
        config.heartbeat_interval = Duration::from_millis(5);
        config.storage.unflushed_bytes_max = 1 << 20;
        let faults = faults(&config);
        for key in [
            "topics_max",
            "message_bytes_max",
            "admin_listen",
            "drain_delay",
            "heartbeat",
            "storage.unflushed",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(key)), "{key} in {faults:?}");
        }
        assert_eq!(faults.len(), 6, "{faults:?}");
    }

    #[test]
    fn what_would_overflow_is_refused() {
        let mut config = Config { connections_max: usize::MAX, ..Config::default() };
        config.batch_bytes_max = 17 << 20;
        (config.message_bytes_max, config.drain_timeout) = (32 << 20, Duration::MAX);
        config.storage.request_id_window = Duration::from_secs(25 * 3600);
        let faults = faults(&config);
        for key in ["connections_max", "batch_bytes_max", "drain_timeout", "storage.request_id_window"] {
            assert!(faults.iter().any(|fault| fault.starts_with(key)), "{key} in {faults:?}");
        }
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused_with_the_reason() {
        let mut config = Config { stream_age_max: Duration::from_secs(3600), ..Config::default() };
        config.connection_age_max = Duration::from_millis(500);
        config.http2.stream_window_bytes = 32 << 20;
        config.http2.keepalive_timeout = Duration::from_secs(31);
        config.http2.header_list_bytes_max = 1000;
        config.connection_inflight_bytes_max = 1 << 20;
        let faults = faults(&config);
        for reason in [
            "can never be reached",
            "connection_age_max 500ms must be 0 for none",
            "would starve the others",
            "only once it has answered",
            "customary limit",
            "connection_inflight_bytes_max 1MiB must be at least message_bytes_max, 4MiB",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(reason)), "{reason} in {faults:?}");
        }
        assert_eq!(faults.len(), 6, "{faults:?}");
        let hasty = Config { stream_age_max: Duration::from_millis(20), ..Config::default() };
        assert_eq!(super::faults(&hasty), ["stream_age_max 20ms must be 0 for none, or at least 1s"]);
    }

    #[test]
    fn limits_that_add_up_to_too_much_memory_are_refused_term_by_term() {
        let mut config = Config { memory_max: 1536 << 20, connections_max: 32, ..Config::default() };
        config.streams_max = 10_000;
        assert_eq!(faults(&config), Vec::<String>::new());
        config.connections_max = 64;
        let faults = faults(&config);
        let expected = "memory_max 1536MiB is less than the limits allow, 2009472KiB: 64MiB for storage.cache_bytes \
            + 192MiB for storage.unflushed_bytes_max \
            + 192MiB for 3 × inflight_bytes_max (admitted, waiting, partly received) \
            + 256MiB for delivery_bytes_max + 240000KiB for streams_max 10000 × 24KiB \
            + 1GiB for connections_max 64 × http2.connection_window_bytes 16MiB";
        assert_eq!(faults, [expected]);
    }

    #[test]
    fn request_ids_on_jetstream_are_charged_to_the_memory() {
        let mut config = Config { memory_max: 1536 << 20, connections_max: 32, ..Config::default() };
        (config.streams_max, config.engine) = (10_000, Engine::JetStream);
        config.nats.url = "nats://127.0.0.1:4222".into();
        assert_eq!(faults(&config), Vec::<String>::new());
        config.storage.request_ids_max = 10_000_000;
        let faults = faults(&config);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("for storage.request_ids_max 10000000 × 203"), "{faults:?}");
    }

    #[test]
    fn what_tls_needs_is_named() {
        let of = |pairs: &[&str]| {
            let mut config = Config::default();
            for key in pairs {
                let file = Some("x".into());
                match *key {
                    "cert" => config.tls.cert = file,
                    "key" => config.tls.key = file,
                    // Who has a certificate has an identity, and a policy says what it may do.
                    "ca" => (config.tls.client_ca, config.auth_policy) = (file.clone(), file),
                    _ => config.tls.client_auth = Some(key.parse().unwrap()),
                }
            }
            faults(&config)
        };
        for good in
            [&["cert", "key"][..], &["cert", "key", "ca"], &["cert", "key", "ca", "optional"], &["none"]]
        {
            assert_eq!(of(good), Vec::<String>::new(), "{good:?}");
        }
        for (bad, named) in [
            (&["cert"][..], "tls.cert needs tls.key"),
            (&["key"], "tls.key needs tls.cert"),
            (&["ca"], "tls.client_ca needs tls.cert"),
            (&["cert", "key", "required"], "tls.client_auth needs tls.client_ca"),
        ] {
            let faults = of(bad);
            assert!(faults.len() == 1 && faults[0].starts_with(named), "{bad:?}: {faults:?}");
        }
    }

    #[test]
    fn identities_come_whole_or_not_at_all() {
        let some = |text: &str| Some(text.to_owned());
        let of = |config: Config| faults(&config).join("\n");
        let jwks = Config { auth_jwks: Some("jwks".into()), ..Config::default() };
        for missing in ["auth_policy", "auth_jwks needs auth_jwt_issuer", "auth_jwks needs auth_jwt_audience"]
        {
            assert!(of(jwks.clone()).contains(missing), "{missing}");
        }
        let (issuer, audience) = (some("i"), some("a"));
        let whole = Config {
            auth_policy: Some("p".into()),
            auth_jwt_issuer: issuer,
            auth_jwt_audience: audience,
            ..jwks
        };
        assert_eq!(of(whole.clone()), "");
        assert_eq!(
            of(Config { auth_jwks: None, ..whole.clone() }).lines().count(),
            2,
            "they would do nothing"
        );
        assert!(of(Config { auth_tokens: Some("t".into()), ..Config::default() }).contains("auth_policy"));
        assert_eq!(of(Config { auth_policy: Some("p".into()), ..Config::default() }), "");
        let long =
            Config { auth_jwt_leeway: Duration::from_secs(301), reload_interval: Duration::ZERO, ..whole };
        assert_eq!(of(long).lines().count(), 2);
    }

    #[test]
    fn a_drain_delay_leaves_time_to_drain() {
        let of = |delay, timeout| {
            let [drain_delay, drain_timeout] = [delay, timeout].map(Duration::from_millis);
            faults(&Config { drain_delay, drain_timeout, ..Config::default() }).len()
        };
        assert_eq!((of(4000, 8000), of(4001, 8000)), (0, 1));
        assert_eq!((of(500, 1000), of(501, 1000)), (0, 1));
        assert_eq!((of(20_500, 30_000), of(20_501, 30_000)), (0, 1));
    }
}
