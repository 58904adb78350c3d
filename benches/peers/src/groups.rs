//! The rows of groups: members share the records of a topic, and what counts is a settlement that is confirmed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Progress, Seen, Until};
use crate::peer::{Connection, Member, Order, SHARED, Settle};
use crate::workload::{Figure, READ_MAX, Readers, Row, Runner, VALUE_LEN};

pub const BATCHES: &str = "group, one member, batches of 100, settled records/s";
pub const SINGLES: &str = "group, one member, one by one, settled records/s";
pub const MEMBERS: &str = "group, 100 members, batches of 100, settled records/s";
pub const LIVE: &str = "group, live, settled records/s";
pub const LIVE_SUBSCRIBER: &str = "group, live, a plain subscription instead, deliveries/s";
pub const KEYS: &str = "group by 10,000 keys, settled records/s";
pub const STUCK_ALONE: &str = "group by 10,000 keys, none stuck, settled records/s";
pub const STUCK: &str = "group by 10,000 keys beside a stuck one, settled records/s";
pub const STUCK_MEMORY: &str = "group, memory of a million records behind a stuck key, MiB";
pub const BLOCKED_MEMORY: &str = "group, memory of a blocked record, bytes";
pub const IDLE_MEMORY: &str = "group, memory of an idle member on a shared connection, bytes";
pub const P50: &str = "group latency from publish to member at 5,000/s, p50, µs";
pub const P50_SUBSCRIBER: &str = "group latency from publish to subscriber at 5,000/s, p50, µs";
pub const FLEET: &str = "fleet group, settled records/s";
pub const FLEET_REMOTE: &str = "fleet group, member at another replica, settled records/s";
pub const FLEET_P50: &str = "fleet group latency from publish to member at 500/s, p50, µs";
pub const FLEET_P50_REMOTE: &str =
    "fleet group latency from publish to member at another replica at 500/s, p50, µs";
pub const FLEET_P50_SUBSCRIBER: &str = "fleet group latency from publish to subscriber at 500/s, p50, µs";

/// Records that a member may hold.
const CREDIT: usize = 1000;
/// Records of a stored batch.
const BATCH: u64 = 100;
/// Records stored for a row by each second that it is to take.
const RECORDS_PER_SECOND: f64 = 400_000.0;
/// Keys of the rows of groups ordered by key.
const KEY_COUNT: u64 = 10_000;
/// Records behind a stuck key.
const STUCK_RECORDS: u64 = 1_000_000;
/// Name of the groups.
const GROUP: &str = "workers";

/// Runs a row of groups.
pub async fn measure(run: &Runner, row: Row) -> Outcome<Vec<Figure>> {
    match row {
        Row::GroupBatches => Ok(vec![(BATCHES, run.rate(Work::default()).await?)]),
        Row::GroupSingles => Ok(vec![(SINGLES, run.rate(Work { batch: 1, ..Work::default() }).await?)]),
        Row::GroupMembers => Ok(vec![(MEMBERS, run.rate(Work { members: 100, ..Work::default() }).await?)]),
        Row::GroupKeys => Ok(vec![(KEYS, run.rate(Work::by_key("keys")).await?)]),
        Row::GroupLive => run.live().await,
        Row::GroupStuck => run.stuck().await,
        Row::GroupIdle => run.idle_members().await,
        Row::GroupLatency => {
            let ways = [(P50_SUBSCRIBER, Receiver::Subscriber), (P50, Receiver::Member)];
            run.latencies(5_000.0, &ways).await
        }
        Row::FleetGroup => Ok(vec![(FLEET, run.rate(Work::default()).await?)]),
        Row::FleetGroupRemote => {
            let work = Work { name: "remote", is_remote: true, ..Work::default() };
            Ok(vec![(FLEET_REMOTE, run.rate(work).await?)])
        }
        Row::FleetGroupLatency => {
            let ways = [
                (FLEET_P50_SUBSCRIBER, Receiver::Subscriber),
                (FLEET_P50, Receiver::Member),
                (FLEET_P50_REMOTE, Receiver::RemoteMember),
            ];
            run.latencies(500.0, &ways).await
        }
        _ => Err("not a row of groups".into()),
    }
}

/// The work of a group whose records are stored before it begins.
#[derive(Clone, Copy)]
struct Work {
    /// Name of the topic.
    name: &'static str,
    /// Records of a stored batch; 1 also means that they are settled one by one.
    batch: u64,
    keys: u64,
    members: usize,
    is_remote: bool,
}

