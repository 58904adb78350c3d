//! `streamway bench`: puts load on a running server and measures it. Latencies count from the time when a batch was due,
//! and the delivery of everything acknowledged is verified.

mod cpu;
mod listener;
mod load;
mod progress;
mod publishing;
mod ramp;
mod reading;
mod report;
mod run;
mod stamp;
mod web;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tonic::Code;

use self::cpu::Cpu;
use self::load::{Common, Kind, Live, Rate, Stored};
use self::run::Plan;
use super::confirm::confirm;
use super::interrupt::Signals;
use super::remote::Remote;
use super::{FAILURE, Failure, INTERRUPTED, output};
use crate::client::{Client, Error};

/// Put load on a server and measure it.
///
/// Writes to a topic of its own, which is created and deleted at the end. Latencies with --rate count from the time when a
/// batch was due (no coordinated omission).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway bench publish                              the throughput of one publisher
  streamway bench publish --publishers 64 --window 1   64 publishers, each waiting for every answer
  streamway bench latency --rate 5000                  the latency of a record at a steady rate
  streamway bench fanout --subscribers 100             delivery to many subscribers
  streamway bench ramp --latency-max 20ms              the highest rate within a latency
  streamway bench fanout --http http://localhost:8080 --events --batch 100
                                                       the same by NDJSON and server-sent events

Where the server has a policy, it takes the permissions admin (to create and delete the topic), publish and \
subscribe on topics bench-*, or publish and subscribe on an existing --topic.

The exit code is 1 if any acknowledged record is missing or was delivered twice.")]
pub(super) struct Bench {
    #[command(subcommand)]
    load: Load,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Publish, and then read back what was acknowledged.
    Publish(Steady),
    /// Store records, and then read all of them with each subscriber at once.
    Subscribe {
        #[command(flatten)]
        stored: Stored,
        #[command(flatten)]
        common: Common,
    },
    /// Publish to many subscribers.
    Fanout(Steady),
    /// Publish at a steady rate to one subscriber.
    Latency(Steady),
    /// Publish to subscribers that follow, and to some that repeatedly read everything.
    Mixed(Steady),
    /// Raise the rate step by step until the latency or the rate is out of its limit.
    Ramp {
        #[command(flatten)]
        steps: ramp::Steps,
        #[command(flatten)]
        live: Live,
        #[command(flatten)]
        common: Common,
    },
}

/// A load that does not change.
#[derive(Debug, Args)]
struct Steady {
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    live: Live,
    #[command(flatten)]
    common: Common,
}

/// Measurements of one benchmark; a ramp has several.
const STEPS_MAX: u32 = 100;
/// Time that a benchmark may take beyond its measurements.
const OVERTIME: Duration = Duration::from_secs(180);

/// Runs a benchmark, and fails if it takes much longer than planned, as when the server stops answering.
async fn within_limit<T>(
    planned: Duration,
    run: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = planned.saturating_mul(STEPS_MAX).saturating_add(OVERTIME);
    let ended = tokio::time::timeout(limit, run).await;
    ended.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(Failure::failed(format!("the benchmark was stopped, as it had not ended after {limit}")))
    })
}

impl Load {
    const fn kind(&self) -> Kind {
        let (publishers, subscribers, replayers, rate) = match self {
            Self::Publish(_) => (1, 0, 0, 0),
            Self::Subscribe { .. } => (1, 1, 0, 0),
            Self::Fanout(_) => (1, 100, 0, 0),
            Self::Latency(_) => (1, 1, 0, 5000),
            Self::Mixed(_) => (4, 4, 1, 20_000),
            Self::Ramp { .. } => (1, 1, 0, 1),
        };
        Kind { publishers, subscribers, replayers, rate }
    }

    const fn common(&self) -> &Common {
        match self {
            Self::Publish(load) | Self::Fanout(load) | Self::Latency(load) | Self::Mixed(load) => {
                &load.common
            }
            Self::Subscribe { common, .. } | Self::Ramp { common, .. } => common,
        }
    }

    fn plan(&self) -> Result<Plan, Failure> {
        match self {
            Self::Publish(load) | Self::Fanout(load) | Self::Latency(load) | Self::Mixed(load) => {
                load.common.live(&load.live, load.rate.rate, self.kind())
            }
            Self::Ramp { live, common, .. } => common.live(live, None, self.kind()),
            Self::Subscribe { stored, common } => Ok(common.stored(*stored)),
        }
    }
}

impl Bench {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let Self { load, remote } = self;
        let connect = || remote.client();
        let (common, plan) = (load.common().clone(), load.plan()?);
        let (topic, planned) = (plan.topic.clone(), plan.warmup.saturating_add(plan.duration));
        let client = connect()?;
        // Nobody is asked once signals no longer end the process by themselves.
        if let Some(topic) = &common.topic {
            may_use(&client, topic, common.yes).await?;
        }
        let mut signals = Signals::watch()?;
        let is_own = common.topic.is_none();
        if is_own {
            client.topics().create(&topic, None).await.map_err(|error| denied(&error))?;
        }
        let ended = tokio::select! {
            ended = within_limit(planned, measure(load, plan, &connect)) => Some(ended),
            () = signals.next() => None,
        };
        if is_own {
            let topics = client.topics();
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
}

/// Creates the topic that the user names, or asks whether one that exists may be used.
async fn may_use(client: &Client, topic: &str, yes: bool) -> Result<(), Failure> {
    match client.topics().get(topic).await {
        Ok(_) if yes => Ok(()),
        Ok(_) => confirm(&format!(
            "The topic {topic} exists, and the records of the benchmark will be left in it. Continue?"
        )),
        Err(error) if error.reason() == Some("TOPIC_NOT_FOUND") => {
            client.topics().create(topic, None).await.map(drop).map_err(|error| denied(&error))
        }
        Err(error) => Err(denied(&error)),
    }
}

/// The failure of a call on a topic, with the permissions that a benchmark takes.
fn denied(error: &Error) -> Failure {
    let failure = Failure::from(error.clone());
    if error.code() != Code::PermissionDenied {
        return failure;
    }
    let needs = "a benchmark takes the permission admin to create its topic, or an existing --topic";
    failure.adding(&format!("; {needs}"))
}

async fn measure(load: Load, plan: Plan, connect: workload::Connect<'_>) -> Result<bool, Failure> {
    let (cpu, json) = (Cpu { server: load.common().server_pid }, load.common().format.is_json());
    let report = match load {
        Load::Ramp { steps, .. } => return ramp::ramp(plan, steps, json, connect, cpu).await,
        Load::Subscribe { stored, .. } => workload::stored(plan, stored.records, connect, cpu).await?,
        _ => workload::live(plan, connect, cpu).await?,
    };
    output::print(&if json { output::json_line(&report.json()) } else { report.table() })?;
    Ok(report.is_whole())
}

#[cfg(test)]
mod tests {
    use super::{OVERTIME, within_limit};
    use crate::cli::Failure;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_benchmark_that_does_not_end_is_stopped() {
        let started = tokio::time::Instant::now();
        let planned = Duration::from_secs(1);
        let stopped = within_limit(planned, std::future::pending::<Result<(), Failure>>()).await.unwrap_err();
        assert!(stopped.message.contains("had not ended after 4m 40s"), "{}", stopped.message);
        assert!(started.elapsed() >= OVERTIME + Duration::from_secs(100));
        within_limit(planned, async { Ok(()) }).await.unwrap();
    }
}
