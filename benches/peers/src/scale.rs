//! Scaling of Streamway: records per second and resident memory against subscribers, topics, record size and stored data.
//! Each point has its own server, except for stored data, which grows on one.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::curve::{self, Line};
use crate::figures::number;
use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Until};
use crate::peer::Process;
use crate::report::{docs_dir, fill_section, machine};
use crate::restart::{fill, restarted};
use crate::streamway::{Streamway, serve};
use crate::workload::{Row, Runner, Scale};

const SUBSCRIBERS: [usize; 5] = [1, 10, 100, 1_000, 5_000];
const TOPICS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// The last one is the limit of a batch minus the overhead of a value.
const SIZES: [usize; 6] = [16, 256, 4 << 10, 64 << 10, 256 << 10, (1 << 20) - 1024];
const KEPT_GB: [u64; 4] = [0, 1, 4, 10];

/// Publishers for the points over topics, each with one request at a time.
const PUBLISHERS: usize = 256;
/// Bytes in flight for the points with large records.
const IN_FLIGHT_BYTES: usize = 16 << 20;

struct Point {
    label: String,
    /// Records or deliveries per second.
    rate: f64,
    memory_mib: f64,
    start_ms: Option<f64>,
}

struct Sweep {
    title: &'static str,
    unit: &'static str,
    points: Vec<Point>,
}

/// Measures every point once and writes JSON; with `write_docs`, also the marked section of docs/performance.md.
pub async fn measure(
    binary: &Path,
    seconds: f64,
    kept_gb_max: u64,
    json: &Path,
    write_docs: bool,
) -> Outcome<()> {
    let time = Duration::from_secs_f64(seconds);
    let mut sweeps = Vec::new();
    let mut subscribers = Sweep::new("subscribers of one topic", "deliveries/s");
    for count in SUBSCRIBERS {
        let runner = runner(start(binary).await?, time);
        let rate = runner.fan_out(Row::Fanout100, count).await?;
        subscribers.add(count.to_string(), rate, &runner, None)?;
    }
    sweeps.push(subscribers);
    let mut topics = Sweep::new("topics, 256 publishers one by one", "records/s");
    for count in TOPICS {
        let runner = runner(start(binary).await?, time);
        let names: Vec<_> = (0..count).map(|n| format!("topic-{n}")).collect();
        // The records of one topic are read back and compared, and a first record would be one too many.
        if count > 1 {
            use_once(&runner, &names).await?;
        }
        let rate = runner.requests(PUBLISHERS as u64, names).await?;
        topics.add(count.to_string(), rate, &runner, None)?;
    }
    sweeps.push(topics);
    let mut sizes = Sweep::new("bytes of a record, pipelined", "records/s");
    for len in SIZES {
        let runner = runner(start(binary).await?, time);
        let load = runner.load((IN_FLIGHT_BYTES / len).clamp(4, 1000), 1, len);
        let (rate, _) = runner.publishers(Row::Pipelined, 1, load).await?;
        sizes.add(size(len), rate, &runner, None)?;
    }
    sweeps.push(sizes);
    sweeps.push(kept(binary, time, kept_gb_max).await?);
    let conditions = format!("{}; {seconds} s a point, each once", machine());
    let result =
        json!({"conditions": conditions, "sweeps": sweeps.iter().map(Sweep::json).collect::<Vec<_>>()});
    std::fs::write(json, serde_json::to_string_pretty(&result)? + "\n")?;
    if write_docs { fill_docs(&conditions, &sweeps, &result) } else { Ok(()) }
}

/// Measures publishing to a new topic and a restart after kill -9, with a growing amount of stored data.
async fn kept(binary: &Path, time: Duration, gb_max: u64) -> Outcome<Sweep> {
    let mut sweep = Sweep::new("GB of data kept, pipelined", "records/s");
    let (mut server, mut bytes) = (start(binary).await?, 0);
    for (round, gb) in KEPT_GB.into_iter().filter(|gb| *gb <= gb_max).enumerate() {
        fill(&server, gb * 1_000_000_000 - bytes).await?;
        bytes = gb * 1_000_000_000;
        let (started, start_ms) = restarted(alone(server).await?, command(binary)).await?;
        server = Arc::new(started);
        let runner = Runner { round, ..runner(server.clone(), time) };
        let load = runner.load(1000, 1, 100);
        let (rate, _) = runner.publishers(Row::Pipelined, 1, load).await?;
        sweep.add(format!("{gb} GB"), rate, &runner, Some(start_ms))?;
    }
    Ok(sweep)
}

