//! Spans and trace contexts of the server. Spans of a batch are created after the fact, and only where it is
//! sampled, so that all others cost the test of a flag.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, Span, SpanContext, SpanKind, SpanRef, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, ContextGuard, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use super::calls::{CODES, Method};
use super::metrics::{METRICS, Signal};
use super::names as n;

/// Maximum spans of batches in one second, of all calls together: a sampled stream must not cost more than
/// telemetry may.
const SPANS_PER_SECOND_MAX: u64 = 2_000;

/// gRPC's status of a call that its client gave up.
const CANCELLED: usize = 1;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static PROPAGATION_OFF: OnceLock<()> = OnceLock::new();

/// Has spans created from now on.
pub(super) fn install(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// Has callers' contexts ignored.
pub(super) fn ignore_callers() {
    let _ = PROPAGATION_OFF.set(());
}

/// Returns the tracer, where spans are created.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Reads a caller's context.
pub(super) fn from_traceparent(text: &str) -> Context {
    extract(&Traceparent(text))
}

/// Sets the status of a call on its span.
pub(super) fn set_status(span: &SpanRef<'_>, code: usize, reason: Option<&str>) {
    let name = CODES.get(code).copied().unwrap_or("UNKNOWN");
    span.set_attribute(KeyValue::new(n::RPC_STATUS, name));
    if code != 0 {
        span.set_attribute(KeyValue::new(n::ERROR_TYPE, name));
        span.set_status(Status::error(reason.unwrap_or(name).to_owned()));
    }
    if let Some(reason) = reason {
        span.set_attribute(KeyValue::new(n::ERROR_REASON, reason.to_owned()));
    }
}

/// Tells whether spans are created at all.
#[must_use]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Tells whether one more span may be created now.
fn allowed() -> bool {
    /// The second in the upper half, its number of spans in the lower.
    static WINDOW: AtomicU64 = AtomicU64::new(0);
    let second = super::readers::unix_micros() / 1_000_000;
    let before = WINDOW.load(Relaxed);
    let made = if before >> 32 == second & 0xffff_ffff { before & 0xffff_ffff } else { 0 };
    if made >= SPANS_PER_SECOND_MAX {
        METRICS.signal(Signal::Traces).rate_limited.inc();
        return false;
    }
    // A race allows a few more, as this is a bound and not a count.
    WINDOW.store((second << 32) | (made + 1), Relaxed);
    true
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Traceparent<'a>(&'a str);

impl Extractor for Traceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

fn extract(from: &dyn Extractor) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), from)
}

/// Tells whether a W3C traceparent asks for spans.
#[must_use]
pub fn is_sampled(traceparent: &str) -> bool {
    traceparent
        .as_bytes()
        .last()
        .is_some_and(|digit| matches!(digit, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f'))
}

/// Trace context of one call or request; none where neither the caller nor this server traces.
#[derive(Clone, Debug, Default)]
pub struct Call(Option<Context>);

impl Call {
    /// Begins the span of a call, as a child of the caller's.
    #[must_use]
    pub fn begin(method: Method, headers: &HeaderMap, peer: Option<SocketAddr>) -> Self {
        let attributes =
            || vec![KeyValue::new(n::RPC_SYSTEM, "grpc"), KeyValue::new(n::RPC_METHOD, method.name())];
        Self::begin_named(|| method.name().into(), attributes, headers, peer)
    }

    /// Begins a span of this name, as a child of the caller's.
    pub(super) fn begin_named(
        name: impl FnOnce() -> Cow<'static, str>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Self {
        let propagated = headers.contains_key("traceparent") && PROPAGATION_OFF.get().is_none();
        let Some(tracer) = TRACER.get() else {
            // Log lines carry the caller's trace id all the same.
            return Self(propagated.then(|| extract(&Headers(headers))).filter(Context::has_active_span));
        };
        let parent = if propagated { extract(&Headers(headers)) } else { Context::new() };
        let mut attributes = attributes();
        attributes.extend(peer.map(|peer| KeyValue::new(n::PEER, peer.ip().to_string())));
        let builder = tracer.span_builder(name()).with_kind(SpanKind::Server).with_attributes(attributes);
        Self(Some(parent.with_span(tracer.build_with_context(builder, &parent))))
    }

    /// The span; none where nobody traces.
    pub(super) fn span(&self) -> Option<SpanRef<'_>> {
        self.0.as_ref().map(TraceContextExt::span)
    }

    /// Makes it the current context of this thread, for log lines and spans inside.
    #[must_use]
    pub fn enter(&self) -> Option<ContextGuard> {
        self.0.clone().map(Context::attach)
    }

    /// Creates a span of no length inside: the call's own is exported only once it has ended, which may take
    /// days.
    pub fn opened(&self) {
        if let (Some(tracer), Some(context)) = (TRACER.get(), &self.0) {
            tracer.build_with_context(tracer.span_builder(n::SPAN_OPENED.name), context).end();
        }
    }

    /// Ends the span.
    pub fn end(&self, code: usize, reason: Option<&str>) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        if code == CANCELLED {
            // A client that no longer wants its stream is no failure of the server's call.
            span.set_attribute(KeyValue::new(n::RPC_STATUS, CODES[CANCELLED]));
        } else {
            set_status(&span, code, reason);
        }
        span.end();
    }
}

