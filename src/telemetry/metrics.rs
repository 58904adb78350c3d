//! The one registry of this process. Parts count into its fields; `collect` reads them for both
//! `/metrics` and OTLP, so that the two never differ.
//! Never: a lock or a look-up where records pass.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::metric::{Counter, Gauge, Histogram, LocalHistogram};
use super::names::{COUNTS, DURATIONS, SIZES};
use super::readers::Readers;
use super::topics::{Topic, Topics};

/// What this process counts.
pub static METRICS: Metrics = Metrics::new();

/// See [`METRICS`].
#[derive(Debug)]
pub struct Metrics {
    /// Calls of the gRPC port.
    pub calls: Calls,
    /// Connections of the gRPC port.
    pub connections: Connections,
    /// Connections of the admin port.
    pub admin_connections: Connections,
    /// What is counted by topic.
    pub topics: Topics,
    /// How many topics there are.
    pub topics_count: Gauge,
    /// Publishing.
    pub publish: Publish,
    /// Open subscriptions.
    pub readers: Readers,
    /// The storage.
    pub storage: Storage,
    /// Where in its life the server is.
    pub life: Life,
    /// When the served certificate expires, in Unix seconds; 0 without TLS.
    pub tls_expiry: Gauge,
    /// Calls refused for want of an identity or a permission.
    pub auth_denials: [Counter; DENIALS.len()],
    /// Panics.
    pub panics: Counter,
    /// Tasks that have not ended.
    pub tasks: Gauge,
    /// What became of telemetry itself.
    pub signals: [Export; SIGNALS.len()],
    refresh: Refresh,
}

/// Why a call was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has no identity, or one that is not valid.
    Unauthenticated,
    /// Its identity may not do this.
    PermissionDenied,
}

/// As labels name them.
pub const DENIALS: [&str; 2] = ["unauthenticated", "permission_denied"];

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metric points.
    Metrics,
    /// Log lines.
    Logs,
}

/// As labels name them.
pub const SIGNALS: [&str; 3] = ["traces", "metrics", "logs"];

/// What became of the items of one signal.
#[derive(Debug)]
pub struct Export {
    /// Taken by a collector.
    pub exported: Counter,
    /// No room in the queue.
    pub queue_full: Counter,
    /// Not taken: the collector is away, slow, or refuses.
    pub refused: Counter,
    /// Not even made, so that spans cost a bounded amount.
    pub rate_limited: Counter,
}

/// Connections of one port.
#[derive(Debug)]
pub struct Connections {
    /// Open now.
    pub active: Gauge,
    /// Accepted.
    pub accepted: Counter,
    /// Closed at once, as there were too many.
    pub over_cap: Counter,
    /// Never said that they speak HTTP/2, or not in time; or failed the TLS handshake.
    pub no_preface: Counter,
    /// The system gave none.
    pub system: Counter,
}

/// Publishing, all topics together.
#[derive(Debug)]
pub struct Publish {
    /// Batches not stored again.
    pub duplicates: Counter,
    /// Batches that failed.
    pub failed: Counter,
    /// Records in a batch.
    pub batch_records: Histogram,
    /// Bytes in a batch.
    pub batch_bytes: Histogram,
    /// From hand-over to acknowledgement.
    pub ack: Histogram,
    /// Bytes in flight.
    pub inflight: Gauge,
}

/// The storage.
#[derive(Debug)]
pub struct Storage {
    /// Batches in a group.
    pub group_batches: Histogram,
    /// Bytes of a group.
    pub group_bytes: Histogram,
    /// Writing a group.
    pub write: Histogram,
    /// Syncing it.
    pub sync: Histogram,
    /// What waits for the committer.
    pub queue: Gauge,
    /// Bytes in no segment yet.
    pub unflushed: Gauge,
    /// Moving a journal into segments.
    pub checkpoint: Histogram,
    /// Opening the log, in microseconds.
    pub recovery_us: Gauge,
    /// Records that retention asked to be forgotten.
    pub retention_records: Counter,
    /// 1 once it failed.
    pub failed: Gauge,
    /// Bytes free on the disk.
    pub disk_free: Gauge,
    /// Bytes of the disk.
    pub disk_size: Gauge,
}

/// Where in its life the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Ports are bound, the log recovers.
    Starting,
    /// All is well.
    Serving,
    /// Readiness is off, calls are served.
    Draining,
    /// Connections and calls are told to go.
    LameDuck,
    /// What is left is cut off.
    Aborting,
    /// The log closes.
    Closing,
}

/// As labels name them.
pub const STATES: [&str; 6] = ["starting", "serving", "draining", "lame_duck", "aborting", "closing"];

/// Where in its life the server is, and since when it drains.
#[derive(Debug)]
pub struct Life {
    state: AtomicUsize,
    /// Microseconds since the epoch when the shutdown began; 0 before.
    drain_started: AtomicU64,
    /// 1 while health says SERVING.
    pub ready: Gauge,
}

impl Life {
    /// The server is here now.
    pub fn enter(&self, state: State) {
        self.state.store(state as usize, Relaxed);
        if state == State::Draining {
            self.drain_started.store(super::readers::unix_micros(), Relaxed);
        }
    }

