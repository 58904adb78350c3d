//! The values of all metrics at one moment, for `/metrics` and OTLP.

use super::metric::HistogramSnapshot;
use super::metrics::{Connections, DENIALS, METRICS, SIGNALS, STATES};
use super::names::{self as n, Metric};
use super::process::Process;
use super::topics::Topic;

/// A metric and its points.
#[derive(Clone, Debug)]
pub struct Family {
    /// The metric.
    pub metric: &'static Metric,
    /// One point for each set of labels.
    pub points: Vec<Point>,
}

/// A value and its labels.
#[derive(Clone, Debug)]
pub struct Point {
    /// Values of the labels that the metric names, in its order.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// Value of a point.
#[derive(Clone, Debug)]
pub enum Value {
    /// Value of a counter or a gauge.
    Number(f64),
    /// Content of a histogram.
    Histogram(HistogramSnapshot),
}

/// Collects the values of all metrics now.
#[must_use]
pub fn collect() -> Vec<Family> {
    METRICS.refresh();
    let mut out = Collector(Vec::with_capacity(n::METRICS.len()));
    calls(&mut out);
    requests(&mut out);
    connections(&mut out);
    publish(&mut out);
    storage(&mut out);
    topics(&mut out);
    subscriptions(&mut out);
    groups(&mut out);
    life(&mut out);
    telemetry(&mut out);
    process(&mut out);
    out.0
}

struct Collector(Vec<Family>);

impl Collector {
    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let point = Point { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value };
        match self.0.last_mut() {
            Some(last) if last.metric == metric => last.points.push(point),
            _ => self.0.push(Family { metric, points: vec![point] }),
        }
    }

    fn number(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.add(metric, labels, Value::Number(value));
    }

    fn count(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.number(metric, labels, value as f64);
    }

    fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: i64) {
        self.number(metric, labels, value as f64);
    }

    fn histogram(&mut self, metric: &'static Metric, labels: &[&str], value: HistogramSnapshot) {
        self.add(metric, labels, Value::Histogram(value));
    }

    fn each_topic(
        &mut self,
        metric: &'static Metric,
        all: &[std::sync::Arc<Topic>],
        of: impl Fn(&Topic) -> f64,
    ) {
        for topic in all {
            self.number(metric, &[&topic.name], of(topic));
        }
    }
}

fn calls(out: &mut Collector) {
    for (streaming, metric) in [(false, &n::CALL_DURATION), (true, &n::STREAM_DURATION)] {
        for (method, code, histogram) in METRICS.calls.ended() {
            if method.is_streaming() == streaming {
                out.histogram(metric, &[method.name(), code], histogram.snapshot());
            }
        }
    }
    for (method, active) in METRICS.calls.active() {
        out.gauge(&n::CALLS_ACTIVE, &[method.name()], active.get());
    }
}

fn requests(out: &mut Collector) {
    for ((method, route, status), snapshot) in METRICS.requests.ended() {
        out.histogram(&n::REQUEST_DURATION, &[method, route, &status.to_string()], snapshot);
    }
    out.gauge(&n::REQUESTS_ACTIVE, &[], METRICS.requests.active.get());
}

fn connections(out: &mut Collector) {
    let ports = [
        ("grpc", &METRICS.connections),
        ("http", &METRICS.http_connections),
        ("admin", &METRICS.admin_connections),
    ];
    for (port, connections) in ports {
        out.gauge(&n::CONNECTIONS_ACTIVE, &[port], connections.active.get());
    }
    for (port, connections) in ports {
        out.count(&n::CONNECTIONS_ACCEPTED, &[port], connections.accepted.get());
    }
    for (port, Connections { over_cap, no_preface, system, .. }) in ports {
        for (reason, counter) in [("over_cap", over_cap), ("no_preface", no_preface), ("system", system)] {
            out.count(&n::CONNECTIONS_REFUSED, &[port, reason], counter.get());
        }
    }
}

