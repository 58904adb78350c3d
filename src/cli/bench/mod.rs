//! `streamway bench`: load on a server that is there, with figures one can trust: latencies count from
//! when a batch was due, and what was acknowledged is checked to have come.
//! Never: starts a server.

mod cpu;
mod progress;
mod publishing;
mod ramp;
mod reading;
mod report;
mod run;
mod stamp;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::connection::Connection;
use super::interrupt::Signals;
use super::topics::Output;
use super::{FAILURE, Failure, INTERRUPTED, output};
use crate::client::Client;
use crate::config::parse_duration;
use cpu::Cpu;
use run::Plan;

/// Put load on a server, and measure it.
///
/// Writes to a topic of its own, which is deleted at the end. Percentiles of a run with --rate count
/// from when a batch was due (no coordinated omission).
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  streamway bench publish                              as fast as one publisher can
  streamway bench publish --publishers 64 --window 1   64 at once, each waiting for its answer
  streamway bench latency --rate 5000                  how long a record takes
  streamway bench fanout --subscribers 100
  streamway bench ramp --latency-max 20ms              how much it takes

Exit code 1 where anything acknowledged is missing or came twice.")]
pub(super) enum Bench {
    /// Publish; then read back what was acknowledged.
    Publish(Load),
    /// Store records, then read them all with each subscriber at once.
    Subscribe(Load),
    /// One publisher, many subscribers.
    Fanout(Load),
    /// A steady rate that one subscriber follows.
    Latency(Load),
    /// Publishers, subscribers that follow, and some that read everything over and over.
    Mixed(Load),
    /// Raise the rate step by step until latency or errors cross a limit.
    Ramp {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        steps: ramp::Steps,
    },
}

/// What load; what is not given depends on the kind.
#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    /// The topic; one of a random name, deleted at the end, where not given.
    #[arg(long)]
    topic: Option<String>,
    /// Bytes of a record's payload, at least 24.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    size: usize,
    /// Records of a batch.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// Batches of one publisher that are not acknowledged yet.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    window: u32,
    /// Publishers, each on a connection of its own.
    #[arg(long, value_name = "N")]
    publishers: Option<u32>,
    /// Subscribers that follow what is published.
    #[arg(long, value_name = "N")]
    subscribers: Option<u32>,
    /// Subscribers that read the topic from its beginning, over and over.
    #[arg(long, value_name = "N")]
    replayers: Option<u32>,
    /// Connections that subscribers share.
    #[arg(long, value_name = "N", default_value_t = 10)]
    connections: u32,
    /// Records a second of all publishers together; 0 for as fast as they can.
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Records that `subscribe` stores first.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// How long to measure.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long to run before that.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Publish without `request_id`s: nothing is sent again where a connection breaks.
    #[arg(long)]
    no_request_ids: bool,
    /// Do not read back what was published where nobody subscribes.
    #[arg(long)]
    no_verify: bool,
    /// Process id of a server on this machine, to tell its processor time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Bytes of one batch: above the largest message that any server can be configured to take.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Publishers, or subscribers: more than one address has ports.
const TASKS_MAX: u32 = 100_000;

/// What a kind of load is, where it is not said otherwise.
struct Kind {
    publishers: u32,
    subscribers: u32,
    replayers: u32,
    rate: u64,
}

impl Bench {
    const fn kind(&self) -> Kind {
        let (publishers, subscribers, replayers, rate) = match self {
            Self::Publish(_) => (1, 0, 0, 0),
            Self::Subscribe(_) => (0, 1, 0, 0),
            Self::Fanout(_) => (1, 100, 0, 0),
            Self::Latency(_) => (1, 1, 0, 5000),
            Self::Mixed(_) => (4, 4, 1, 20_000),
            Self::Ramp { .. } => (1, 1, 0, 1),
        };
        Kind { publishers, subscribers, replayers, rate }
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.load().connection
    }

    const fn load(&self) -> &Load {
        match self {
            Self::Publish(load) | Self::Subscribe(load) | Self::Fanout(load) => load,
            Self::Latency(load) | Self::Mixed(load) | Self::Ramp { load, .. } => load,
        }
    }

    /// `connect` makes a client of its own connection.
    pub(super) async fn run(
        self,
        connect: impl Fn() -> Result<Client, Failure>,
    ) -> Result<ExitCode, Failure> {
        let (load, plan) = (self.load().clone(), self.plan()?);
        let time = load.warmup.saturating_add(load.duration).saturating_mul(100);
        let time = time.saturating_add(workload::OVERTIME);
        let topic = plan.topic.clone();
        let mut signals = Signals::watch()?;
        let ended = tokio::select! {
            ended = tokio::time::timeout(time, self.measure(&load, plan, &connect)) => Some(ended),
            () = signals.next() => None,
        };
        if load.topic.is_none() {
            let topics = connect()?.topics();
            let deleted = tokio::select! {
                deleted = topics.delete(&topic, "") => deleted.err().map(|error| error.to_string()),
                () = signals.next() => Some("interrupted".to_owned()),
            };
            // The figures are there already; a topic that stays is told of, and no failure.
            if let Some(why) = deleted {
                output::complain(&format!("topic {topic} is still there: {why}"));
            }
        }
        let Some(ended) = ended else { return Ok(ExitCode::from(INTERRUPTED)) };
        let whole = ended.map_err(|_| Failure::failed(format!("no end after {time:?}")))??;
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
    }

    async fn measure(self, load: &Load, plan: Plan, connect: workload::Connect<'_>) -> Result<bool, Failure> {
        let (cpu, json) = (Cpu { server: load.server_pid }, load.output == Output::Json);
        let report = match self {
            Self::Ramp { steps, .. } => return ramp::ramp(plan, steps, json, connect, cpu).await,
            Self::Subscribe(_) => workload::stored(plan, load.records, connect, cpu).await?,
            _ => workload::live(plan, connect, cpu).await?,
        };
        output::print(&if json { output::json_line(&report.json()) } else { report.table() })?;
        Ok(report.is_whole())
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let (kind, load) = (self.kind(), self.load());
        let plan = Plan {
            topic: load.topic.clone().unwrap_or_else(|| format!("bench-{:08x}", fastrand::u32(..))),
            size: load.size.max(stamp::LEN),
            batch: load.batch,
            window: load.window,
            publishers: load.publishers.unwrap_or(kind.publishers),
            subscribers: load.subscribers.unwrap_or(kind.subscribers),
            replayers: load.replayers.unwrap_or(kind.replayers),
            connections: load.connections,
            rate: load.rate.unwrap_or(kind.rate),
            warmup: load.warmup,
            duration: load.duration,
            request_ids: !load.no_request_ids,
            verify: !load.no_verify,
        };
        if plan.batch == 0 || plan.window == 0 || plan.duration.is_zero() {
            return Err(Failure::usage("--batch, --window and --duration must be more than 0"));
        }
        if plan.size.saturating_mul(plan.batch as usize) > BATCH_BYTES_MAX {
            return Err(Failure::usage(
                "--batch times --size must be at most 64 MiB: no server takes more at once",
            ));
        }
        if plan.publishers.max(plan.subscribers).max(plan.replayers).max(plan.connections) > TASKS_MAX {
            return Err(Failure::usage(
                "--publishers, --subscribers, --replayers and --connections must be at most 100000",
            ));
        }
        Ok(plan)
    }
}
