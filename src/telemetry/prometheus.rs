//! The metrics in Prometheus's text format, with names and units translated by OpenTelemetry's compatibility
//! rules.

use std::fmt::Write;

use super::collect::{Family, Point, Value, collect};
use super::names::{Kind, Metric};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes all metrics with their values now.
#[must_use]
pub fn text() -> String {
    let mut out = String::with_capacity(32 << 10);
    for family in collect() {
        // Writing to a string cannot fail.
        let _ = put(&family, &mut out);
    }
    out
}

/// Translates a metric's name: dots become underscores, the unit is spelt out, counters end in `_total`, and a
/// gauge does not end in `_count`, which is a histogram's.
#[must_use]
pub fn name(metric: &Metric) -> String {
    let mut name = metric.name.replace('.', "_");
    if metric.kind == Kind::Gauge
        && let Some(counted) = name.strip_suffix("_count")
    {
        name = format!("{counted}s");
    }
    let unit = match metric.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        // Counts and flags have no unit, as in `build_info`.
        _ => "",
    };
    if !name.ends_with(unit) {
        name.push_str(unit);
    }
    if metric.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

fn put(family: &Family, out: &mut String) -> std::fmt::Result {
    let Family { metric, points } = family;
    let name = name(metric);
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help)?;
    for Point { labels, value } in points {
        match value {
            Value::Number(value) => {
                put_labels(out, &name, metric, labels, None)?;
                writeln!(out, " {value}")?;
            }
            Value::Histogram(snapshot) => {
                let mut total = 0;
                let bounds = snapshot.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(&snapshot.counts) {
                    total += count;
                    put_labels(out, &format!("{name}_bucket"), metric, labels, Some(&bound))?;
                    writeln!(out, " {total}")?;
                }
                put_labels(out, &format!("{name}_sum"), metric, labels, None)?;
                writeln!(out, " {}", snapshot.sum)?;
                put_labels(out, &format!("{name}_count"), metric, labels, None)?;
                writeln!(out, " {total}")?;
            }
        }
    }
    Ok(())
}

fn put_labels(
    out: &mut String,
    name: &str,
    metric: &Metric,
    labels: &[String],
    bound: Option<&str>,
) -> std::fmt::Result {
    out.push_str(name);
    let named = metric.labels.iter().zip(labels).map(|(key, value)| (key.replace('.', "_"), value.as_str()));
    let mut separator = '{';
    for (key, value) in named.chain(bound.map(|bound| ("le".to_owned(), bound))) {
        // Every value is a name of ours or a topic's, whose letters need no escaping.
        write!(out, "{separator}{key}=\"{value}\"")?;
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{name, put};
    use crate::telemetry::collect::{Family, Point, Value};
    use crate::telemetry::metric::HistogramSnapshot;
    use crate::telemetry::names;

    #[test]
    fn names_are_translated() {
        let translated = [
            names::CALL_DURATION,
            names::PUBLISH_BYTES,
            names::TOPIC_BYTES,
            names::PROCESS_CPU,
            names::BUILD_INFO,
        ]
        .map(|metric| name(&metric));
        assert_eq!(
            translated,
            [
                "rpc_server_call_duration_seconds",
                "streamway_publish_bytes_total",
                "streamway_topic_stored_bytes",
                "process_cpu_time_seconds_total",
                "streamway_build_info"
            ]
        );
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let snapshot = HistogramSnapshot { bounds: vec![0.5, 1.0], counts: vec![1, 2, 3], sum: 9.5 };
        let labels = vec!["a/B".to_owned(), "OK".to_owned()];
        let points = vec![Point { labels, value: Value::Histogram(snapshot) }];
        let mut out = String::new();
        put(&Family { metric: &names::CALL_DURATION, points }, &mut out).unwrap();
        let lines: Vec<&str> = out.lines().skip(1).collect();
        let of = |suffix: &str, le: &str, value: &str| {
            format!(
                "rpc_server_call_duration_seconds_{suffix}{{rpc_method=\"a/B\",rpc_response_status_code=\"OK\"{le}}} {value}"
            )
        };
        assert_eq!(
            lines,
            [
                "# TYPE rpc_server_call_duration_seconds histogram".to_owned(),
                of("bucket", ",le=\"0.5\"", "1"),
                of("bucket", ",le=\"1\"", "3"),
                of("bucket", ",le=\"+Inf\"", "6"),
                of("sum", "", "9.5"),
                of("count", "", "6"),
            ]
        );
    }
}