fn publish(out: &mut Collector) {
    let (all, publish) = (METRICS.topics.all(), &METRICS.publish);
    out.each_topic(&n::PUBLISH_RECORDS, &all, |topic| topic.published_records.get() as f64);
    out.each_topic(&n::PUBLISH_BATCHES, &all, |topic| topic.published_batches.get() as f64);
    out.each_topic(&n::PUBLISH_BYTES, &all, |topic| topic.published_bytes.get() as f64);
    out.count(&n::PUBLISH_DUPLICATES, &[], publish.duplicates.get());
    out.count(&n::PUBLISH_FAILED, &[], publish.failed.get());
    out.histogram(&n::PUBLISH_BATCH_RECORDS, &[], publish.batch_records.snapshot());
    out.histogram(&n::PUBLISH_BATCH_BYTES, &[], publish.batch_bytes.snapshot());
    out.histogram(&n::PUBLISH_ACK_DURATION, &[], publish.ack.snapshot());
    out.gauge(&n::PUBLISH_INFLIGHT, &[], publish.inflight.get());
}

fn storage(out: &mut Collector) {
    let storage = &METRICS.storage;
    out.histogram(&n::GROUP_BATCHES, &[], storage.group_batches.snapshot());
    out.histogram(&n::GROUP_BYTES, &[], storage.group_bytes.snapshot());
    out.histogram(&n::WRITE_DURATION, &[], storage.write.snapshot());
    out.histogram(&n::SYNC_DURATION, &[], storage.sync.snapshot());
    out.gauge(&n::QUEUE_DEPTH, &[], storage.queue.get());
    out.gauge(&n::UNFLUSHED, &[], storage.unflushed.get());
    out.histogram(&n::CHECKPOINT_DURATION, &[], storage.checkpoint.snapshot());
    out.number(&n::RECOVERY_DURATION, &[], storage.recovery_us.get() as f64 / 1e6);
    out.count(&n::RETENTION_RECORDS, &[], storage.retention_records.get());
    out.gauge(&n::STORAGE_FAILED, &[], storage.failed.get());
    out.gauge(&n::DISK_FREE, &[], storage.disk_free.get());
    out.gauge(&n::DISK_SIZE, &[], storage.disk_size.get());
}

fn topics(out: &mut Collector) {
    let all = METRICS.topics.all();
    out.gauge(&n::TOPICS, &[], METRICS.topics_count.get());
    out.each_topic(&n::TOPIC_BYTES, &all, |topic| topic.stored_bytes.get() as f64);
    out.each_topic(&n::TOPIC_TAIL, &all, |topic| topic.tail.get() as f64);
    out.each_topic(&n::TOPIC_EARLIEST, &all, |topic| topic.earliest.get() as f64);
    out.each_topic(&n::DELIVERY_RECORDS, &all, |topic| topic.delivered_records.get() as f64);
    out.each_topic(&n::DELIVERY_BYTES, &all, |topic| topic.delivered_bytes.get() as f64);
    out.each_topic(&n::DELIVERY_MESSAGES, &all, |topic| topic.delivered_messages.get() as f64);
}

fn subscriptions(out: &mut Collector) {
    let (readers, summary) = (&METRICS.readers, METRICS.readers.summary());
    for (source, counter) in [("memory", &readers.memory), ("disk", &readers.disk)] {
        out.count(&n::READS, &[source], counter.get());
    }
    out.count(&n::SUBSCRIPTIONS, &[], summary.open);
    out.count(&n::SLOW_READERS, &[], summary.slow);
    out.count(&n::FALLBACKS, &[], readers.fallbacks.get());
    out.count(&n::HEARTBEATS, &[], readers.heartbeats.get());
    out.histogram(&n::LAG_RECORDS, &[], readers.lag_records.snapshot());
    out.histogram(&n::LAG_SECONDS, &[], readers.lag_time.snapshot());
    for (topic, lag) in &summary.worst {
        out.count(&n::LAG_RECORDS_WORST, &[topic], lag.records);
    }
    for (topic, lag) in &summary.worst {
        out.number(&n::LAG_SECONDS_WORST, &[topic], lag.time.as_secs_f64());
    }
}

