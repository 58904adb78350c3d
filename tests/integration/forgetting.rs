//! kill -9 under load while records are deleted: every record that was not trimmed, has not expired and does not belong to
//! a deleted topic is there, once, in order.

use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::{CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, Retention, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

use crate::crash::assert_sound;
use crate::harness::identities::until;
use crate::harness::make::history;
use crate::harness::{Reader, Seen, Server, TopicClient, seed, soak, within};
use crate::history::Recorder;
use crate::history::check::Summary;
use crate::history::clients::{Publisher, trimming};
use crate::history::gone;

const TOPIC: &str = "forgetting";
/// Small files, so that whole ones are deleted during the kills.
const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];

struct Load {
    server: Server,
    recorder: Recorder,
    rng: Rng,
    done: watch::Sender<bool>,
    lasting: JoinSet<()>,
}

impl Load {
    async fn begin(retention: Retention) -> Self {
        let mut rng = Rng::with_seed(seed());
        fastrand::seed(rng.u64(..));
        let server = Server::with(&SMALL).await;
        let topic = Topic { name: TOPIC.into(), retention: Some(retention), ..Topic::default() };
        let created = server.topics().await.create_topic(CreateTopicRequest { topic: Some(topic) }).await;
        created.expect("a topic");
        let recorder = Recorder::new();
        let mut load = Self { server, recorder, rng, done: watch::channel(false).0, lasting: JoinSet::new() };
        for name in ["one", "two"] {
            let publisher = load.publisher(name).await;
            load.lasting.spawn(publisher.faithful());
        }
        load
    }

    async fn publisher(&self, name: &str) -> Publisher {
        Publisher {
            client: self.server.client().await,
            topic: TOPIC.into(),
            name: name.into(),
            rng: Rng::with_seed(fastrand::u64(..)),
            recorder: self.recorder.clone(),
            stop: self.done.subscribe(),
            pause: Duration::ZERO,
        }
    }

    /// Kills the server during the load and restarts it.
    async fn round(&mut self, name: &str) {
        let mut publishers = JoinSet::new();
        publishers.spawn(self.publisher(name).await.exchanging());
        self.recorder.reach(self.rng.u64(50..300)).await;
        self.server.kill9().await;
        publishers.join_all().await;
        self.server.restart().await;
    }

    /// Waits until retention has deleted something.
    async fn forgotten(&self) {
        let mut topics = self.server.topics().await;
        until("retention deletes records", async || {
            let found = topics.get_topic(GetTopicRequest { name: TOPIC.into() }).await.expect("the topic");
            found.into_inner().topic.expect("the topic").earliest_offset > 0
        })
        .await;
    }

    /// Reads the whole topic, again if retention deletes records before they are read.
    async fn read(&self) -> Vec<Seen> {
        let mut client = self.server.client().await;
        loop {
            let mut reader = Reader::open(&mut client, history(TOPIC)).await.expect("subscribed");
            match reader.rest().await {
                Ok(seen) => return seen,
                Err(status) => assert_eq!(status.code(), Code::OutOfRange, "{status:?}"),
            }
        }
    }

    async fn end(mut self) -> Summary {
        self.done.send_replace(true);
        within(60, "the lasting clients", std::mem::take(&mut self.lasting).join_all()).await;
        let epoch = epoch(&mut self.server.topics().await).await.expect("the topic is there");
        let topic = self.read().await;
        assert_sound(&self.recorder.history_of(&epoch, &topic))
    }
}

async fn epoch(topics: &mut TopicClient) -> Option<String> {
    let found = topics.get_topic(GetTopicRequest { name: TOPIC.into() }).await.ok()?;
    found.into_inner().topic.map(|topic| topic.epoch)
}

fn rounds() -> usize {
    if soak() { 100 } else { 6 }
}

/// P1, P2, P4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trims_under_kill_9_lose_nothing_that_was_not_trimmed() {
    let mut load = Load::begin(Retention::default()).await;
    let (topics, stop) = (load.server.topics().await, load.done.subscribe());
    let rng = Rng::with_seed(fastrand::u64(..));
    load.lasting.spawn(trimming(topics, TOPIC.into(), load.recorder.clone(), rng, stop));
    for round in 0..rounds() {
        load.round(&format!("r{round}")).await;
    }
    let summary = load.end().await;
    println!("{summary:?}");
    assert!(summary.gone > 0 && summary.acknowledged > summary.gone / 2, "trims under load: {summary:?}");
}

/// P1, P2, P4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_under_kill_9_loses_nothing_within_it() {
    let mut load = Load::begin(Retention { max_records: 500, ..Retention::default() }).await;
    load.recorder.retains(gone::Retention { records: Some(500), ..gone::Retention::default() });
    for round in 0..rounds() {
        load.round(&format!("r{round}")).await;
    }
    // A round may be shorter than the interval at which retention runs.
    load.forgotten().await;
    load.round("last").await;
    let summary = load.end().await;
    println!("{summary:?}");
    assert!(summary.gone > 0 && summary.records >= 500, "retention under load: {summary:?}");
}

/// P1: a topic becomes empty or gets another epoch only if somebody deleted it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_under_kill_9_loses_its_old_incarnations_alone() {
    let mut load = Load::begin(Retention::default()).await;
    for round in 0..rounds() {
        let mut topics = load.server.topics().await;
        if let Some(epoch) = epoch(&mut topics).await {
            let begun = load.recorder.begin_deletion(&epoch);
            let request = DeleteTopicRequest { name: TOPIC.into(), epoch };
            // Publishing recreates it.
            if topics.delete_topic(request).await.is_ok() {
                load.recorder.end_deletion(begun);
            }
        }
        load.round(&format!("r{round}")).await;
    }
    let summary = load.end().await;
    println!("{summary:?}");
    assert!(summary.gone > 0 && summary.records > 0, "deletions under load: {summary:?}");
}
