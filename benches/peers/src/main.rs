//! Streamway beside its peers: one workload specification, an adapter each, interleaved rounds.
//! Installs and starts the peers, checks what was acknowledged by reading it back, prints medians and
//! ratios, writes JSON, and draws the plots of docs/performance.md.

mod cluster;
mod contestant;
mod curve;
mod figures;
mod group_member;
mod groups;
mod grpc;
mod install;
mod limit;
mod nats;
mod nats_group;
mod outcome;
mod pace;
mod peer;
mod plot;
mod proto;
mod python;
mod redis;
mod redis_group;
mod report;
mod resp;
mod restart;
mod s2;
mod scale;
mod start;
mod streamway;
mod targets;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};

use contestant::Contestant;
use outcome::Outcome;
use report::Results;
use workload::{Row, Runner, Scale};

/// Code that tonic generates from the protos.
/// Threads of the clients: as many as the machine of the published figures has cores.
const THREADS: usize = 2;

/// Measures Streamway beside its peers.
#[derive(Parser)]
struct Args {
    /// Interleaved rounds; medians are taken over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each timed measurement.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Only the rows of groups.
    #[arg(long, conflicts_with = "rows")]
    groups: bool,
    /// Only these servers.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Contestant>,
    /// Records that the replay reads.
    #[arg(long, default_value_t = 1_000_000)]
    replay_records: u64,
    /// Idle subscriptions, over shared connections and again with one each.
    #[arg(long, default_value_t = 500)]
    idle_subscriptions: usize,
    /// Topics of the row of many topics.
    #[arg(long, default_value_t = 1_000)]
    topics: usize,
    /// Most GB kept when the server is started again: of 2 and 10.
    #[arg(long, default_value_t = 10)]
    start_gb: u64,
    /// A Streamway binary to measure; without it, this clone's is built for release.
    #[arg(long)]
    streamway: Option<PathBuf>,
    /// File for the results.
    #[arg(long, default_value_os_t = peer::cache().join("results.json"))]
    json: PathBuf,
    /// Instead of the rows: how Streamway's cost grows with subscribers, topics, the size of a record and the
    /// data kept.
    #[arg(long)]
    scale: bool,
    /// The most data kept of `--scale`, in GB; it takes as much of the disk, and a fifth besides.
    #[arg(long, default_value_t = 10)]
    kept_gb: u64,
    /// Fill docs/performance.md: its figures, its plots and their data.
    #[arg(long)]
    write_docs: bool,
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(limit::SERVE) {
        return runtime.block_on(limit::serve(words.next().ok_or("a port")?.parse()?));
    }
    runtime.block_on(measure(Args::parse()))
}

async fn measure(mut args: Args) -> Outcome<()> {
    if args.scale {
        let installed = install::install(&[], args.streamway)?;
        let json = peer::cache().join("scaling.json");
        return scale::measure(&installed.streamway, args.seconds, args.kept_gb, &json, args.write_docs)
            .await;
    }
    if args.rows.is_empty() {
        args.rows = Row::value_variants().to_vec();
        args.rows.retain(|row| row.is_group() || !args.groups);
    }
    if args.peers.is_empty() {
        args.peers = Contestant::value_variants().to_vec();
    }
    let installed = install::install(&args.peers, args.streamway.take())?;
    let mut results = Results::new(&installed);
    let mut failures = 0;
    for round in 0..args.rounds {
        // Another order each round, so that nobody always runs in the other's wake.
        for turn in 0..args.peers.len() {
            let contestant = args.peers[(turn + round) % args.peers.len()];
            failures += rows(contestant, &installed, &args, round, &mut results).await;
        }
        // Kept as it grows: an interruption loses one round at most.
        results.ran(round + 1, args.seconds);
        results.write(&args.json)?;
        if args.write_docs {
            results.write_docs()?;
        }
    }
    print!("{}", results.text());
    match failures {
        0 => Ok(()),
        failures => Err(format!("{failures} measurements failed").into()),
    }
}

/// Runs one contestant's rows of a round; answers how many failed.
async fn rows(
    contestant: Contestant,
    installed: &install::Installed,
    args: &Args,
    round: usize,
    results: &mut Results,
) -> usize {
    let scale = Scale {
        time: Duration::from_secs_f64(args.seconds),
        replay_records: args.replay_records,
        idle_subscriptions: args.idle_subscriptions,
        topics: args.topics,
        start_bytes_max: args.start_gb * 1_000_000_000,
    };
    let mut failures = 0;
    for row in args.rows.iter().copied().filter(|row| contestant.runs(*row, round)) {
        peer::slow_syncs(row == Row::SlowSync);
        let figures = match row {
            Row::Start => restart::measure(&installed.streamway, scale.start_bytes_max).await,
            // A server of its own for every row: none inherits another's caches, files or memory.
            _ => match start::start(contestant, installed).await {
                Ok(started) => {
                    let runner = Runner { scale: scale.clone(), round, ..started };
                    if row.is_group() { groups::measure(&runner, row).await } else { runner.run(row).await }
                }
                Err(error) => Err(error),
            },
        };
        match figures {
            Ok(figures) => {
                for (what, value) in figures {
                    println!(
                        "round {} {:>18} {what}: {}",
                        round + 1,
                        contestant.name(),
                        figures::number(value)
                    );
                    results.add(what, contestant.name(), value);
                }
            }
            Err(error) => {
                println!("round {} {:>18} {row:?} FAILED: {error}", round + 1, contestant.name());
                failures += 1;
            }
        }
    }
    failures
}
