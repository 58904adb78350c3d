//! `streamway bench`: puts load on a running server and measures it. Latencies count from the time when a batch was due,
//! and the delivery of everything acknowledged is verified.

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

/// Put load on a server and measure it.
///
/// Writes to a topic of its own, which is deleted at the end. Latencies with --rate count from the time when a
/// batch was due (no coordinated omission).
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  streamway bench publish                              the throughput of one publisher
  streamway bench publish --publishers 64 --window 1   64 publishers, each waiting for every answer
  streamway bench latency --rate 5000                  the latency of a record at a steady rate
  streamway bench fanout --subscribers 100             delivery to many subscribers
  streamway bench ramp --latency-max 20ms              the highest rate within a latency

The exit code is 1 if any acknowledged record is missing or was delivered twice.")]
pub(super) enum Bench {
    /// Publish, and then read back what was acknowledged.
    Publish(Load),
    /// Store records, and then read all of them with each subscriber at once.
    Subscribe(Load),
    /// Publish to many subscribers.
    Fanout(Load),
    /// Publish at a steady rate to one subscriber.
    Latency(Load),
    /// Publish to subscribers that follow, and to some that repeatedly read everything.
    Mixed(Load),
    /// Raise the rate step by step until the latency or the rate is out of its limit.
    Ramp {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        steps: ramp::Steps,
    },
}

/// Options of the load. Their defaults depend on the kind of load.
#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    /// Name of the topic, which is kept. By default, a topic with a random name is created and deleted at the end.
    #[arg(long)]
    topic: Option<String>,
    /// Size of a record's payload in bytes, at least 24.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    size: usize,
    /// Number of records in a batch.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// Maximum number of unacknowledged batches of one publisher.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    window: u32,
    /// Number of publishers, each on its own connection.
    #[arg(long, value_name = "N")]
    publishers: Option<u32>,
    /// Number of subscribers that follow what is published.
    #[arg(long, value_name = "N")]
    subscribers: Option<u32>,
    /// Number of subscribers that repeatedly read the topic from its beginning.
    #[arg(long, value_name = "N")]
    replayers: Option<u32>,
    /// Number of connections that the subscribers share.
    #[arg(long, value_name = "N", default_value_t = 10)]
    connections: u32,
    /// Rate of all publishers together in records per second; 0 for no limit.
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Number of records that `subscribe` stores first.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Duration of the measurement.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Duration of the load before the measurement.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Publish without request ids: batches are not sent again when a connection breaks.
    #[arg(long)]
    no_request_ids: bool,
    /// Do not read back what was published when there are no subscribers.
    #[arg(long)]
    no_verify: bool,
    /// Process id of the server, if it runs on this machine, to report its processor time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Largest batch in bytes, which is above the largest message that a server can be configured to accept.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest number of publishers, or of subscribers: more than an address has ports.
const TASKS_MAX: u32 = 100_000;
/// Measurements of one benchmark; a ramp has several.
const STEPS_MAX: u32 = 100;
/// Time that a benchmark may take beyond its measurements.
const OVERTIME: Duration = Duration::from_secs(180);

impl Load {
    /// Runs a benchmark, and fails if it takes much longer than planned, as when the server stops answering.
    async fn within_limit<T>(&self, run: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.warmup.saturating_add(self.duration).saturating_mul(STEPS_MAX);
        let limit = limit.saturating_add(OVERTIME);
        let ended = tokio::time::timeout(limit, run).await;
        ended.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(Failure::failed(format!("the benchmark was stopped, as it had not ended after {limit}")))
        })
    }
}

/// Defaults of a kind of load.
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

    /// Runs the benchmark. `connect` creates a client with its own connection.
    pub(super) async fn run(
        self,
        connect: impl Fn() -> Result<Client, Failure>,
    ) -> Result<ExitCode, Failure> {
        let (load, plan) = (self.load().clone(), self.plan()?);
        let topic = plan.topic.clone();
        let mut signals = Signals::watch()?;
        let ended = tokio::select! {
            ended = load.within_limit(self.measure(&load, plan, &connect)) => Some(ended),
            () = signals.next() => None,
        };
        if load.topic.is_none() {
            let topics = connect()?.topics();
            let deleted = tokio::select! {
                deleted = topics.delete(&topic, "") => deleted.err().map(|error| error.to_string()),
                () = signals.next() => Some("interrupted".to_owned()),
            };
            // The result is printed already, so a topic that is left over is reported and no failure.
            if let Some(why) = deleted {
                output::complain(&format!("topic {topic} could not be deleted: {why}"));
            }
        }
        let Some(ended) = ended else { return Ok(ExitCode::from(INTERRUPTED)) };
        Ok(if ended? { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
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
                "--batch times --size must be at most 64 MiB, as no server accepts larger messages",
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

#[cfg(test)]
mod tests {
    use super::{Bench, OVERTIME};
    use crate::cli::Failure;
    use clap::Parser;
    use std::time::Duration;

    #[derive(Parser)]
    struct Outer {
        #[command(subcommand)]
        bench: Bench,
    }

    #[tokio::test(start_paused = true)]
    async fn a_benchmark_that_does_not_end_is_stopped() {
        let args = ["bench", "publish", "--warmup", "0", "--duration", "1s"];
        let outer = Outer::try_parse_from(args).map_err(|error| error.to_string()).unwrap();
        let load = outer.bench.load();
        let started = tokio::time::Instant::now();
        let stopped = load.within_limit(std::future::pending::<Result<(), Failure>>()).await.unwrap_err();
        assert!(stopped.message.contains("had not ended after 4m 40s"), "{}", stopped.message);
        assert!(started.elapsed() >= OVERTIME + Duration::from_secs(100));
        load.within_limit(async { Ok(()) }).await.unwrap();
    }
}
