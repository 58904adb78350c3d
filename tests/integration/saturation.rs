//! Mixed load at saturation: every kind of publisher at full speed, subscribers that follow, restart and leave, topics that
//! are created and deleted. Memory, files, tasks and disk do not grow, and no published record is missing, repeated or out of
//! order (P2, P3, P6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, OutOfRangePolicy, Retention, SubscribeRequest, Topic,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::make::{
    earliest, ingest, latest, numbered, open, or_else, publish, published, record, records, subscribe,
};
use crate::harness::vitals::{Vitals, mean};
use crate::harness::{Reader, Server, StreamClient, read_all, soak, within};

/// Retention of 32 MiB each, because topics without retention would fill the disk.
const TOPICS: [&str; 3] = ["unary", "ingest", "exchange"];
const KEPT_BYTES: u64 = 32 << 20;
const RECORDS: usize = 10;
/// Small files and caches, so that all of them fill up and are recycled many times.
const ARGS: [&str; 12] = [
    "--storage-journal-bytes",
    "8MiB",
    "--storage-segment-bytes",
    "4MiB",
    "--storage-cache-bytes",
    "16MiB",
    "--storage-unflushed-bytes-max",
    "32MiB",
    "--storage-open-files-max",
    "16",
    "--inflight-bytes-max",
    "16MiB",
];

#[derive(Clone)]
struct Load {
    client: StreamClient,
    stop: watch::Receiver<bool>,
    acknowledged: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
}

impl Load {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn batch(&self) -> Vec<streamway::proto::v1::Record> {
        vec![record(vec![b's'; 1000]); RECORDS]
    }

    async fn unary(mut self) {
        while !self.stopped() {
            let batch = self.batch();
            published(&mut self.client, TOPICS[0], batch).await;
            self.acknowledged.fetch_add(RECORDS as u64, Ordering::Relaxed);
        }
    }

    async fn ingesting(self) {
        while !self.stopped() {
            let (requests, stream) = mpsc::channel(8);
            let mut client = self.client.clone();
            let answer = tokio::spawn(async move { client.ingest(ReceiverStream::new(stream)).await });
            for _ in 0..200 {
                requests.send(ingest(publish(TOPICS[1], self.batch()))).await.expect("the call goes on");
            }
            drop(requests);
            let sum = within(60, "the sum", answer).await.unwrap().expect("accepted").into_inner();
            assert_eq!((sum.batches, sum.records), (200, 200 * RECORDS as u64));
            self.acknowledged.fetch_add(sum.records, Ordering::Relaxed);
        }
    }

    async fn exchanging(mut self) {
        let (requests, stream) = mpsc::channel(8);
        requests.send(open(TOPICS[2])).await.unwrap();
        let mut answers = self.client.exchange(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let this = self.clone();
        let sender = tokio::spawn(async move {
            let mut number = 0;
            while !this.stopped() {
                number += 1;
                requests.send(numbered(number, publish("", this.batch()))).await.unwrap();
            }
            number
        });
        let mut acknowledged = 0;
        while let Some(answer) = answers.message().await.expect("the call goes on") {
            acknowledged += answer.receipts.len() as u64;
            self.acknowledged.fetch_add((answer.receipts.len() * RECORDS) as u64, Ordering::Relaxed);
        }
        assert_eq!(sender.await.unwrap(), acknowledged, "everything sent was acknowledged");
    }

    /// Continues to read; a slow reader may be told that retention has overtaken it.
    async fn following(mut self, topic: &str, request: SubscribeRequest, records: u64) {
        let request = or_else(request, OutOfRangePolicy::Earliest);
        let mut reader = Reader::open(&mut self.client, request).await.expect(topic);
        let mut seen = 0;
        while seen < records {
            tokio::select! {
                more = reader.records() => {
                    let more = more.expect("goes on").expect("not ended").len() as u64;
                    seen += more;
                    self.delivered.fetch_add(more, Ordering::Relaxed);
                }
                _ = self.stop.changed() => return,
            }
        }
    }

    /// Connects, reads some old records, and disconnects.
    async fn coming_and_going(self, at: std::net::SocketAddr) {
        while !self.stopped() {
            let client = StreamClient::new(crate::harness::connect(at).await);
            let visitor = Self { client, ..self.clone() };
            let topic = TOPICS[fastrand::usize(..TOPICS.len())];
            visitor.following(topic, subscribe(topic, earliest()), fastrand::u64(1..20_000)).await;
        }
    }

    /// Creates, uses and deletes topics.
    async fn passing_topics(mut self, mut topics: crate::harness::TopicClient, name: String) {
        while !self.stopped() {
            published(&mut self.client, &name, records("passing", 100)).await;
            assert_eq!(read_all(&mut self.client, &name).await.len(), 100);
            let delete = DeleteTopicRequest { name: name.clone(), ..DeleteTopicRequest::default() };
            topics.delete_topic(delete).await.expect("deleted");
        }
    }
}

async fn begin(server: &Server, load: &Load) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let with = async |load: &Load| Load { client: server.client().await, ..load.clone() };
    for _ in 0..16 {
        tasks.spawn(with(load).await.unary());
    }
    for _ in 0..2 {
        tasks.spawn(with(load).await.ingesting());
        tasks.spawn(with(load).await.exchanging());
    }
    for topic in TOPICS {
        for start in [earliest(), latest()] {
            tasks.spawn(with(load).await.following(topic, subscribe(topic, start), u64::MAX));
        }
    }
    for i in 0..3 {
        tasks.spawn(load.clone().coming_and_going(server.listen()));
        let topics = server.topics().await;
        tasks.spawn(with(load).await.passing_topics(topics, format!("passing{i}")));
    }
    tasks
}

