//! The result of a run, as a table and as JSON.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde_json::{Value, json};

use super::cpu::Used;
use super::listener::Web;
use super::run::{Counted, Plan, Run};

/// Percentiles that are reported, in addition to the maximum.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// The result of one run.
#[derive(Debug)]
pub(super) struct Report {
    plan: Plan,
    took: Duration,
    acknowledged: (u64, u64),
    delivered: (u64, u64),
    pub(super) acknowledging: Histogram<u64>,
    delivering: Histogram<u64>,
    missing: u64,
    repeated: u64,
    used: Used,
}

impl Report {
    /// The result of a run whose measurement took this time.
    pub(super) fn of(run: &Run, took: Duration, used: Used) -> Self {
        let both = |counted: &Counted| (counted.all(), counted.measured());
        Self {
            plan: run.plan.clone(),
            took,
            acknowledged: both(&run.acknowledged),
            delivered: both(&run.delivered),
            acknowledging: run.acknowledging.snapshot(),
            delivering: run.delivering.snapshot(),
            missing: run.missing.load(Ordering::Relaxed),
            repeated: run.repeated.load(Ordering::Relaxed),
            used,
        }
    }

    /// Acknowledged records per second in the measurement.
    pub(super) fn acknowledged_per_second(&self) -> f64 {
        self.per_second(self.acknowledged.1)
    }

    /// Returns true if everything acknowledged was delivered exactly once.
    pub(super) const fn is_whole(&self) -> bool {
        self.missing == 0 && self.repeated == 0
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Formats the result as a table.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, text: String| {
            let _ = writeln!(out, "{name:<18}{text}");
        };
        let rate = |count: u64| {
            let per_second = self.per_second(count);
            let megabytes = per_second * self.plan.size as f64 / 1e6;
            format!("{} records/s, {megabytes:.1} MB/s", HumanCount(per_second as u64))
        };
        for (name, (all, measured)) in [("acknowledged", self.acknowledged), ("delivered", self.delivered)] {
            if all > 0 {
                row(name, format!("{} ({} in total)", rate(measured), HumanCount(all)));
            }
        }
        for (name, histogram) in
            [("ack latency", &self.acknowledging), ("delivery latency", &self.delivering)]
        {
            if !histogram.is_empty() {
                row(name, latencies(histogram));
            }
        }
        let cores = |used: Duration| format!("{:.1} s", used.as_secs_f64());
        let client = self.used.client.map(|used| format!("client {}", cores(used)));
        let server = self.used.server.map(|used| format!("server {}", cores(used)));
        let cpu: Vec<String> = [client, server].into_iter().flatten().collect();
        row("processor", format!("{} in {:.1} s", cpu.join(", "), self.took.as_secs_f64()));
        row("verified", self.verdict());
        out
    }

    fn verdict(&self) -> String {
        match (self.is_whole(), self.is_verified()) {
            (false, _) => format!(
                "{} records MISSING, {} REPEATED",
                HumanCount(self.missing),
                HumanCount(self.repeated)
            ),
            (true, true) => "everything acknowledged was delivered once and in order".to_owned(),
            (true, false) => "no".to_owned(),
        }
    }

    const fn is_verified(&self) -> bool {
        self.plan.verify || self.plan.subscribers > 0
    }

    /// The result as JSON.
    pub(super) fn json(&self) -> Value {
        let plan = &self.plan;
        let counted = |(all, measured): (u64, u64)| json!({ "records": all, "measured": measured, "recordsPerSecond": self.per_second(measured) });
        let seconds = |used: Option<Duration>| used.map(|used| used.as_secs_f64());
        json!({
            "size": plan.size, "batch": plan.batch, "window": plan.window, "publishers": plan.publishers,
            "subscribers": plan.subscribers, "replayers": plan.replayers, "rate": plan.rate,
            "requestIds": plan.request_ids, "http": plan.web.as_ref().map(Web::form),
            "seconds": self.took.as_secs_f64(),
            "acknowledged": counted(self.acknowledged),
            "delivered": counted(self.delivered),
            "ackLatencySeconds": latencies_json(&self.acknowledging),
            "deliveryLatencySeconds": latencies_json(&self.delivering),
            "clientCpuSeconds": seconds(self.used.client),
            "serverCpuSeconds": seconds(self.used.server),
            "verified": self.is_verified(), "missing": self.missing, "repeated": self.repeated,
        })
    }
}

/// Formats nanoseconds with three digits and a suitable unit.
pub(super) fn short(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

fn latencies(histogram: &Histogram<u64>) -> String {
    let mut parts: Vec<String> = PERCENTILES
        .iter()
        .map(|(name, percentile)| format!("{name} {}", short(histogram.value_at_percentile(*percentile))))
        .collect();
    parts.push(format!("max {}", short(histogram.max())));
    parts.join("  ")
}

fn latencies_json(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut of: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, at)| ((*name).to_owned(), json!(seconds(histogram.value_at_percentile(*at)))))
        .collect();
    of.insert("max".to_owned(), json!(seconds(histogram.max())));
    of.insert("mean".to_owned(), json!(histogram.mean() / 1e9));
    Value::Object(of)
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn durations_have_three_digits() {
        for (nanos, text) in
            [(950, "0.95 us"), (12_340, "12.3 us"), (1_234_000, "1.23 ms"), (90_000_000_000, "90.0 s")]
        {
            assert_eq!(short(nanos), text);
        }
    }
}
