//! What settings must keep among each other. Every rule broken is named, not only the first.
//! Never: touches the disk or the network.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::human::format_size;
use super::{Config, StorageConfig};

/// Room a gRPC message needs beside the records of a batch: names, keys, trace context.
const MESSAGE_OVERHEAD: usize = 4096;
/// What the contract promises of heartbeats.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Longest duration: far from where adding it to a clock overflows.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes of records in a batch: what the log takes in one frame, with room for the rest.
const BATCH_BYTES_MAX: u32 = 16 << 20;

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

/// Most that clocks may differ: a token that has expired is worth something for so long.
const LEEWAY_MAX: Duration = Duration::from_secs(300);
/// Least time between two looks at the files.
const RELOAD_MIN: Duration = Duration::from_millis(100);

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
        faults.push("reload_interval must be at least 100ms".into());
    }
}

fn most(config: &Config, faults: &mut Vec<String>) {
    let durations = [
        ("drain_delay", config.drain_delay),
        ("drain_timeout", config.drain_timeout),
        ("stream_age_max", config.stream_age_max),
        ("reload_interval", config.reload_interval),
        ("storage.request_id_window", config.storage.request_id_window),
    ];
    let long = durations.iter().filter(|(_, value)| *value > DURATION_MAX);
    faults.extend(long.map(|(key, _)| format!("{key} must be at most 24h")));
    if config.batch_bytes_max > BATCH_BYTES_MAX {
        let most = format_size(BATCH_BYTES_MAX.into());
        faults.push(format!("batch_bytes_max must be at most {most}, what the log takes"));
    }
    if config.connections_max > Semaphore::MAX_PERMITS {
        faults.push(format!("connections_max must be at most {}", Semaphore::MAX_PERMITS));
    }
}

fn zeros(config: &Config, faults: &mut Vec<String>) {
    let storage = &config.storage;
    let limits = [
        ("topics_max", config.topics_max as u64),
        ("batch_records_max", config.batch_records_max.into()),
        ("batch_bytes_max", config.batch_bytes_max.into()),
        ("message_bytes_max", config.message_bytes_max as u64),
        ("window_max", config.window_max.into()),
        ("inflight_bytes_max", config.inflight_bytes_max as u64),
        ("connections_max", config.connections_max as u64),
        ("streams_per_connection_max", config.streams_per_connection_max.into()),
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

/// Whether the second bind would fail: same port, and one address covers the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::faults;
    use crate::config::Config;
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