/// Waits until the tasks that use the server have ended, and returns it.
async fn alone(mut server: Arc<Streamway>) -> Outcome<Streamway> {
    loop {
        server = match Arc::try_unwrap(server) {
            Ok(server) => return Ok(server),
            Err(server) => server,
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Creates the topics by a first publish to each, so that creation is not measured.
async fn use_once(runner: &Runner, topics: &[String]) -> Outcome<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for part in topics.chunks(topics.len().div_ceil(PUBLISHERS)) {
        let until = Until::Batches(part.len() as u64);
        let pace = Pace::new(Load { window: 1, batch: 1, value_len: 8, until, ..Load::default() });
        let (peer, part) = (runner.peer.clone(), part.to_vec());
        tasks.spawn(async move { peer.one_by_one(&part, pace).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Starts a server that allows this many topics.
fn command(binary: &Path) -> impl Fn(u16, &Path) -> Outcome<std::process::Command> {
    let serve = serve(binary);
    move |port, dir| {
        let mut command = serve(port, dir)?;
        command.args(["--topics-max", "20000"]);
        Ok(command)
    }
}

async fn start(binary: &Path) -> Outcome<Arc<Streamway>> {
    Ok(Arc::new(Streamway::on(Process::start(command(binary)).await?).await?))
}

fn runner(peer: Arc<Streamway>, time: Duration) -> Runner {
    let scale = Scale { time, ..Scale::default() };
    Runner { peer, scale, round: 0, is_limit: false, sync_micros: None, stores: true }
}

impl Sweep {
    fn new(title: &'static str, unit: &'static str) -> Self {
        Self { title, unit, points: Vec::new() }
    }

    fn add(&mut self, label: String, rate: f64, runner: &Runner, start_ms: Option<f64>) -> Outcome<()> {
        let memory_mib = runner.peer.process().memory()? as f64 / f64::from(1 << 20);
        let start = start_ms.map(|ms| format!(", started in {ms:.0} ms")).unwrap_or_default();
        println!("{}: {label}: {} {}, {memory_mib:.0} MiB{start}", self.title, number(rate), self.unit);
        self.points.push(Point { label, rate, memory_mib, start_ms });
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let points = self.points.iter().map(|point| {
            json!({"at": point.label, "rate": point.rate, "memory_mib": point.memory_mib, "start_ms": point.start_ms})
        });
        json!({"over": self.title, "unit": self.unit, "points": points.collect::<Vec<_>>()})
    }

    fn table(&self) -> String {
        let mut out = format!("| {} | {} | memory, MiB |", self.title, self.unit);
        let starts = self.points.iter().any(|point| point.start_ms.is_some());
        out +=
            if starts { " start after kill -9, ms |\n|---|---:|---:|---:|\n" } else { "\n|---|---:|---:|\n" };
        for point in &self.points {
            let _ =
                write!(out, "| {} | {} | {} |", point.label, number(point.rate), number(point.memory_mib));
            let _ = match point.start_ms {
                Some(ms) => writeln!(out, " {} |", number(ms)),
                None => writeln!(out),
            };
        }
        out
    }

    fn plot(&self) -> String {
        let labels: Vec<_> = self.points.iter().map(|point| point.label.clone()).collect();
        let line = |what, colour, values| Line { what, colour, values };
        let rates = line(self.unit, "#1f6feb", self.points.iter().map(|point| point.rate).collect());
        let memory =
            line("memory, MiB", "#8b949e", self.points.iter().map(|point| point.memory_mib).collect());
        curve::lines(&format!("Over {}", self.title), &labels, &[rates, memory])
    }
}

/// Fills the marked section of docs/performance.md, and writes its plots and data beside it.
fn fill_docs(conditions: &str, sweeps: &[Sweep], result: &serde_json::Value) -> Outcome<()> {
    let dir = docs_dir()?;
    std::fs::write(dir.join("scaling.json"), serde_json::to_string_pretty(result)? + "\n")?;
    let mut section =
        format!("{conditions}. Memory is resident, of the whole server, at the end of the point.\n");
    for sweep in sweeps {
        let name = format!("over-{}.svg", sweep.title.replace(',', "").replace(' ', "-").to_lowercase());
        std::fs::write(dir.join(&name), sweep.plot())?;
        let _ = write!(section, "\n![Over {0}](performance/{name})\n\n{1}", sweep.title, sweep.table());
    }
    fill_section("scaling", &section)
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_000_000 => format!("{} KiB", bytes >> 10),
        _ => "1 MiB less 1 KiB".to_owned(),
    }
}
