//! One run from beginning to end: the topic, the subscribers, the publishers and the verification.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cpu::Cpu;
use super::progress::Progress;
use super::publishing;
use super::reading::{self, Published};
use super::report::Report;
use super::run::{Plan, Run};
use super::stamp::Stamp;
use super::web;
use crate::cli::Failure;
use crate::client::{Client, Error, Record, Start};
use crate::record::Offset;

/// Creates a client with its own connection.
pub(super) type Connect<'a> = &'a dyn Fn() -> Result<Client, Failure>;

/// Publishes and subscribes according to the plan.
pub(super) async fn live(plan: Plan, connect: Connect<'_>, cpu: Cpu) -> Result<Report, Failure> {
    let clients = (0..plan.connections.max(1)).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
    let tail = topic_tail(&clients[0], &plan.topic).await?;
    let of = |index: u32| &clients[index as usize % clients.len()];
    let (mut open, mut open_web) = (Vec::new(), Vec::new());
    for index in 0..plan.subscribers {
        match &plan.web {
            Some(web) => open_web.push(web.follow(&plan.topic).await?),
            None => open.push(reading::open(of(index), &plan.topic).await?),
        }
    }
    let publishing = (0..plan.publishers).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;

    let before = cpu.used();
    let run = Arc::new(Run::start(plan));
    let progress = Progress::start(&run);
    let (published, told) = watch::channel::<Published>(None);
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for subscriber in open {
        readers.spawn(reading::follow(Arc::clone(&run), subscriber, told.clone()));
    }
    let mut followers = JoinSet::new();
    for follower in open_web {
        followers.spawn(web::follow(Arc::clone(&run), follower, told.clone()));
    }
    for index in 0..run.plan.replayers {
        readers.spawn(reading::replay(Arc::clone(&run), of(index).clone(), Arc::clone(&stop)));
    }
    let mut publishers = JoinSet::new();
    for (index, client) in (0..).zip(publishing) {
        let run = Arc::clone(&run);
        publishers.spawn(async move {
            let count = match run.plan.web.clone() {
                Some(web) => web.publish(run, index).await?,
                None => publishing::publish(run, client, index).await?,
            };
            Ok::<_, Failure>((index, count))
        });
    }
    let ended = all(&mut publishers).await;
    run.end();
    let used = cpu.used() - before;
    stop.store(true, Ordering::Relaxed);
    let mut counts = ended?;
    counts.sort_unstable();
    let counts: Arc<[u64]> = counts.into_iter().map(|(_, count): (u32, u64)| count).collect();
    published.send_replace(Some(Arc::clone(&counts)));
    all(&mut readers).await?;
    all(&mut followers).await?;
    if run.plan.verify && run.plan.subscribers == 0 {
        reading::verify(&run, &clients[0], Start::Offset(tail), &counts).await?;
    }
    progress.end();
    Ok(Report::of(&run, run.plan.duration, used))
}

/// Stores `records` records, and then reads them with every subscriber at once.
pub(super) async fn stored(
    plan: Plan,
    records: u64,
    connect: Connect<'_>,
    cpu: Cpu,
) -> Result<Report, Failure> {
    let mut readers = JoinSet::new();
    let clients = (0..plan.connections.max(1)).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
    let start = Start::Offset(topic_tail(&clients[0], &plan.topic).await?);
    let run = Arc::new(Run::start(plan));
    fill(&run, records, &clients[0]).await?;
    let before = cpu.used();
    let (progress, started) = (Progress::start(&run), Instant::now());
    for index in 0..run.plan.subscribers {
        let (run, client) = (Arc::clone(&run), clients[index as usize % clients.len()].clone());
        readers.spawn(async move { reading::read_all(&run, &client, start, records).await });
    }
    all(&mut readers).await?;
    let (took, used) = (started.elapsed(), cpu.used() - before);
    progress.end();
    Ok(Report::of(&run, took, used))
}

async fn fill(run: &Run, records: u64, client: &Client) -> Result<(), Error> {
    let publisher = client.publisher(&run.plan.topic, crate::client::PublisherOptions::default())?;
    for sequence in 0..records {
        let stamp = Stamp { run: run.id, publisher: 0, sequence, due_nanos: 0 };
        publisher.publish_nowait(&Record::new(stamp.record(run.plan.size))).await?;
    }
    publisher.close().await
}

/// The tail of the topic.
async fn topic_tail(client: &Client, topic: &str) -> Result<Offset, Error> {
    Ok(Offset::new(client.topics().get(topic).await?.tail))
}

/// Waits for the results of all tasks, or for the first failure.
async fn all<T: 'static, E: Into<Failure> + 'static>(
    tasks: &mut JoinSet<Result<T, E>>,
) -> Result<Vec<T>, Failure> {
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        let ended =
            ended.map_err(|error| Failure::failed(format!("a task of the benchmark failed: {error}")))?;
        done.push(ended.map_err(Into::into)?);
    }
    Ok(done)
}
