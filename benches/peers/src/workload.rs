//! The workload specification: every row is defined once, for all peers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Progress, Seen, Until};
use crate::peer::{Connection, Decode, Member, Peer, Reader};

/// Time allowed for subscribers to receive everything published for them.
pub const READ_MAX: Duration = Duration::from_secs(120);
/// Bytes of a record's value, except in the bulk row.
pub const VALUE_LEN: usize = 100;
/// Publishes per second in the latency row.
const RATE: f64 = 5_000.0;

pub const SLOW_SYNC: &str = "pipelined publish, 256 in flight, 1 ms added to every sync, records/s";

pub const FLEET_PIPELINED: &str = "fleet pipelined publish, records/s";
pub const FLEET_FANOUT: &str = "fleet fan-out 1 to 100, deliveries/s";
pub const FLEET_P50_CALM: &str = "fleet latency of a delivery at 100/s, p50, µs";
pub const FLEET_P50: &str = "fleet latency of a delivery at 500/s, p50, µs";

/// The same for the fleet, with the names of its figures: one rate far below what plain NATS accepts from one publisher
/// without batching, and one closer to it.
const FLEET_LATENCY: [(f64, [&str; 3]); 2] = [
    (
        100.0,
        [
            FLEET_P50_CALM,
            "fleet latency of a delivery at 100/s, p99, µs",
            "fleet latency of an acknowledgement at 100/s, p50, µs",
        ],
    ),
    (
        500.0,
        [
            FLEET_P50,
            "fleet latency of a delivery at 500/s, p99, µs",
            "fleet latency of an acknowledgement at 500/s, p50, µs",
        ],
    ),
];

/// A row of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Row {
    /// One publisher, 1000 in flight, one record each.
    Pipelined,
    /// 64 publishers, 16 in flight each.
    Publishers,
    /// 64 concurrent workers, each of which waits for an answer before its next request.
    Unary,
    /// Batches of 100 records of 1 KiB, 16 batches in flight.
    Bulk,
    /// One publisher to 100 subscribers.
    Fanout100,
    /// One publisher to 10 subscribers.
    Fanout10,
    /// Reading a topic from the beginning.
    Replay,
    /// 5,000 publishes a second, open loop.
    Latency,
    /// One publisher, 256 in flight, with every sync taking 1 ms longer.
    SlowSync,
    /// Memory of an idle subscription.
    Idle,
    /// 256 publishers over 1,000 topics.
    Topics,
    /// From exec to the first stored publish after a kill, with 2 GB and with 10 GB of stored data.
    Start,
    /// Pipelined publishing on a cluster of three NATS servers.
    FleetPipelined,
    /// The same.
    FleetFanout100,
    /// From publish to delivery at 100 and 500 per second, open loop, on such a cluster.
    FleetLatency,
    /// A group with one member, batches of 100.
    GroupBatches,
    /// A group with one member, records stored and settled one by one.
    GroupSingles,
    /// A group and a subscriber while records are published.
    GroupLive,
    /// A group with 100 members.
    GroupMembers,
    /// A group ordered by key, 10,000 keys.
    GroupKeys,
    /// A group ordered by key, one of which is stuck with a million records; with the memory of these.
    GroupStuck,
    /// From publish to a member of a group and to a subscriber, open loop.
    GroupLatency,
    /// Memory of an idle member of a group.
    GroupIdle,
    /// A group with one member on a cluster, at the replica that owns the group.
    FleetGroup,
    /// The same, with the member at another replica.
    FleetGroupRemote,
    /// From publish to a member of a group and to a subscriber on a cluster, open loop.
    FleetGroupLatency,
}

impl Row {
    /// True for rows that run on a cluster.
    pub fn is_fleet(self) -> bool {
        matches!(self, Self::FleetPipelined | Self::FleetFanout100 | Self::FleetLatency)
            || self.is_fleet_group()
    }

    fn is_fleet_group(self) -> bool {
        matches!(self, Self::FleetGroup | Self::FleetGroupRemote | Self::FleetGroupLatency)
    }