fn groups(out: &mut Collector) {
    let (groups, worst) = (&METRICS.groups, METRICS.groups.worst());
    out.count(&n::GROUP_LEASED, &[], groups.leased.get());
    out.count(&n::GROUP_REDELIVERED, &[], groups.redelivered.get());
    out.count(&n::GROUP_SETTLED, &[], groups.settled.get());
    out.count(&n::GROUP_LOST, &[], groups.lost.get());
    out.count(&n::GROUP_REVOKED, &[], groups.revoked.get());
    out.count(&n::GROUP_DEAD_LETTERED, &[], groups.dead_lettered.get());
    out.gauge(&n::GROUP_MEMBERS, &[], groups.members.get());
    out.gauge(&n::GROUPS, &[], groups.count.get());
    for (topic, lag) in &worst {
        out.count(&n::GROUP_LAG_WORST, &[topic], lag.records);
    }
    for (topic, lag) in &worst {
        out.number(&n::GROUP_LAG_WORST_SECONDS, &[topic], lag.age.as_secs_f64());
    }
    for (topic, lag) in &worst {
        out.count(&n::GROUP_BLOCKED_KEYS_WORST, &[topic], lag.blocked_keys);
    }
    for (topic, lag) in &worst {
        out.count(&n::GROUP_STALLED, &[topic], lag.stalled);
    }
}

fn life(out: &mut Collector) {
    let (life, now) = (&METRICS.life, METRICS.life.state());
    for (index, state) in STATES.iter().enumerate() {
        out.count(&n::SERVER_STATE, &[state], u64::from(index == now));
    }
    out.gauge(&n::READY, &[], life.ready.get());
    out.number(&n::DRAIN_ELAPSED, &[], life.draining_for().as_secs_f64());
    if METRICS.tls_expiry.get() > 0 {
        out.gauge(&n::TLS_EXPIRY, &[], METRICS.tls_expiry.get());
    }
    for (reason, counter) in DENIALS.iter().zip(&METRICS.auth_denials) {
        out.count(&n::AUTH_DENIALS, &[reason], counter.get());
    }
    out.count(&n::AUDIT_RECORDS, &[], METRICS.audit.records.get());
    out.count(&n::AUDIT_DROPPED, &[], METRICS.audit.dropped.get());
    out.count(&n::PANICS, &[], METRICS.panics.get());
    out.gauge(&n::TASKS, &[], METRICS.tasks.get());
}

fn telemetry(out: &mut Collector) {
    for (signal, export) in SIGNALS.iter().zip(&METRICS.signals) {
        out.count(&n::EXPORTED, &[signal], export.exported.get());
    }
    for (signal, export) in SIGNALS.iter().zip(&METRICS.signals) {
        let reasons = [
            ("queue_full", &export.queue_full),
            ("refused", &export.refused),
            ("rate_limited", &export.rate_limited),
        ];
        for (reason, counter) in reasons {
            out.count(&n::DROPPED, &[signal, reason], counter.get());
        }
    }
    out.count(&n::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
}

fn process(out: &mut Collector) {
    let process = Process::read();
    let mut some = |metric, labels: &[&str], value: Option<f64>| {
        if let Some(value) = value {
            out.number(metric, labels, value);
        }
    };
    let number = |value: Option<u64>| value.map(|value| value as f64);
    some(&n::PROCESS_MEMORY, &[], number(process.memory));
    some(&n::PROCESS_CPU, &["user"], process.cpu_user);
    some(&n::PROCESS_CPU, &["system"], process.cpu_system);
    some(&n::PROCESS_FILES, &[], number(process.files));
    some(&n::PROCESS_FILES_MAX, &[], number(process.files_max));
    some(&n::PROCESS_THREADS, &[], number(process.threads));
    some(&n::PROCESS_UPTIME, &[], process.uptime.map(|uptime| uptime.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::collect;
    use crate::telemetry::METRICS;
    use crate::telemetry::calls::Method;
    use crate::telemetry::groups::GroupLag;
    use crate::telemetry::names::METRICS as NAMES;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn every_metric_that_has_a_name_is_collected_once() {
        for path in ["/streamway.v1.StreamService/Publish", "/streamway.v1.StreamService/Subscribe"] {
            let method = Method::of(path).unwrap();
            METRICS.calls.begin(method);
            METRICS.calls.end(method, 0, Duration::from_millis(1));
        }
        METRICS.requests.end("GET", "/", 200, Duration::from_millis(1));
        METRICS.tls_expiry.set(1);
        METRICS.topics.of("collected").published_batches.inc();
        let _reader = METRICS.readers.open(METRICS.topics.of("collected"), 0, || 0);
        METRICS.groups.update([("collected".into(), GroupLag::default())].into());
        let families = collect();
        let found: Vec<&str> = families.iter().map(|family| family.metric.name).collect();
        let wanted: BTreeSet<&str> = NAMES.iter().map(|metric| metric.name).collect();
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(found.len(), wanted.len(), "a family is collected in two pieces: {found:?}");
    }
}
