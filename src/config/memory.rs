//! The memory that the limits allow together, held against `memory_max`.

use super::human::format_size;
use super::settings::{Config, HANDED_OVER_BYTES_MAX};
use super::types::Engine;

/// Bytes of one open call besides the budgets: its task, its stream of HTTP/2, the headers that came with it as far as
/// they are not counted elsewhere, and the smallest frame that its peer may leave unread. An idle subscription takes
/// half of it.
const STREAM_BYTES: u64 = 24 << 10;

/// Bytes of a remembered `request_id` on JetStream: 180 each, and for a moment there are an eighth more than the limit.
const REQUEST_ID_BYTES: u64 = 203;
/// Adds up what the limits allow at once, and says why that is more than `memory_max`. The memory of the process itself
/// and of the system's sockets is not included.
pub(super) fn error(config: &Config) -> Option<String> {
    let (storage, inflight) = (&config.storage, config.inflight_bytes_max as u64);
    let (connections, window) = (config.connections_max as u64, config.http2.connection_window_bytes);
    let engine = match config.engine {
        Engine::Embedded => (storage.unflushed_bytes_max as u64, "storage.unflushed_bytes_max".to_owned()),
        Engine::JetStream => {
            let ids = storage.request_ids_max;
            let bytes =
                (ids as u64).saturating_mul(REQUEST_ID_BYTES).saturating_add(HANDED_OVER_BYTES_MAX as u64);
            let what = format!(
                "storage.request_ids_max {ids} × {REQUEST_ID_BYTES} + batches of other replicas 16MiB"
            );
            (bytes, what)
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
        return None;
    }
    let terms: Vec<String> =
        terms.iter().map(|(bytes, what)| format!("{} for {what}", format_size(*bytes))).collect();
    let (most, sum) = (format_size(config.memory_max), format_size(sum));
    Some(format!("memory_max {most} is less than the limits allow, {sum}: {}", terms.join(" + ")))
}

#[cfg(test)]
mod tests {
    use super::error;
    use crate::config::{Config, Engine};

    #[test]
    fn limits_that_add_up_to_too_much_memory_are_refused_term_by_term() {
        let mut config = Config { memory_max: 1536 << 20, connections_max: 32, ..Config::default() };
        config.streams_max = 10_000;
        assert_eq!(error(&config), None);
        config.connections_max = 64;
        let expected = "memory_max 1536MiB is less than the limits allow, 2009472KiB: 64MiB for storage.cache_bytes \
            + 192MiB for storage.unflushed_bytes_max \
            + 192MiB for 3 × inflight_bytes_max (admitted, waiting, partly received) \
            + 256MiB for delivery_bytes_max + 240000KiB for streams_max 10000 × 24KiB \
            + 1GiB for connections_max 64 × http2.connection_window_bytes 16MiB";
        assert_eq!(error(&config).as_deref(), Some(expected));
    }

    #[test]
    fn request_ids_on_jetstream_are_charged_to_the_memory() {
        let mut config = Config { memory_max: 1536 << 20, connections_max: 32, ..Config::default() };
        (config.streams_max, config.engine) = (10_000, Engine::JetStream);
        assert_eq!(error(&config), None);
        config.storage.request_ids_max = 10_000_000;
        let error = error(&config).unwrap();
        assert!(error.contains("for storage.request_ids_max 10000000 × 203"), "{error}");
    }
}
