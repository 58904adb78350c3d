//! A load that is raised step by step until the server no longer keeps up.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::cpu::Cpu;
use super::report::short;
use super::run::Plan;
use super::workload::{self, Connect};
use crate::cli::{Failure, output};
use crate::config::parse_duration;

/// Part of the requested rate below which the server does not keep up.
const KEPT_UP: f64 = 0.95;

/// Options of the steps.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct Steps {
    /// Rate of the first step in records per second.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    from: u64,
    /// Maximum rate in records per second.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    to: u64,
    /// Factor by which each step raises the rate.
    #[arg(long, value_name = "FACTOR", default_value_t = 2.0)]
    factor: f64,
    /// Maximum 99th percentile of the latency of acknowledgements.
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    latency_max: Duration,
}

impl Steps {
    fn check(self) -> Result<(), Failure> {
        if self.factor.is_nan() || self.factor <= 1.0 || self.from == 0 || self.to < self.from {
            return Err(Failure::usage(
                "--factor must be more than 1, --from at least 1, and --to not below it",
            ));
        }
        Ok(())
    }
}

/// Raises the rate until a limit is exceeded. Prints a line for each step, and the last rate within the limits.
pub(super) async fn ramp(
    plan: Plan,
    steps: Steps,
    json: bool,
    connect: Connect<'_>,
    cpu: Cpu,
) -> Result<bool, Failure> {
    steps.check()?;
    let (mut rate, mut held, mut whole) = (steps.from, None, true);
    while rate <= steps.to {
        let report = workload::live(Plan { rate, ..plan.clone() }, connect, cpu).await?;
        let p99 = report.acknowledging.value_at_percentile(99.0);
        let reached = report.acknowledged_per_second();
        let late = u128::from(p99) > steps.latency_max.as_nanos();
        let slow = reached < KEPT_UP * rate as f64;
        whole &= report.is_whole();
        if json {
            output::print(&format!("{}\n", report.json()))?;
        } else {
            let mark = match (late, slow) {
                (false, false) => "",
                (true, false) => "  <- latency too high",
                (_, true) => "  <- does not keep up",
            };
            let line = format!("{rate:>12}/s  reached {reached:>12.0}/s  p99 {:>8}{mark}\n", short(p99));
            output::print(&line)?;
        }
        if late || slow || !report.is_whole() {
            break;
        }
        held = Some(rate);
        rate = ((rate as f64) * steps.factor).ceil() as u64;
    }
    let line = match (json, held) {
        (true, held) => json!({ "kneeRecordsPerSecond": held }).to_string(),
        (false, Some(held)) => format!("knee: {held} records/s held"),
        (false, None) => format!("knee: below {} records/s", steps.from),
    };
    output::print(&format!("{line}\n"))?;
    Ok(whole)
}
