//! Metrics, traces, log lines with trace ids, and their export over OTLP. Every part counts into [`METRICS`];
//! `names` alone holds names. Nothing here blocks what it observes: what there is no room for is dropped, and
//! counted.

pub mod audit;
mod calls;
mod collect;
#[cfg(test)]
mod document;
mod groups;
pub mod logs;
mod metric;
mod metrics;
pub mod names;
mod otlp;
mod outgoing;
mod process;
pub mod prometheus;
mod push;
mod readers;
mod requests;
mod settings;
mod topics;
pub mod trace;
mod trace_request;

pub use calls::{CODES, Method};
pub use collect::{Family, Point, Value, collect};
pub use groups::GroupLag;
pub use metric::{Counter, Gauge, GaugeGuard, Histogram};
pub use metrics::{BatchTotals, Batches, Connections, Denial, METRICS, Metrics, Signal, State};
pub use otlp::Exporters;
pub use outgoing::{Command, NoParent, Outgoing, ParentContext};
pub use process::Times;
pub use readers::{Reader, ReaderLag, unix_micros};
pub use requests::Requests;
pub use settings::Settings;
pub use topics::{Topic, TopicStats};
pub use trace_request::{begin_request, end_request};
