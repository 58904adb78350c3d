//! Log lines: the trace and span id on each, and their export over OTLP. Lines of libraries are not exported,
//! as they would tell of the export itself.

use std::fmt;

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::metrics::METRICS;
use super::trace::current_ids;

/// Format whose lines end with the ids of the call they belong to.
#[derive(Debug)]
pub struct WithTrace<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace, span)) = current_ids() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match line.strip_suffix('}').filter(|_| line.starts_with('{')) {
            Some(json) => writeln!(writer, "{json},\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}"),
            None => writeln!(writer, "{line} trace_id={trace} span_id={span}"),
        }
    }
}

/// Creates the layer that exports this server's own lines.
pub fn exported<S>(provider: &SdkLoggerProvider, filter: EnvFilter) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let own = filter_fn(|line| line.target().starts_with("streamway"));
    OpenTelemetryTracingBridge::new(provider).with_filter(own).with_filter(filter)
}

/// Counts panics, and leaves what is printed of them as it is.
pub fn count_panics() {
    let printed = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        METRICS.panics.inc();
        printed(panic);
    }));
}