    /// True for rows of groups.
    pub fn is_group(self) -> bool {
        use Row::{
            GroupBatches, GroupIdle, GroupKeys, GroupLatency, GroupLive, GroupMembers, GroupSingles,
            GroupStuck,
        };
        let alone = [
            GroupBatches,
            GroupSingles,
            GroupLive,
            GroupMembers,
            GroupKeys,
            GroupStuck,
            GroupLatency,
            GroupIdle,
        ];
        alone.contains(&self) || self.is_fleet_group()
    }
}

/// Scale of a run.
#[derive(Clone, Default)]
pub struct Scale {
    /// Duration of each timed measurement.
    pub time: Duration,
    pub replay_records: u64,
    pub idle_subscriptions: usize,
    pub topics: usize,
    /// Largest amount of stored data for a restart.
    pub start_bytes_max: u64,
}

/// A measured value with its name.
pub type Figure = (&'static str, f64);

/// A peer, with the scale of the run and the number of the round.
pub struct Runner {
    pub peer: Arc<dyn Peer>,
    pub scale: Scale,
    pub round: usize,
    /// True for the limit, which stores nothing and generates its own deliveries.
    pub is_limit: bool,
    /// Duration of a sync, for a peer that does none itself.
    pub sync_micros: Option<f64>,
    /// True if the peer stores what it acknowledges.
    pub stores: bool,
}

impl Runner {
    pub async fn run(&self, row: Row) -> Outcome<Vec<Figure>> {
        match row {
            Row::Pipelined => {
                let load = self.load(1000, 1, VALUE_LEN);
                Ok(vec![("pipelined publish, records/s", self.publishers(row, 1, load).await?.0)])
            }
            Row::Publishers => {
                let load = self.load(16, 1, VALUE_LEN);
                Ok(vec![("64 publishers, records/s", self.publishers(row, 64, load).await?.0)])
            }
            Row::Unary => self.unary(64).await,
            Row::Bulk => {
                let load = self.load(16, 100, 1024);
                let rate = self.publishers(row, 1, load).await?.0;
                Ok(vec![("bulk publish, MiB/s", rate * 1024.0 / f64::from(1 << 20))])
            }
            Row::Fanout100 => Ok(vec![("fan-out 1 to 100, deliveries/s", self.fan_out(row, 100).await?)]),
            Row::Fanout10 => Ok(vec![("fan-out 1 to 10, deliveries/s", self.fan_out(row, 10).await?)]),
            Row::Replay => self.replay().await,
            Row::Latency => self.latency().await,
            Row::SlowSync => {
                let load = self.load(256, 1, VALUE_LEN);
                Ok(vec![(SLOW_SYNC, self.publishers(row, 1, load).await?.0)])
            }
            Row::Idle => self.idle().await,
            Row::Topics => self.topics().await,
            Row::Start => Err("started by itself".into()),
            Row::FleetPipelined => {
                let load = self.load(1000, 1, VALUE_LEN);
                Ok(vec![(FLEET_PIPELINED, self.publishers(row, 1, load).await?.0)])
            }
            Row::FleetFanout100 => Ok(vec![(FLEET_FANOUT, self.fan_out(row, 100).await?)]),
            Row::FleetLatency => self.live_latency().await,
            _ => Err("a row of groups".into()),
        }
    }

    pub fn load(&self, window: usize, batch: u64, value_len: usize) -> Load {
        let until = Until::Time(self.scale.time);
        Load { publisher: 0, window, batch, value_len, until, rate: None, keys: 0, followed_by: Vec::new() }
    }

    pub async fn topic(&self, name: &str) -> Outcome<String> {
        let topic = format!("{name}-{}", self.round).to_lowercase();
        self.peer.create(std::slice::from_ref(&topic)).await?;
        Ok(topic)
    }

    /// Measures records per second of `count` publishers to one topic; also returns their paces.
    pub async fn publishers(&self, row: Row, count: u64, load: Load) -> Outcome<(f64, Vec<Arc<Pace>>)> {
        let topic = self.topic(&format!("{row:?}")).await?;
        let begin = Instant::now();
        let paces = self.publish(&topic, count, &load).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let acknowledged = self.acknowledged(&paces)?;
        self.check(&[topic], acknowledged).await?;
        Ok((acknowledged.records as f64 / seconds, paces))
    }

    pub async fn publish(&self, topic: &str, count: u64, load: &Load) -> Outcome<Vec<Arc<Pace>>> {
        let mut publishers = JoinSet::new();
        let mut paces = Vec::new();
        for publisher in 0..count {
            let pace = Pace::new(Load { publisher, ..load.clone() });
            paces.push(pace.clone());
            let (peer, topic) = (self.peer.clone(), topic.to_owned());
            publishers.spawn(async move { peer.publish(&topic, pace).await });
        }
        while let Some(done) = publishers.join_next().await {
            done??;
        }
        Ok(paces)
    }

    pub fn acknowledged(&self, paces: &[Arc<Pace>]) -> Outcome<Seen> {
        paces.iter().try_fold(Seen::default(), |sum, pace| Ok(sum.and(pace.outcome()?)))
    }

    /// Verifies that exactly the acknowledged records can be read back.
    async fn check(&self, topics: &[String], acknowledged: Seen) -> Outcome<()> {
        if !self.stores {
            return Ok(());
        }
        let readers = Readers::start(&self.peer, topics, 1, Decode::Walk);
        readers.until(|seen| seen.records >= acknowledged.records).await?;
        match readers.sum() {
            seen if seen == acknowledged => Ok(()),
            seen => Err(format!("acknowledged {acknowledged:?}, read back {seen:?}").into()),
        }
    }

    /// Measures requests per second of `workers` over `topics`.
    pub async fn requests(&self, workers: u64, topics: Vec<String>) -> Outcome<f64> {
        let mut tasks = JoinSet::new();
        let mut paces = Vec::new();
        let begin = Instant::now();
        for publisher in 0..workers {
            let pace = Pace::new(Load { publisher, ..self.load(1, 1, VALUE_LEN) });
            paces.push(pace.clone());
            let (peer, topics) = (self.peer.clone(), topics.clone());
            tasks.spawn(async move { peer.one_by_one(&topics, pace).await });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let acknowledged = self.acknowledged(&paces)?;
        if topics.len() == 1 {
            self.check(&topics, acknowledged).await?;
        }
        Ok(acknowledged.records as f64 / seconds)
    }

    async fn unary(&self, workers: u64) -> Outcome<Vec<Figure>> {
        let topic = self.topic("unary").await?;
        Ok(vec![("64 concurrent requests, requests/s", self.requests(workers, vec![topic]).await?)])
    }

    async fn topics(&self) -> Outcome<Vec<Figure>> {
        const PUBLISHERS: u64 = 256;
        let one = self.topic("one").await?;
        let one = self.requests(PUBLISHERS, vec![one]).await?;
        let topics: Vec<String> =
            (0..self.scale.topics).map(|n| format!("many-{}-{n}", self.round)).collect();
        self.peer.create(&topics).await?;
        let many = self.requests(PUBLISHERS, topics).await?;
        Ok(vec![
            ("256 publishers, one topic, requests/s", one),
            ("256 publishers, 1,000 topics, requests/s", many),
        ])
    }

    pub async fn fan_out(&self, row: Row, subscribers: usize) -> Outcome<f64> {
        let topic = self.topic(&format!("{row:?}")).await?;
        let readers = Readers::start(&self.peer, std::slice::from_ref(&topic), subscribers, Decode::Walk);
        readers.subscribed().await?;
        // The limit starts to send before the last subscriber is there; that is not part of the measured time.
        let (begin, before) = (Instant::now(), readers.sum().records);
        if self.is_limit {
            tokio::time::sleep(self.scale.time).await;
        } else {
            let load = Load { followed_by: readers.progress.clone(), ..self.load(1000, 1, VALUE_LEN) };
            let acknowledged = self.acknowledged(&self.publish(&topic, 1, &load).await?)?;
            readers.each(acknowledged).await?;
        }
        Ok((readers.sum().records - before) as f64 / begin.elapsed().as_secs_f64())
    }

    async fn replay(&self) -> Outcome<Vec<Figure>> {
        let topic = self.topic("replay").await?;
        let total = self.scale.replay_records;
        if !self.is_limit {
            let until = Until::Batches(total / 100);
            let load = Load { until, ..self.load(16, 100, VALUE_LEN) };
            self.acknowledged(&self.publish(&topic, 1, &load).await?)?;
        }
        let mut figures = Vec::new();
        let ways =
            [("replay, records/s", Decode::Walk), ("replay into typed messages, records/s", Decode::Typed)];
        for (what, decode) in ways {
            let begin = Instant::now();
            let readers = Readers::start(&self.peer, std::slice::from_ref(&topic), 1, decode);
            readers.until(|seen| seen.records >= total).await?;
            figures.push((what, total as f64 / begin.elapsed().as_secs_f64()));
        }
        Ok(figures)
    }

    async fn latency(&self) -> Outcome<Vec<Figure>> {
        let load = Load { rate: Some(RATE), ..self.load(100_000, 1, VALUE_LEN) };
        let (_, paces) = self.publishers(Row::Latency, 1, load).await?;
        let micros = paces[0].micros();
        let at = |quantile| micros.value_at_quantile(quantile) as f64;
        // The limit of a durable answer is a round trip plus a sync; the sync is also shown separately.
        let sync = self.sync_micros.unwrap_or(0.0);
        let mut figures = vec![
            ("latency at 5,000/s, p50, µs", at(0.5) + sync),
            ("latency at 5,000/s, p99, µs", at(0.99) + sync),
        ];
        if self.is_limit {
            figures.push(("latency of a lone 4 KiB write and sync, µs", sync));
        }
        Ok(figures)
    }

    /// Measures from the time a record is due until the subscriber has it, and until the publisher has its acknowledgement.
    async fn live_latency(&self) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (n, (rate, [p50, p99, acknowledged])) in FLEET_LATENCY.into_iter().enumerate() {
            let topic = self.topic(&format!("live-{n}")).await?;
            let mut readers = Readers::none();
            readers.add_timed(&self.peer, &topic);
            readers.subscribed().await?;
            let load = Load { rate: Some(rate), ..self.load(100_000, 1, VALUE_LEN) };
            let paces = self.publish(&topic, 1, &load).await?;
            readers.each(self.acknowledged(&paces)?).await?;
            let live = paces[0].until(&readers.progress[0].arrivals());
            figures.push((p50, live.value_at_quantile(0.5) as f64));
            figures.push((p99, live.value_at_quantile(0.99) as f64));
            figures.push((acknowledged, paces[0].micros().value_at_quantile(0.5) as f64));
        }
        Ok(figures)
    }

    async fn idle(&self) -> Outcome<Vec<Figure>> {
        let count = self.scale.idle_subscriptions;
        let topic = self.topic("idle").await?;
        let load = Load { until: Until::Batches(1), ..self.load(1, 1, VALUE_LEN) };
        self.publish(&topic, 1, &load).await?;
        let mut figures = Vec::new();
        let ways = [
            ("idle subscription, shared connection, bytes", Connection::Shared),
            ("idle subscription, own connection, bytes", Connection::Own),
        ];
        for (what, connection) in ways {
            let before = self.peer.process().memory()?;
            let mut readers = Readers::none();
            for index in 0..count {
                readers.add(&self.peer, &topic, index, connection, Decode::Walk);
                if index % 50 == 49 {
                    readers.until(|seen| seen.records >= 1).await?;
                }
            }
            readers.until(|seen| seen.records >= 1).await?;
            let after = self.peer.process().memory()?;
            figures.push((what, after.saturating_sub(before) as f64 / count as f64));
        }
        Ok(figures)
    }
}

/// Running subscribers, which end when this is dropped.
pub struct Readers {
    tasks: JoinSet<Outcome<()>>,
    pub progress: Vec<Arc<Progress>>,
    failed: Arc<std::sync::Mutex<Option<String>>>,
}

impl Readers {
    pub fn none() -> Self {
        Self { tasks: JoinSet::new(), progress: Vec::new(), failed: Arc::default() }
    }

    /// Starts `count` subscribers of each topic on shared connections.
    fn start(peer: &Arc<dyn Peer>, topics: &[String], count: usize, decode: Decode) -> Self {
        let mut readers = Self::none();
        for topic in topics {
            for index in 0..count {
                readers.add(peer, topic, index, Connection::Shared, decode);
            }
        }
        readers
    }

    fn add(
        &mut self,
        peer: &Arc<dyn Peer>,
        topic: &str,
        index: usize,
        connection: Connection,
        decode: Decode,
    ) {
        let reader = Reader { index, connection, decode, progress: Arc::default() };
        self.spawn(peer, topic, reader);
    }

    /// Starts a subscriber on its own connection that notes when each record arrives.
    fn add_timed(&mut self, peer: &Arc<dyn Peer>, topic: &str) {
        self.add_reader(peer, topic, Arc::new(Progress::timed()));
    }

    /// Starts a subscriber on its own connection.
    pub fn add_reader(&mut self, peer: &Arc<dyn Peer>, topic: &str, progress: Arc<Progress>) {
        let reader = Reader { index: 0, connection: Connection::Own, decode: Decode::Walk, progress };
        self.spawn(peer, topic, reader);
    }

    fn spawn(&mut self, peer: &Arc<dyn Peer>, topic: &str, reader: Reader) {
        self.progress.push(reader.progress.clone());
        let (peer, topic) = (peer.clone(), topic.to_owned());
        self.spawn_task(async move { peer.read(&topic, reader).await });
    }

    /// Starts a member of a group.
    pub fn add_member(&mut self, peer: &Arc<dyn Peer>, topic: &str, group: &str, member: Member) {
        self.progress.push(member.settled.clone());
        let (peer, topic, group) = (peer.clone(), topic.to_owned(), group.to_owned());
        self.spawn_task(async move { peer.consume(&topic, &group, member).await });
    }

    fn spawn_task(&mut self, task: impl Future<Output = Outcome<()>> + Send + 'static) {
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            let ended = task.await;
            if let Err(error) = &ended {
                *failed.lock().expect("no panic under it") = Some(error.to_string());
            }
            ended
        });
    }

    async fn wait(&self, done: impl Fn(&Progress) -> bool) -> Outcome<()> {
        let begin = Instant::now();
        while !self.progress.iter().all(|progress| done(progress)) {
            if let Some(failed) = self.failed.lock().expect("no panic under it").clone() {
                return Err(format!("a subscriber: {failed}").into());
            }
            if begin.elapsed() > READ_MAX {
                return Err(format!("subscribers are not done in {READ_MAX:?}: {:?}", self.sum()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub async fn subscribed(&self) -> Outcome<()> {
        self.wait(|progress| progress.ready.load(Ordering::Acquire) == 1).await
    }

    pub async fn until(&self, done: impl Fn(Seen) -> bool) -> Outcome<()> {
        self.wait(|progress| done(progress.seen())).await
    }

    /// Waits until all together received so many records.
    pub async fn until_sum(&self, records: u64) -> Outcome<()> {
        self.wait(|_| self.sum().records >= records).await
    }

    /// Verifies that each subscriber received exactly this.
    pub async fn each(&self, expected: Seen) -> Outcome<()> {
        self.until(|seen| seen.records >= expected.records).await?;
        match self.progress.iter().map(|progress| progress.seen()).find(|seen| *seen != expected) {
            Some(seen) => Err(format!("acknowledged {expected:?}, a subscriber got {seen:?}").into()),
            None => Ok(()),
        }
    }

    pub fn sum(&self) -> Seen {
        self.progress.iter().fold(Seen::default(), |sum, progress| sum.and(progress.seen()))
    }
}