/// Returns the current call's context as a `traceparent`, where it is sampled.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    TRACER.get()?;
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_sampled().then(|| format!("00-{}-{}-01", span.trace_id(), span.span_id()))
    })
}

/// Returns the trace and span id of the current call, for log lines.
pub(super) fn current_ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        if !context.has_active_span() {
            return None;
        }
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
    })
}

/// Times of the steps of storing a commit.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Time of taking it from the queue.
    pub taken: Instant,
    /// Time of writing it; none where writing and syncing are done elsewhere.
    pub written: Option<Instant>,
    /// Time since when it is durable.
    pub durable: Instant,
}

impl Steps {
    /// Lists the spans of the steps, for a batch that arrived at `since`.
    fn spans(self, since: Instant) -> impl Iterator<Item = (n::SpanName, Instant, Instant)> {
        let Self { taken, written, durable } = self;
        let queue = (n::SPAN_QUEUE, since.min(taken), taken);
        let rest = match written {
            Some(written) => [Some((n::SPAN_WRITE, taken, written)), Some((n::SPAN_SYNC, written, durable))],
            None => [Some((n::SPAN_APPEND, taken, durable)), None],
        };
        [Some(queue)].into_iter().chain(rest).flatten()
    }
}

/// Sampled batch between its arrival and its acknowledgement.
#[derive(Debug)]
pub struct Publishing {
    parent: Context,
    call: Option<SpanContext>,
    records: u32,
    bytes: usize,
    since: Instant,
    /// Index among the batches handed over with it.
    pub index: usize,
}

impl Publishing {
    /// Begins the span of a batch that arrives now; none where it is not sampled.
    #[must_use]
    pub fn begin(traceparent: Option<&str>, records: u32, bytes: usize, index: usize) -> Option<Self> {
        TRACER.get()?;
        let own = traceparent.filter(|own| is_sampled(own));
        let current = Context::map_current(|context| context.span().span_context().clone());
        if (own.is_none() && !current.is_sampled()) || !allowed() {
            return None;
        }
        let of_batch = own.map(|own| extract(&Traceparent(own))).unwrap_or_default();
        let theirs = of_batch.span().span_context().clone();
        let same = !theirs.is_valid() || theirs.trace_id() == current.trace_id();
        let (parent, call) = if same && current.is_valid() {
            (Context::new().with_remote_span_context(current), None)
        } else {
            (of_batch, current.is_valid().then_some(current))
        };
        Some(Self { parent, call, records, bytes, since: Instant::now(), index })
    }