impl Default for Work {
    fn default() -> Self {
        Self { name: "group", batch: BATCH, keys: 0, members: 1, is_remote: false }
    }
}

impl Work {
    fn by_key(name: &'static str) -> Self {
        Self { name, keys: KEY_COUNT, ..Self::default() }
    }

    fn order(self) -> Order {
        if self.keys == 0 { Order::None } else { Order::Key }
    }
}

/// Receiver of records of a row of latencies.
#[derive(Clone, Copy)]
enum Receiver {
    Subscriber,
    Member,
    RemoteMember,
}

/// A member with the credit and the settlements of a row.
fn member(index: usize, work: Work) -> Member {
    Member {
        index,
        connection: if work.members == 1 { Connection::Own } else { Connection::Shared },
        credit: CREDIT,
        settle: if work.batch == 1 { Settle::OneByOne } else { Settle::Together },
        settled: Arc::default(),
        received: Arc::default(),
        is_remote: work.is_remote,
    }
}

impl Runner {
    /// Settled records per second of a group, whose records are stored before it begins.
    async fn rate(&self, work: Work) -> Outcome<f64> {
        let topic = self.topic(work.name).await?;
        let stored = self.fill(&topic, work, 0).await?;
        self.peer.create_group(&topic, GROUP, work.order()).await?;
        self.settle_all(&topic, work, stored).await
    }

    /// Stores records for as long as a timed measurement, and no more than a fast group settles in that time.
    async fn fill(&self, topic: &str, work: Work, publisher: u64) -> Outcome<Seen> {
        let batches = (self.scale.time.as_secs_f64() * RECORDS_PER_SECOND) as u64 / work.batch;
        let until = Until::Either(self.scale.time, batches);
        let window = if work.batch == 1 { 1000 } else { 16 };
        let load = self.load(window, work.batch, VALUE_LEN);
        self.store(topic, Load { until, publisher, keys: work.keys, ..load }).await
    }

    /// Publishes over one connection; returns what was acknowledged.
    async fn store(&self, topic: &str, load: Load) -> Outcome<Seen> {
        let pace = Pace::new(load);
        self.peer.publish(topic, pace.clone()).await?;
        pace.outcome()
    }

    /// Lets members settle all that is stored. Returns the records per second from their start to the last confirmation.
    async fn settle_all(&self, topic: &str, work: Work, stored: Seen) -> Outcome<f64> {
        self.peer.prepare(&member(0, work)).await?;
        let (mut members, begin) = (Readers::none(), Instant::now());
        for index in 0..work.members {
            members.add_member(&self.peer, topic, GROUP, member(index, work));
        }
        members.until_sum(stored.records).await?;
        let seconds = begin.elapsed().as_secs_f64();
        match members.sum() {
            seen if seen == stored => Ok(stored.records as f64 / seconds),
            seen => Err(format!("stored {stored:?}, settled {seen:?}").into()),
        }
    }