    pub(super) fn state(&self) -> usize {
        self.state.load(Relaxed)
    }

    pub(super) fn draining_for(&self) -> Duration {
        match self.drain_started.load(Relaxed) {
            0 => Duration::ZERO,
            begun => Duration::from_micros(super::readers::unix_micros().saturating_sub(begun)),
        }
    }
}

/// Sets what is only known when somebody asks.
type Refreshing = Box<dyn Fn() + Send + Sync>;

struct Refresh(Mutex<Option<Refreshing>>);

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refresh")
    }
}

impl Metrics {
    const fn new() -> Self {
        Self {
            calls: Calls::new(),
            connections: Connections::new(),
            admin_connections: Connections::new(),
            topics: Topics::new(),
            topics_count: Gauge::new(),
            publish: Publish {
                duplicates: Counter::new(),
                failed: Counter::new(),
                batch_records: Histogram::new(&COUNTS),
                batch_bytes: Histogram::new(&SIZES),
                ack: Histogram::new(&DURATIONS),
                inflight: Gauge::new(),
            },
            readers: Readers::new(),
            storage: Storage {
                group_batches: Histogram::new(&COUNTS),
                group_bytes: Histogram::new(&SIZES),
                write: Histogram::new(&DURATIONS),
                sync: Histogram::new(&DURATIONS),
                queue: Gauge::new(),
                unflushed: Gauge::new(),
                checkpoint: Histogram::new(&DURATIONS),
                recovery_us: Gauge::new(),
                retention_records: Counter::new(),
                failed: Gauge::new(),
                disk_free: Gauge::new(),
                disk_size: Gauge::new(),
            },
            life: Life { state: AtomicUsize::new(0), drain_started: AtomicU64::new(0), ready: Gauge::new() },
            tls_expiry: Gauge::new(),
            auth_denials: [const { Counter::new() }; DENIALS.len()],
            panics: Counter::new(),
            tasks: Gauge::new(),
            signals: [const { Export::new() }; SIGNALS.len()],
            refresh: Refresh(Mutex::new(None)),
        }
    }

    /// The counts of one signal.
    #[must_use]
    pub fn signal(&self, signal: Signal) -> &Export {
        &self.signals[signal as usize]
    }

    /// A call was denied.
    pub fn denied(&self, why: Denial) {
        self.auth_denials[why as usize].inc();
    }

    /// Called before every collection, to set what is only known when somebody asks. The last one
    /// given counts.
    pub fn before_collecting(&self, refresh: impl Fn() + Send + Sync + 'static) {
        *self.refresh.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(refresh));
    }

    pub(super) fn refresh(&self) {
        if let Some(refresh) = &*self.refresh.0.lock().unwrap_or_else(PoisonError::into_inner) {
            refresh();
        }
    }
}

impl Connections {
    const fn new() -> Self {
        Self {
            active: Gauge::new(),
            accepted: Counter::new(),
            over_cap: Counter::new(),
            no_preface: Counter::new(),
            system: Counter::new(),
        }
    }
}

impl Export {
    const fn new() -> Self {
        Self {
            exported: Counter::new(),
            queue_full: Counter::new(),
            refused: Counter::new(),
            rate_limited: Counter::new(),
        }
    }
}

/// The sizes of batches of one call, given to [`METRICS`] in one piece.
#[derive(Debug)]
pub struct Batches {
    records: LocalHistogram,
    bytes: LocalHistogram,
    total: BatchTotals,
}

/// What was handed to the storage in one piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchTotals {
    /// How many batches.
    pub batches: u64,
    /// How many records.
    pub records: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            records: LocalHistogram::new(&COUNTS),
            bytes: LocalHistogram::new(&SIZES),
            total: BatchTotals::default(),
        }
    }
}

impl Batches {
    /// Takes a batch.
    pub fn take(&mut self, records: u64, bytes: u64) {
        self.records.record(records);
        self.bytes.record(bytes);
        self.total.batches += 1;
        self.total.records += records;
        self.total.bytes += bytes;
    }

    /// All taken so far are handed over; begins anew.
    pub fn hand_over(&mut self) -> BatchTotals {
        self.records.flush(&METRICS.publish.batch_records);
        self.bytes.flush(&METRICS.publish.batch_bytes);
        std::mem::take(&mut self.total)
    }
}

impl Publish {
    /// Batches of `handed` were stored; the others failed, or are in `duplicates`. Records and
    /// bytes are exact where all were stored, and shared out evenly where not.
    pub fn acknowledged(
        &self,
        topic: &Topic,
        handed: BatchTotals,
        stored: u64,
        duplicates: u64,
        since: Instant,
    ) {
        self.ack.record_time(since.elapsed());
        let share = |of: u64| if stored == handed.batches { of } else { of * stored / handed.batches.max(1) };
        topic.published_batches.add(stored);
        topic.published_records.add(share(handed.records));
        topic.published_bytes.add(share(handed.bytes));
        let failed = handed.batches.saturating_sub(stored + duplicates);
        if duplicates > 0 {
            self.duplicates.add(duplicates);
        }
        if failed > 0 {
            self.failed.add(failed);
        }
    }
}
