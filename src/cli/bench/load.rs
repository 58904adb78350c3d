//! The options of a benchmark, and the plan that they make.

use std::time::Duration;

use clap::Args;

use super::listener::Web;
use super::run::Plan;
use super::stamp;
use crate::cli::Failure;
use crate::cli::format::Format;
use crate::config::parse_duration;

/// Largest batch in bytes, which is above the largest message that a server can be configured to accept.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest number of publishers, or of subscribers: more than an address has ports.
const TASKS_MAX: u32 = 100_000;

/// Time that storing records, and reading them, is planned to take at most.
const STORED_LIMIT: Duration = Duration::from_secs(12);

/// Options of every benchmark.
#[derive(Clone, Debug, Args)]
pub(super) struct Common {
    /// Name of the topic, which is created, and kept at the end. By default, a topic with a random name is created and
    /// deleted at the end.
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// Use a topic of --topic that exists, and leave the records of the benchmark in it, without a question.
    #[arg(long, requires = "topic")]
    pub(super) yes: bool,
    /// Size of a record's payload in bytes, at least 24.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = parse_record_bytes)]
    size: usize,
    /// Number of connections that the subscribers share.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = tasks())]
    connections: u32,
    /// Process id of the server, if it runs on this machine, to report its processor time.
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
    #[command(flatten)]
    pub(super) format: Format,
}

/// Options of benchmarks that publish while they measure. Their defaults depend on the kind of load.
#[derive(Clone, Debug, Args)]
pub(super) struct Live {
    /// Number of records in a batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Maximum number of unacknowledged batches of one publisher.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Number of publishers, each on its own connection.
    #[arg(long, value_name = "N", value_parser = tasks())]
    publishers: Option<u32>,
    /// Number of subscribers that follow what is published.
    #[arg(long, value_name = "N", value_parser = some_tasks())]
    subscribers: Option<u32>,
    /// Number of subscribers that repeatedly read the topic from its beginning.
    #[arg(long, value_name = "N", value_parser = some_tasks())]
    replayers: Option<u32>,
    /// Duration of the measurement.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_measurement)]
    duration: Duration,
    /// Duration of the load before the measurement.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Publish and follow over this HTTP listener: a batch is one request of NDJSON, and a publisher waits for each answer.
    /// Records are text of at least 48 characters.
    #[arg(long, value_name = "URL", value_parser = Web::at, conflicts_with = "replayers")]
    http: Option<Web>,
    /// Follow by server-sent events instead of NDJSON.
    #[arg(long, requires = "http")]
    events: bool,
    /// Publish without request ids: batches are not sent again when a connection breaks.
    #[arg(long)]
    no_request_ids: bool,
    /// Do not read back what was published when there are no subscribers.
    #[arg(long)]
    no_verify: bool,
}

/// The rate of a load that is not raised.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Rate {
    /// Rate of all publishers together in records per second; 0 for no limit.
    #[arg(long, value_name = "N")]
    pub(super) rate: Option<u64>,
}

/// Options of `bench subscribe`.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Stored {
    /// Number of records to store first.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) records: u64,
    /// Number of subscribers that then read all of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = tasks())]
    subscribers: u32,
}

fn tasks() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(TASKS_MAX))
}

fn some_tasks() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(TASKS_MAX))
}

fn parse_record_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "is not a number of bytes".to_owned())?;
    match bytes {
        ..stamp::LEN => {
            Err(format!("must be at least {}, the size of the stamp that is verified", stamp::LEN))
        }
        stamp::LEN..=BATCH_BYTES_MAX => Ok(bytes),
        _ => Err("must be at most 64 MiB, as no server accepts larger messages".to_owned()),
    }
}

fn parse_measurement(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

/// Defaults of a kind of load.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) publishers: u32,
    pub(super) subscribers: u32,
    pub(super) replayers: u32,
    pub(super) rate: u64,
}

impl Common {
    /// Name of the topic, by default a new one.
    pub(super) fn topic(&self) -> String {
        self.topic.clone().unwrap_or_else(|| format!("bench-{:08x}", fastrand::u32(..)))
    }

    /// The plan of a benchmark that publishes while it measures.
    pub(super) fn live(&self, live: &Live, rate: Option<u64>, kind: Kind) -> Result<Plan, Failure> {
        if self.size.saturating_mul(live.batch as usize) > BATCH_BYTES_MAX {
            return Err(Failure::usage(
                "--batch times --size must be at most 64 MiB, as no server accepts larger messages",
            ));
        }
        Ok(Plan {
            topic: self.topic(),
            size: self.size,
            batch: live.batch,
            window: live.window,
            publishers: live.publishers.unwrap_or(kind.publishers),
            subscribers: live.subscribers.unwrap_or(kind.subscribers),
            replayers: live.replayers.unwrap_or(kind.replayers),
            connections: self.connections,
            rate: rate.unwrap_or(kind.rate),
            warmup: live.warmup,
            duration: live.duration,
            request_ids: !live.no_request_ids,
            verify: !live.no_verify,
            web: live.http.clone().map(|web| web.following(live.events)),
        })
    }

    /// The plan of a benchmark that reads what it stored before.
    pub(super) fn stored(&self, stored: Stored) -> Plan {
        Plan {
            topic: self.topic(),
            size: self.size,
            batch: 1,
            window: 1,
            publishers: 1,
            subscribers: stored.subscribers,
            replayers: 0,
            connections: self.connections,
            rate: 0,
            warmup: Duration::ZERO,
            // The measurement ends with the last record. Storing and reading them may take as long as this.
            duration: STORED_LIMIT,
            request_ids: true,
            verify: true,
            web: None,
        }
    }
}
