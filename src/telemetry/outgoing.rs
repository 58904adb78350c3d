//! Spans of the calls that this process makes: those of the client library, and those of the command line, whose
//! commands are spans themselves.

use http::Uri;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, ContextGuard, KeyValue};

use super::names as n;
use super::trace::{from_traceparent, tracer};

/// Trace context that a client's calls are part of: that of the code that created it.
#[derive(Clone, Debug)]
pub struct ParentContext(Context);

impl ParentContext {
    /// Returns the context of this thread.
    #[must_use]
    pub fn current() -> Self {
        Self(Context::current())
    }
}

/// Span of one command of the command line.
#[derive(Debug)]
pub struct Command(Context);

/// Trace of a command that has no parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoParent {
    /// Starts a trace of its own, which servers are asked to sample.
    NewTrace,
    /// Has no trace.
    NoTrace,
}

impl Command {
    /// Begins a command as a child of `traceparent`, or by `no_parent` where there is none. Its calls carry the
    /// trace even where spans are not exported.
    #[must_use]
    pub fn begin(name: &'static str, traceparent: Option<&str>, no_parent: NoParent) -> Self {
        let parent = traceparent.map(from_traceparent).unwrap_or_default();
        if let Some(tracer) = tracer() {
            let builder = tracer.span_builder(format!("{} {name}", n::SPAN_COMMAND.name));
            return Self(parent.with_span(tracer.build_with_context(builder, &parent)));
        }
        if parent.has_active_span() || no_parent == NoParent::NoTrace {
            return Self(parent);
        }
        let (trace, span) = (TraceId::from(fastrand::u128(1..)), SpanId::from(fastrand::u64(1..)));
        let own = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
        Self(parent.with_remote_span_context(own))
    }

    /// Makes it the current context of this thread.
    #[must_use]
    pub fn enter(&self) -> ContextGuard {
        self.0.clone().attach()
    }

    /// Returns its trace id.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        let span = self.0.span();
        let context = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        end(&self.0);
    }
}

/// Ends a span that was made here.
fn end(context: &Context) {
    if tracer().is_some() {
        context.span().end();
    }
}

/// Span of one call to a server, which ends when this is dropped.
#[derive(Debug)]
pub struct Outgoing(Option<Context>);

impl Outgoing {
    /// Begins a call of `package.Service/Method` to the server at this URL.
    #[must_use]
    pub fn begin(origin: &ParentContext, method: &'static str, url: &str, topic: Option<&str>) -> Self {
        let parent = &origin.0;
        let Some(tracer) = tracer() else {
            return Self(Some(parent.clone()).filter(Context::has_active_span));
        };
        let mut attributes = vec![KeyValue::new(n::RPC_SYSTEM, "grpc"), KeyValue::new(n::RPC_METHOD, method)];
        attributes.extend(topic.map(|topic| KeyValue::new(n::MESSAGING_DESTINATION, topic.to_owned())));
        if let Ok(url) = url.parse::<Uri>() {
            attributes.extend(url.host().map(|host| KeyValue::new(n::SERVER_ADDRESS, host.to_owned())));
            attributes.extend(url.port_u16().map(|port| KeyValue::new(n::SERVER_PORT, i64::from(port))));
        }
        let builder = tracer.span_builder(method).with_kind(SpanKind::Client).with_attributes(attributes);
        Self(Some(parent.with_span(tracer.build_with_context(builder, parent))))
    }

    /// Returns the W3C `traceparent` to send to the server.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let span = self.0.as_ref()?.span();
        let context = span.span_context();
        context.is_valid().then(|| {
            let flags = context.trace_flags() & TraceFlags::SAMPLED;
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8())
        })
    }

    /// Marks it as failed, with this gRPC status and `ErrorInfo.reason`.
    pub fn fail(&self, code: usize, reason: Option<&str>) {
        let (Some(context), Some(_)) = (&self.0, tracer()) else { return };
        super::trace::set_status(&context.span(), code, reason);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            end(context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, NoParent, Outgoing, ParentContext};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn sent(command: &Command) -> Option<String> {
        let _inside = command.enter();
        Outgoing::begin(&ParentContext::current(), "a.B/C", "http://x:1", None).traceparent()
    }

    #[test]
    fn calls_carry_the_given_trace_and_none_that_was_not_asked_for() {
        assert_eq!(
            sent(&Command::begin("publish", Some(PARENT), NoParent::NewTrace)).as_deref(),
            Some(PARENT)
        );
        assert_eq!(sent(&Command::begin("publish", None, NoParent::NoTrace)), None);
        assert_eq!(sent(&Command::begin("publish", Some("rubbish"), NoParent::NoTrace)), None);
        let own = Command::begin("publish", None, NoParent::NewTrace);
        let (trace, sent) = (own.trace_id().unwrap(), sent(&own).unwrap());
        assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-01"), "{sent}");
    }
}