    /// A group and a subscriber, each while records are published as fast as it takes them.
    async fn live(&self) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (what, is_group) in [(LIVE_SUBSCRIBER, false), (LIVE, true)] {
            let topic = self.topic(if is_group { "live-group" } else { "live" }).await?;
            let mut readers = Readers::none();
            if is_group {
                self.peer.create_group(&topic, GROUP, Order::None).await?;
                readers.add_member(&self.peer, &topic, GROUP, member(0, Work::default()));
            } else {
                readers.add_reader(&self.peer, &topic, Arc::default());
            }
            readers.subscribed().await?;
            let begin = Instant::now();
            let load = Load { followed_by: readers.progress.clone(), ..self.load(16, BATCH, VALUE_LEN) };
            let stored = self.store(&topic, load).await?;
            readers.each(stored).await?;
            figures.push((what, stored.records as f64 / begin.elapsed().as_secs_f64()));
        }
        Ok(figures)
    }

    /// Keys beside one that is stuck with a million records, compared with the same keys alone.
    async fn stuck(&self) -> Outcome<Vec<Figure>> {
        let alone = self.rate(Work::by_key("alone")).await?;
        let (topic, work) = (self.topic("stuck").await?, Work::by_key("stuck"));
        let batches = Until::Batches(STUCK_RECORDS / BATCH);
        let behind = Load { until: batches, keys: 1, ..self.load(16, BATCH, VALUE_LEN) };
        self.store(&topic, behind).await?;
        let before = self.memory_at_rest().await?;
        self.peer.create_group(&topic, GROUP, Order::Key).await?;
        let holder = Member { credit: 1, settle: Settle::Never, ..member(0, Work { members: 2, ..work }) };
        let (mut stuck, received) = (Readers::none(), holder.received.clone());
        stuck.add_member(&self.peer, &topic, GROUP, holder);
        wait(&received, 1).await?;
        // The first record of another key is leased once all records before it were read.
        let probe = Load { until: Until::Batches(1), publisher: 2, ..self.load(1, 1, VALUE_LEN) };
        let probed = self.store(&topic, Load { keys: 1, ..probe }).await?;
        self.settle_all(&topic, work, probed).await?;
        let memory = self.memory_at_rest().await?.saturating_sub(before) as f64;
        let stored = self.fill(&topic, work, 1).await?;
        let beside = self.settle_all(&topic, work, stored).await?;
        Ok(vec![
            (STUCK_ALONE, alone),
            (STUCK, beside),
            (STUCK_MEMORY, memory / f64::from(1 << 20)),
            (BLOCKED_MEMORY, memory / STUCK_RECORDS as f64),
        ])
    }

    /// Resident memory of the server once it does not change any more.
    async fn memory_at_rest(&self) -> Outcome<u64> {
        const ALIKE: usize = 5;
        const SAMPLES: usize = 50;
        let mut last = (0, 0);
        for _ in 0..SAMPLES {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.peer.process().memory()?;
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 1) };
            if last.1 == ALIKE {
                break;
            }
        }
        Ok(last.0)
    }

    /// Memory of members of a group that has nothing for them.
    async fn idle_members(&self) -> Outcome<Vec<Figure>> {
        let (topic, count) = (self.topic("idle").await?, self.scale.idle_subscriptions);
        self.store(&topic, Load { until: Until::Batches(1), ..self.load(1, 1, VALUE_LEN) }).await?;
        self.peer.create_group(&topic, GROUP, Order::None).await?;
        let work = Work { members: count, ..Work::default() };
        let mut members = Readers::none();
        // The first members settle the only record, so that the others find the group at work.
        for index in 0..SHARED {
            members.add_member(&self.peer, &topic, GROUP, member(index, work));
        }
        members.subscribed().await?;
        members.until_sum(1).await?;
        let before = self.peer.process().memory()?;
        for index in 0..count {
            members.add_member(&self.peer, &topic, GROUP, member(index, work));
            if index % 50 == 49 {
                members.subscribed().await?;
            }
        }
        members.subscribed().await?;
        let after = self.peer.process().memory()?;
        Ok(vec![(IDLE_MEMORY, after.saturating_sub(before) as f64 / count as f64)])
    }

    /// Time from when each record is due until a receiver has it; each receiver has a topic of its own, one after the other.
    async fn latencies(&self, rate: f64, ways: &[(&'static str, Receiver)]) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for turn in 0..ways.len() {
            let (what, receiver) = ways[(turn + self.round) % ways.len()];
            let topic = self.topic(&format!("latency-{turn}")).await?;
            let (mut readers, received) = (Readers::none(), Arc::new(Progress::timed()));
            match receiver {
                Receiver::Subscriber => readers.add_reader(&self.peer, &topic, received.clone()),
                Receiver::Member | Receiver::RemoteMember => {
                    self.peer.create_group(&topic, GROUP, Order::None).await?;
                    let is_remote = matches!(receiver, Receiver::RemoteMember);
                    let member = member(0, Work { batch: 1, is_remote, ..Work::default() });
                    let member = Member { received: received.clone(), ..member };
                    readers.add_member(&self.peer, &topic, GROUP, member);
                }
            }
            readers.subscribed().await?;
            let pace = Pace::new(Load { rate: Some(rate), ..self.load(100_000, 1, VALUE_LEN) });
            self.peer.publish(&topic, pace.clone()).await?;
            readers.each(pace.outcome()?).await?;
            let micros = pace.until(&received.arrivals());
            figures.push((what, micros.value_at_quantile(0.5) as f64));
        }
        Ok(figures)
    }
}

/// Waits for a number of records.
async fn wait(received: &Progress, records: u64) -> Outcome<()> {
    let begin = Instant::now();
    while received.seen().records < records {
        if begin.elapsed() > READ_MAX {
            return Err(format!("{records} records are not there in {READ_MAX:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
