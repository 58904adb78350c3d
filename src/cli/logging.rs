//! Set-up of logging to standard error. Standard output is for records.

use std::io::IsTerminal;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{AuditLog, Config, LogFormat, LogLevel};
use crate::telemetry::logs::{self, WithTrace};
use crate::telemetry::{Exporters, audit};

/// Debug lines of this crate. Those of libraries are for [`TRACE`].
const DEBUG: &str = "info,streamway=debug";
const TRACE: &str = "debug,streamway=trace";

/// The filter of RUST_LOG if it is set, else this one.
fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}

/// The filter of the server. The audit log passes whatever the level is, unless RUST_LOG names it: only its own setting
/// turns it off.
fn server_filter(default: &str) -> EnvFilter {
    let named = std::env::var(EnvFilter::DEFAULT_ENV).is_ok_and(|filter| filter.contains(audit::TARGET));
    let directive = format!("{}=info", audit::TARGET).parse().ok().filter(|_| !named);
    directive.into_iter().fold(filter(default), EnvFilter::add_directive)
}

/// Returns true if lines may have colours: on a terminal, unless NO_COLOR is set (https://no-color.org).
fn has_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Logging of the server, by its settings; -v and -vv lower the level.
pub(super) fn for_server(verbose: u8, config: &Config, exporters: &Exporters) {
    let set = match config.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => DEBUG,
        LogLevel::Trace => TRACE,
    };
    let level = match (verbose, config.log_level) {
        (0, _) | (1, LogLevel::Trace) => set,
        (1, _) => DEBUG,
        _ => TRACE,
    };
    let is_text = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(is_text && has_colours());
    let lines = if is_text {
        lines.map_event_format(WithTrace).with_filter(server_filter(level)).boxed()
    } else {
        lines.json().flatten_event(true).map_event_format(WithTrace).with_filter(server_filter(level)).boxed()
    };
    let audited = config.audit_log;
    let exports = move |target: &str| audited == AuditLog::All || target != audit::TARGET;
    let exported = exporters.logs().map(|provider| {
        logs::exported(provider, server_filter(level))
            .with_filter(filter_fn(move |line| exports(line.target())))
    });
    // This fails only if a subscriber is set already, which is used then.
    let _ = tracing_subscriber::registry().with(lines).with(exported).try_init();
    logs::count_panics();
}

/// Logging of the other commands: short lines, and only warnings without -v. Debug lines of libraries need -vv, as with
/// the server.
pub(super) fn for_client(verbose: u8, exporters: Option<&Exporters>) {
    let level = match verbose {
        0 => "warn",
        1 => DEBUG,
        _ => TRACE,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // They are printed with eprintln!, which panics if standard error is closed.
        .log_internal_errors(false)
        .with_ansi(has_colours())
        .with_target(verbose > 1)
        .with_timer(WallClock)
        .with_filter(filter(level));
    let exported =
        exporters.and_then(Exporters::logs).map(|provider| logs::exported(provider, filter(level)));
    let _ = tracing_subscriber::registry().with(lines).with(exported).try_init();
}

/// UTC time in seconds, which can be compared with the server's log.
struct WallClock;

impl FormatTime for WallClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_seconds(std::time::SystemTime::now()))
    }
}