    /// Ends the span: the batch was acknowledged, or failed.
    pub fn end(self, topic: &str, outcome: Result<u64, (&'static str, String)>, steps: Option<Steps>) {
        let Some(tracer) = TRACER.get() else { return };
        let clock = Clock::new();
        let mut attributes = messaging("publish", "send", topic);
        attributes.push(KeyValue::new(n::MESSAGING_COUNT, i64::from(self.records)));
        attributes.push(KeyValue::new(n::MESSAGING_SIZE, self.bytes as i64));
        let links = self.call.map(|call| Link::new(call, Vec::new(), 0)).into_iter().collect();
        let builder = tracer
            .span_builder(format!("{} {topic}", n::SPAN_PUBLISH.name))
            .with_kind(SpanKind::Producer)
            .with_start_time(clock.at(self.since))
            .with_attributes(attributes)
            .with_links(links);
        let mut span = tracer.build_with_context(builder, &self.parent);
        match outcome {
            Ok(offset) => span.set_attribute(KeyValue::new(n::OFFSET, offset as i64)),
            Err((kind, error)) => {
                span.set_attribute(KeyValue::new(n::ERROR_TYPE, kind));
                span.set_status(Status::error(error));
            }
        }
        if let Some(steps) = steps {
            let inside = Context::new().with_remote_span_context(span.span_context().clone());
            for (name, from, to) in steps.spans(self.since) {
                let builder = tracer.span_builder(name.name).with_start_time(clock.at(from));
                tracer.build_with_context(builder, &inside).end_with_timestamp(clock.at(to));
            }
        }
        span.end_with_timestamp(clock.now);
    }
}

/// Creates the span of a sampled batch that is delivered to a subscriber: it is part of the producer's trace, and
/// links to both sides.
pub fn delivered(topic: &str, traceparent: &str, offset: u64, stored_us: u64) {
    consumed((n::SPAN_DELIVER, topic), traceparent, (offset, stored_us), Vec::new());
}

/// Creates the span of a sampled batch that is leased to a member of a group, with the number of this delivery.
pub fn leased(topic: &str, group: &str, delivery: u32, traceparent: &str, offset: u64, stored_us: u64) {
    let of_group = vec![
        KeyValue::new(n::MESSAGING_GROUP, group.to_owned()),
        KeyValue::new(n::DELIVERY, i64::from(delivery)),
    ];
    consumed((n::SPAN_LEASE, topic), traceparent, (offset, stored_us), of_group);
}

/// Creates the span of a batch that goes to a consumer: its name and topic, its offset, and when it was stored.
fn consumed(
    (name, topic): (n::SpanName, &str),
    traceparent: &str,
    (offset, stored_us): (u64, u64),
    more: Vec<KeyValue>,
) {
    let Some(tracer) = TRACER.get() else { return };
    if !is_sampled(traceparent) || !allowed() {
        return;
    }
    let parent = extract(&Traceparent(traceparent));
    let producer = parent.span().span_context().clone();
    let call = Context::map_current(|context| context.span().span_context().clone());
    let links = [producer, call].into_iter().filter(SpanContext::is_valid);
    let mut attributes = messaging(name.name, "receive", topic);
    attributes.push(KeyValue::new(n::OFFSET, offset as i64));
    attributes.extend(more);
    let (stored, now) = (SystemTime::UNIX_EPOCH + Duration::from_micros(stored_us), SystemTime::now());
    let builder = tracer
        .span_builder(format!("{} {topic}", name.name))
        .with_kind(SpanKind::Consumer)
        .with_start_time(stored.min(now))
        .with_attributes(attributes)
        .with_links(links.map(|context| Link::new(context, Vec::new(), 0)).collect());
    tracer.build_with_context(builder, &parent).end_with_timestamp(now);
}

fn messaging(operation: &'static str, kind: &'static str, topic: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new(n::MESSAGING_SYSTEM, "streamway"),
        KeyValue::new(n::MESSAGING_OPERATION, operation),
        KeyValue::new(n::MESSAGING_OPERATION_TYPE, kind),
        KeyValue::new(n::MESSAGING_DESTINATION, topic.to_owned()),
    ]
}

/// Converter of instants to wall-clock times.
struct Clock {
    now: SystemTime,
    instant: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { now: SystemTime::now(), instant: Instant::now() }
    }

    fn at(&self, then: Instant) -> SystemTime {
        self.now - self.instant.saturating_duration_since(then)
    }
}

#[cfg(test)]
mod tests {
    use super::is_sampled;

    #[test]
    fn the_sampled_flag_is_the_last_bit() {
        assert!(is_sampled("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(!is_sampled("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"));
        assert!(!is_sampled(""));
    }
}
