//! The one registry of this process. Parts count into its fields, without a lock or a look-up where records
//! pass; `collect` reads them for both `/metrics` and OTLP, so that the two never differ.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::groups::Groups;
use super::metric::{Counter, Gauge, Histogram, LocalHistogram};
use super::names::{COUNTS, DURATIONS, SIZES};
use super::readers::Readers;
use super::requests::Requests;
use super::topics::{Topic, Topics};

/// Metrics of this process.
pub static METRICS: Metrics = Metrics::new();

/// Type of [`METRICS`].
#[derive(Debug)]
pub struct Metrics {
    /// Calls of the gRPC port.
    pub calls: Calls,
    /// Requests of the HTTP listener.
    pub requests: Requests,
    /// Connections of the gRPC port.
    pub connections: Connections,
    /// Connections of the HTTP listener.
    pub http_connections: Connections,
    /// Connections of the admin port.
    pub admin_connections: Connections,
    /// Counts by topic.
    pub topics: Topics,
    /// Number of topics.
    pub topics_count: Gauge,
    /// Counts of publishing.
    pub publish: Publish,
    /// Open subscriptions.
    pub readers: Readers,
    /// Counts of groups.
    pub groups: Groups,
    /// Counts of the storage.
    pub storage: Storage,
    /// State of the server.
    pub life: Life,
    /// Expiry of the served certificate in Unix seconds; 0 without TLS.
    pub tls_expiry: Gauge,
    /// Calls refused for lack of an identity or a permission.
    pub auth_denials: [Counter; DENIALS.len()],
    /// Records of the audit log.
    pub audit: Audit,
    /// Panics.
    pub panics: Counter,
    /// Tasks that have not ended.
    pub tasks: Gauge,
    /// Outcome of the export of each signal.
    pub signals: [Export; SIGNALS.len()],
    refresh: Refresh,
}

/// Reason for denying a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The call has no valid identity.
    Unauthenticated,
    /// The identity may not do this.
    PermissionDenied,
}

/// Labels of [`Denial`].
pub const DENIALS: [&str; 2] = ["unauthenticated", "permission_denied"];

/// Signal that is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metric points.
    Metrics,
    /// Log lines.
    Logs,
}

/// Labels of [`Signal`].
pub const SIGNALS: [&str; 3] = ["traces", "metrics", "logs"];

/// Outcome of the export of one signal, in items.
#[derive(Debug)]
pub struct Export {
    /// Accepted by a collector.
    pub exported: Counter,
    /// Dropped, as the queue was full.
    pub queue_full: Counter,
    /// Not accepted: the collector is away, slow, or refuses.
    pub refused: Counter,
    /// Not even created, so that the cost of spans is bounded.
    pub rate_limited: Counter,
}

/// Records of the audit log.
#[derive(Debug)]
pub struct Audit {
    /// Written.
    pub records: Counter,
    /// Not written, as too many were waiting.
    pub dropped: Counter,
}

/// Connections of one port.
#[derive(Debug)]
pub struct Connections {
    /// Open now.
    pub active: Gauge,
    /// Accepted.
    pub accepted: Counter,
    /// Closed at once, as too many were open.
    pub over_cap: Counter,
    /// Closed for lack of an HTTP/2 preface in time, or a failed TLS handshake.
    pub no_preface: Counter,
    /// Failed in the system's accept.
    pub system: Counter,
}

/// Counts of publishing, all topics together.
#[derive(Debug)]
pub struct Publish {
    /// Batches that were stored before, and not stored again.
    pub duplicates: Counter,
    /// Batches that failed.
    pub failed: Counter,
    /// Records in a batch.
    pub batch_records: Histogram,
    /// Bytes in a batch.
    pub batch_bytes: Histogram,
    /// Time from hand-over to acknowledgement.
    pub ack: Histogram,
    /// Bytes in flight.
    pub inflight: Gauge,
}

/// Counts of the storage.
#[derive(Debug)]
pub struct Storage {
    /// Batches in a commit.
    pub group_batches: Histogram,
    /// Bytes of a commit.
    pub group_bytes: Histogram,
    /// Time of writing a commit.
    pub write: Histogram,
    /// Time of syncing it.
    pub sync: Histogram,
    /// Requests that wait for the committer.
    pub queue: Gauge,
    /// Bytes not in a segment yet.
    pub unflushed: Gauge,
    /// Time of moving a journal into segments.
    pub checkpoint: Histogram,
    /// Time of opening the log, in microseconds.
    pub recovery_us: Gauge,
    /// Records that retention removed.
    pub retention_records: Counter,
    /// 1 once it failed.
    pub failed: Gauge,
    /// Bytes free on the disk.
    pub disk_free: Gauge,
    /// Bytes of the disk.
    pub disk_size: Gauge,
}

/// State of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Ports are bound, the log recovers.
    Starting,
    /// The server serves.
    Serving,
    /// Readiness is off, and calls are served.
    Draining,
    /// Connections and calls are told to end.
    LameDuck,
    /// Calls that are left are aborted.
    Aborting,
    /// The log closes.
    Closing,
}

/// Labels of [`State`].
pub const STATES: [&str; 6] = ["starting", "serving", "draining", "lame_duck", "aborting", "closing"];

/// State of the server, and since when it drains.
#[derive(Debug)]
pub struct Life {
    state: AtomicUsize,
    /// Start of the shutdown in Unix microseconds; 0 before.
    drain_started: AtomicU64,
    /// 1 while health says SERVING.
    pub ready: Gauge,
}

impl Life {
    /// Sets the state.
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
            started => Duration::from_micros(super::readers::unix_micros().saturating_sub(started)),
        }
    }
}

/// Updates gauges that are only known on demand.
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
            requests: Requests::new(),
            connections: Connections::new(),
            http_connections: Connections::new(),
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
            groups: Groups::new(),
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
            audit: Audit { records: Counter::new(), dropped: Counter::new() },
            panics: Counter::new(),
            tasks: Gauge::new(),
            signals: [const { Export::new() }; SIGNALS.len()],
            refresh: Refresh(Mutex::new(None)),
        }
    }

    /// Returns the counts of one signal.
    #[must_use]
    pub fn signal(&self, signal: Signal) -> &Export {
        &self.signals[signal as usize]
    }

    /// Counts a call that was denied.
    pub fn denied(&self, why: Denial) {
        self.auth_denials[why as usize].inc();
    }

    /// Has `refresh` called before every collection, to update gauges that are only known on demand. The last
    /// one replaces the others.
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

/// Sizes of the batches of one call, added to [`METRICS`] at once.
#[derive(Debug)]
pub struct Batches {
    records: LocalHistogram,
    bytes: LocalHistogram,
    total: BatchTotals,
}

/// Totals of the batches that are handed to the storage together.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchTotals {
    /// Number of batches.
    pub batches: u64,
    /// Number of records.
    pub records: u64,
    /// Number of bytes.
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
    /// Adds a batch.
    pub fn take(&mut self, records: u64, bytes: u64) {
        self.records.record(records);
        self.bytes.record(bytes);
        self.total.batches += 1;
        self.total.records += records;
        self.total.bytes += bytes;
    }

    /// Returns the totals of all batches so far, and starts again at zero.
    pub fn hand_over(&mut self) -> BatchTotals {
        self.records.flush(&METRICS.publish.batch_records);
        self.bytes.flush(&METRICS.publish.batch_bytes);
        std::mem::take(&mut self.total)
    }
}

impl Publish {
    /// Counts the outcome of the batches of `handed`: those that are neither stored nor duplicates failed. Records
    /// and bytes are exact where all were stored, and in proportion where not.
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
