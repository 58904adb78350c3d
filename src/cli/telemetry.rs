//! Telemetry of client commands: log lines, and spans if an endpoint is set. A command runs without telemetry if that
//! cannot be set up.

use std::process::ExitCode;

use tracing::{info, warn};

use super::{Failure, logging};
use crate::telemetry::{Command, Exporters, NoParent, Settings};

/// The `OTEL_*` variables of this process.
pub(super) fn settings(service: &str) -> Result<Settings, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    Settings::read(service, std::env::vars_os().filter_map(text))
}

/// Runs a command as one span, which is the parent of its calls' spans. Spans that were not exported by its end are
/// exported then, within a second.
pub(super) fn traced(
    name: &'static str,
    verbose: u8,
    command: impl FnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let exporters =
        settings("streamway-cli").and_then(|settings| Exporters::start(&settings.without_metrics()));
    logging::for_client(verbose, exporters.as_ref().ok());
    if let Err(error) = &exporters {
        warn!(error, "no telemetry");
    }
    // Processes pass their trace on in this variable, in the form of the W3C header.
    let parent = std::env::var("TRACEPARENT").ok();
    let no_parent = if verbose > 0 { NoParent::NewTrace } else { NoParent::NoTrace };
    let span = Command::begin(name, parent.as_deref(), no_parent);
    let outcome = {
        let _inside = span.enter();
        if let Some(trace_id) = span.trace_id() {
            info!(trace_id, "calls carry this trace");
        }
        command()
    };
    drop(span);
    if let Ok(exporters) = exporters {
        exporters.flush();
    }
    outcome
}
