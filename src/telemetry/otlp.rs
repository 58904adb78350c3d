//! Export over OTLP/gRPC on a thread of its own: spans and log lines by OpenTelemetry's batch processors,
//! metrics by `push`. What a collector does not accept in time is dropped, and counted.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_otlp::{LogExporter, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, LogProcessor, SdkLogRecord, SdkLoggerProvider};
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::metrics::{Export, METRICS, Signal};
use super::settings::{Settings, Target};
use super::{push, trace as spans};
use crate::file;

/// Largest file of certificates: a bundle of every public CA has 300 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest time for which the end of the process waits for the export.
pub const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Running exporters. Dropping them does not flush; [`Exporters::flush`] does.
#[derive(Debug)]
pub struct Exporters {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<tokio::sync::oneshot::Sender<mpsc::Sender<()>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Exporters {
    /// Starts the export that the settings ask for, if any.
    ///
    /// # Errors
    /// An endpoint, a certificate or a header cannot be used.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let [traces, metrics, logs] =
            [Signal::Traces, Signal::Metrics, Signal::Logs].map(|signal| settings.target(signal));
        if !settings.propagate {
            spans::ignore_callers();
        }
        let mut exporters = Self { traces: None, logs: None, metrics: None, runtime: None };
        if traces.or(metrics).or(logs).is_none() {
            return Ok(exporters);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("streamway-otlp")
            .enable_all()
            .build()
            .map_err(|error| format!("OTLP: {error}"))?;
        let _inside = runtime.enter();
        if let Some(target) = traces {
            let exporter = SpanExporter::builder()
                .with_tonic()
                .with_channel(channel(target)?)
                .build()
                .map_err(|error| format!("OTLP traces: {error}"))?;
            let inner = BatchSpanProcessor::builder(Counted::new(exporter, Signal::Traces)).build();
            let provider = SdkTracerProvider::builder()
                .with_sampler(settings.sampler.clone())
                .with_resource(settings.resource.clone())
                .with_span_processor(BoundedQueue {
                    inner,
                    queue: queue(Signal::Traces),
                    max: settings.queues[0],
                })
                .build();
            spans::install(provider.tracer("streamway"));
            exporters.traces = Some(provider);
        }
        if let Some(target) = logs {
            let exporter = LogExporter::builder()
                .with_tonic()
                .with_channel(channel(target)?)
                .build()
                .map_err(|error| format!("OTLP logs: {error}"))?;
            let inner = BatchLogProcessor::builder(Counted::new(exporter, Signal::Logs)).build();
            let provider = SdkLoggerProvider::builder()
                .with_resource(settings.resource.clone())
                .with_log_processor(BoundedQueue {
                    inner,
                    queue: queue(Signal::Logs),
                    max: settings.queues[1],
                })
                .build();
            exporters.logs = Some(provider);
        }
        if let Some(target) = metrics {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let push =
                push::Push::new(channel(target)?, target, &settings.resource, settings.metrics_interval)?;
            runtime.spawn(push.run(stopped));
            exporters.metrics = Some(stop);
        }
        drop(_inside);
        exporters.runtime = Some(runtime);
        Ok(exporters)
    }

    /// Returns the provider that exports log lines, if they are exported.
    #[must_use]
    pub const fn logs(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref()
    }

    /// Sends what was not sent yet, for at most [`FLUSH_MAX`]. Blocks, so not for a worker that serves.
    pub fn flush(self) {
        let Self { traces, logs, metrics, runtime } = self;
        let (done, all) = mpsc::channel();
        let mut waits = Vec::new();
        if let Some(provider) = traces {
            let done = done.clone();
            waits.push(std::thread::spawn(move || {
                let _ = provider.shutdown_with_timeout(FLUSH_MAX);
                drop(done);
            }));
        }
        if let Some(provider) = logs {
            let done = done.clone();
            waits.push(std::thread::spawn(move || {
                let _ = provider.shutdown_with_timeout(FLUSH_MAX);
                drop(done);
            }));
        }
        if let Some(stop) = metrics {
            let _ = stop.send(done.clone());
        }
        drop(done);
        // Ends with an error once every sender is gone: all is sent.
        let _ = all.recv_timeout(FLUSH_MAX);
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

fn channel(target: &Target) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(target.endpoint.clone())
        .map_err(|_| format!("OTLP endpoint {:?} is not a URL", target.endpoint))?
        .connect_timeout(target.timeout)
        .timeout(target.timeout);
    if !target.endpoint.starts_with("https://") {
        return Ok(endpoint.connect_lazy());
    }
    let read = |path: &str| {
        file::read(Path::new(path), FILE_BYTES_MAX).map_err(|error| format!("OTLP: {path}: {error}"))
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &target.certificate {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &target.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(endpoint.tls_config(tls).map_err(|error| format!("OTLP TLS: {error}"))?.connect_lazy())
}

static QUEUES: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];

fn queue(signal: Signal) -> Arc<Queue> {
    Arc::new(Queue { waiting: &QUEUES[signal as usize], counts: METRICS.signal(signal) })
}

/// Number of items that wait in a batch processor, which does not say what it drops.
#[derive(Debug)]
struct Queue {
    waiting: &'static AtomicI64,
    counts: &'static Export,
}

/// Batch processor that gets only as many items as it has room for.
#[derive(Debug)]
struct BoundedQueue<P> {
    inner: P,
    queue: Arc<Queue>,
    max: usize,
}

impl<P> BoundedQueue<P> {
    fn enters(&self) -> bool {
        if self.queue.waiting.load(Relaxed) >= self.max as i64 {
            self.queue.counts.queue_full.inc();
            return false;
        }
        self.queue.waiting.fetch_add(1, Relaxed);
        true
    }
}

impl<P: SpanProcessor> SpanProcessor for BoundedQueue<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.enters() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: LogProcessor> LogProcessor for BoundedQueue<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.enters() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Exporter that counts the outcome of each item.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    queue: Arc<Queue>,
}

impl<E> Counted<E> {
    fn new(inner: E, signal: Signal) -> Self {
        Self { inner, queue: queue(signal) }
    }

    fn arrived(&self, items: usize) {
        self.queue.waiting.fetch_sub(items as i64, Relaxed);
    }

    fn ended(&self, items: usize, result: OTelSdkResult) -> OTelSdkResult {
        let counts = self.queue.counts;
        let counter = if result.is_ok() { &counts.exported } else { &counts.refused };
        counter.add(items as u64);
        result
    }
}

impl<E: trace::SpanExporter> trace::SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.len();
        self.arrived(items);
        let result = self.inner.export(batch).await;
        self.ended(items, result)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: logs::LogExporter> logs::LogExporter for Counted<E> {
    async fn export(&self, batch: logs::LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        self.arrived(items);
        let result = self.inner.export(batch).await;
        self.ended(items, result)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