async fn limited_topics(server: &Server) {
    for name in TOPICS {
        let retention = Retention { max_bytes: KEPT_BYTES, ..Retention::default() };
        let topic = Topic { name: name.into(), retention: Some(retention), ..Topic::default() };
        let create = CreateTopicRequest { topic: Some(topic) };
        server.topics().await.create_topic(create).await.expect("created");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_load_at_saturation_leaves_memory_files_tasks_and_disk_flat() {
    let seconds = crate::harness::number("TESTS_SECONDS").unwrap_or(if soak() { 600 } else { 30 });
    let server = Server::with(&ARGS).await;
    limited_topics(&server).await;
    let idle = Vitals::of(&server).await;
    let (done, stop) = watch::channel(false);
    let load =
        Load { client: server.client().await, stop, acknowledged: Arc::default(), delivered: Arc::default() };
    let mut tasks = begin(&server, &load).await;
    let (begun, mut seen) = (Instant::now(), Vec::new());
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while begun.elapsed() < Duration::from_secs(seconds) {
        tick.tick().await;
        seen.push(Vitals::of(&server).await);
        assert!(tasks.try_join_next().is_none_or(|ended| ended.is_ok()), "all of the load goes on");
    }
    let (acknowledged, delivered) =
        (load.acknowledged.load(Ordering::Relaxed), load.delivered.load(Ordering::Relaxed));
    done.send_replace(true);
    let ending = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap()
        }
    };
    within(60, "the load's end", ending).await;
    drop(load);

    // Compares the second half with the second quarter, when everything has been full once.
    let quarter = seen.len() / 4;
    let (early, late) = (mean(&seen[quarter..2 * quarter]), mean(&seen[2 * quarter..]));
    println!(
        "{seconds} s: {acknowledged} records acknowledged ({} a second), {delivered} delivered\n\
         idle {idle}\nsecond quarter {early}\nsecond half {late}",
        acknowledged / seconds
    );
    let limit = |before: u64, slack: u64| before + before / 5 + slack;
    assert!(late.resident <= limit(early.resident, 16 << 20), "memory is flat");
    assert!(late.disk <= limit(early.disk, 16 << 20), "disk is flat");
    assert!(
        late.files <= limit(early.files, 8) && late.tasks <= limit(early.tasks, 16),
        "files and tasks are flat"
    );
    let at_rest = async {
        loop {
            let now = Vitals::of(&server).await;
            if now.files <= idle.files + 20 && now.tasks <= idle.tasks + 4 && now.threads <= idle.threads + 4
            {
                return now;
            }
            // There is no event for this in another process.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let rest = within(30, "all that was open to be closed", at_rest).await;
    println!("at rest {rest}");
}
