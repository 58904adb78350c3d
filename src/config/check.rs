//! The rules that settings keep among each other. Every broken rule is reported, not only the first.

use std::net::SocketAddr;
use std::time::Duration;

use super::human::format_size;
use super::settings::{Config, Http2Config, TlsConfig};
use super::types::ClientAuth;
use super::web::HttpListen;
use super::{memory, nats};

/// Room that a gRPC message needs besides the records of a batch: names, keys, trace context.
const MESSAGE_OVERHEAD: u64 = 4096;

/// Lists everything that is wrong with a configuration, one line each.
#[must_use]
pub fn errors(config: &Config) -> Vec<String> {
    let mut errors = Vec::new();
    sizes(config, &mut errors);
    if overlap(config.listen, config.admin_listen) {
        let (grpc, admin) = (config.listen, config.admin_listen);
        errors.push(format!("listen {grpc} and admin_listen {admin} are the same port"));
    }
    // Where another has its default address, the HTTP listener gives way.
    if let Some(http) = config.http.listen.address().filter(|_| config.http.listen != HttpListen::default()) {
        for (key, address) in [("listen", config.listen), ("admin_listen", config.admin_listen)] {
            if overlap(http, address) {
                errors.push(format!("http.listen {http} and {key} {address} are the same port"));
            }
        }
    }
    drain(config, &mut errors);
    http2(&config.http2, &mut errors);
    ages(config, &mut errors);
    errors.extend(memory::error(config));
    tls(&config.tls, &mut errors);
    nats::check(config, &mut errors);
    identities(config, &mut errors);
    errors
}

/// Checks that the drain delay, which is part of the timeout, leaves a quarter of it to tell clients, and
/// the time to close the log.
fn drain(config: &Config, errors: &mut Vec<String>) {
    let (delay, timeout, longest) = (config.drain_delay, config.drain_timeout, config.drain_delay_max());
    if delay > longest {
        errors.push(format!(
            "drain_delay {delay:?} must be at most {longest:?}, so that drain_timeout {timeout:?}, which it is \
             a part of, leaves time to tell clients and to close the log"
        ));
    }
}

fn tls(tls: &TlsConfig, errors: &mut Vec<String>) {
    match (&tls.cert, &tls.key) {
        (Some(_), None) => errors.push("tls.cert needs tls.key, the file of its private key".into()),
        (None, Some(_)) => errors.push("tls.key needs tls.cert, the file of its certificate".into()),
        (None, None) if tls.client_ca.is_some() => {
            errors.push("tls.client_ca needs tls.cert and tls.key: without them there is no TLS".into());
        }
        _ => {}
    }
    let asked = tls.client_auth.filter(|auth| *auth != ClientAuth::None);
    if asked.is_some() && tls.client_ca.is_none() {
        errors.push("tls.client_auth needs tls.client_ca, the CAs that client certificates come from".into());
    }
}

/// Checks that identities are configured completely: a half of them would admit the wrong callers, or nobody.
fn identities(config: &Config, errors: &mut Vec<String>) {
    if config.has_identities() && config.auth_policy.is_none() {
        errors.push(
            "identities without auth_policy: nobody may do anything that no rule allows; write a policy \
             (docs/security.md has the smallest)"
                .into(),
        );
    }
    let of_jwt =
        [("auth_jwt_issuer", &config.auth_jwt_issuer), ("auth_jwt_audience", &config.auth_jwt_audience)];
    for (key, value) in of_jwt {
        match (&config.auth_jwks, value) {
            (Some(_), None) => errors.push(format!(
                "auth_jwks needs {key}: a token that was meant for somebody else must not be accepted"
            )),
            (None, Some(_)) => errors.push(format!("{key} does nothing without auth_jwks")),
            _ => {}
        }
    }
}

fn sizes(config: &Config, errors: &mut Vec<String>) {
    let batch = u64::from(config.batch_bytes_max);
    let (message, journal) = (config.message_bytes_max as u64, config.storage.journal_bytes);
    let at_least = [
        ("message_bytes_max", message, "batch_bytes_max + 4KiB", batch + MESSAGE_OVERHEAD),
        ("inflight_bytes_max", config.inflight_bytes_max as u64, "batch_bytes_max", batch),
        ("delivery_bytes_max", config.delivery_bytes_max as u64, "16MiB, room for some readers", 16 << 20),
        (
            "connection_inflight_bytes_max",
            config.connection_inflight_bytes_max as u64,
            "message_bytes_max",
            message,
        ),
        ("storage.journal_bytes", journal, "batch_bytes_max", batch),
        ("storage.segment_bytes", config.storage.segment_bytes, "batch_bytes_max", batch),
        (
            "storage.unflushed_bytes_max",
            config.storage.unflushed_bytes_max as u64,
            "storage.journal_bytes",
            journal,
        ),
    ];
    for (key, value, than, least) in at_least {
        if value < least {
            let (value, least) = (format_size(value), format_size(least));
            errors.push(format!("{key} {value} must be at least {than}, {least}"));
        }
    }
}

fn http2(http2: &Http2Config, errors: &mut Vec<String>) {
    let Http2Config { keepalive_interval: interval, keepalive_timeout: timeout, .. } = http2;
    if timeout > interval {
        errors.push(format!(
            "http2.keepalive_timeout {timeout:?} must be at most http2.keepalive_interval, {interval:?}: a peer \
             is asked again only once it has answered"
        ));
    }
    let (stream, connection) = (http2.stream_window_bytes, http2.connection_window_bytes);
    if stream > connection {
        let (stream, connection) = (format_size(stream.into()), format_size(connection.into()));
        errors.push(format!(
            "http2.stream_window_bytes {stream} must be at most http2.connection_window_bytes, {connection}: one \
             call would starve the others"
        ));
    }
}

fn ages(config: &Config, errors: &mut Vec<String>) {
    let (age, stream) = (config.connection_age_max, config.stream_age_max);
    let longest = age.saturating_add(config.connection_age_grace);
    if age > Duration::ZERO && stream > longest {
        errors.push(format!(
            "stream_age_max {stream:?} can never be reached: connection_age_max and connection_age_grace end a \
             connection at {longest:?}"
        ));
    }
}

/// Tells whether the second bind would fail: same port, and one address covers the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
