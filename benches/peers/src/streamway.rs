//! Streamway: a release server process, by itself or as a replica of a fleet, and the client that tonic
//! generates from its protos.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use tonic::transport::Channel;

use crate::cluster::{self, urls};
use crate::grpc::{channel, count, deliveries};
use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Until};
use crate::peer::{Connection, Peer, Process, Reader, SHARED};
use crate::proto::v1::stream_service_client::StreamServiceClient;
use crate::proto::v1::topic_service_client::TopicServiceClient;
use crate::proto::v1::{
    Boundary, CreateTopicRequest, ExchangeRequest, NumberedPublish, Open, PublishRequest, Record,
    SubscribeRequest, Topic, exchange_request::Kind, subscribe_request::Start,
};

/// Time allowed for recovery.
const READY_MAX: Duration = Duration::from_secs(60);

pub struct Streamway {
    process: Process,
    shared: Vec<Channel>,
    /// The NATS cluster of a replica of a fleet; stopped after the replica.
    nats: Vec<Process>,
}

/// The server's command line.
pub fn serve(binary: &Path) -> impl Fn(u16, &Path) -> Outcome<Command> {
    let binary = PathBuf::from(binary);
    move |port, dir| {
        let mut command = Command::new(&binary);
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(dir.join("data"));
        Ok(command)
    }
}

impl Streamway {
    pub async fn start(binary: &Path) -> Outcome<Self> {
        Self::on(Process::start(serve(binary)).await?).await
    }

    /// One replica that keeps its topics in a cluster of three.
    pub async fn fleet(binary: &Path, nats: &Path) -> Outcome<Self> {
        let nats = cluster::start(nats).await?;
        let urls = urls(&nats).join(",");
        let replica = Process::start(|port, dir: &Path| {
            let mut command = serve(binary)(port, dir)?;
            command.args(["--engine", "jetstream", "--nats-url", &urls]);
            Ok(command)
        });
        let mut server = Self::on(replica.await?).await?;
        server.nats = nats;
        Ok(server)
    }

    pub async fn on(process: Process) -> Outcome<Self> {
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(channel(process.port).await?);
        }
        let server = Self { process, shared, nats: Vec::new() };
        server.ready().await?;
        Ok(server)
    }

    /// The port answers before recovery is done: waits until a first publish is stored.
    async fn ready(&self) -> Outcome<()> {
        let begin = Instant::now();
        let load = Load { window: 1, batch: 1, value_len: 8, until: Until::Batches(1), ..Load::default() };
        loop {
            match self.one_by_one(&["ready".to_owned()], Pace::new(load.clone())).await {
                Err(error) if begin.elapsed() > READY_MAX => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    pub fn kill(self) -> Outcome<tempfile::TempDir> {
        self.process.kill()
    }
}

fn batch(topic: &str, pace: &Pace, number: u64) -> PublishRequest {
    let records = pace.values(number).map(|value| Record { value, ..Record::default() });
    PublishRequest { topic: topic.into(), records: records.collect(), ..PublishRequest::default() }
}

/// An Exchange's side of the client.
fn requests(topic: String, pace: Arc<Pace>) -> impl Stream<Item = ExchangeRequest> + Send + 'static {
    let window = pace.load.window as u32;
    let open = Open { topic, window, merge_receipts: true, ..Open::default() };
    let publishes = stream::unfold(pace, |pace| async {
        let number = pace.next().await?;
        let publish = Some(batch("", &pace, number));
        Some((Kind::Publish(NumberedPublish { number: number + 1, publish }), pace))
    });
    let kinds = stream::iter([Kind::Open(open)]).chain(publishes);
    kinds.map(|kind| ExchangeRequest { kind: Some(kind) })
}

#[tonic::async_trait]
impl Peer for Streamway {
    fn process(&self) -> &Process {
        &self.process
    }

    /// In a fleet a topic is a stream of the cluster, which takes a while to make.
    async fn create(&self, topics: &[String]) -> Outcome<()> {
        if self.nats.is_empty() {
            return Ok(());
        }
        let mut client = TopicServiceClient::new(self.shared[0].clone());
        for name in topics {
            let topic = Some(Topic { name: name.clone(), ..Topic::default() });
            client.create_topic(CreateTopicRequest { topic }).await?;
        }
        Ok(())
    }

    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()> {
        let mut client = StreamServiceClient::new(channel(self.process.port).await?);
        let requests = requests(topic.into(), pace.clone());
        let mut answers = client.exchange(requests).await?.into_inner();
        let mut known = 0;
        while let Some(answer) = answers.message().await? {
            // Merged: the last one's number is that of the last publish acknowledged.
            let acknowledged = answer.receipts.last().map_or(known, |receipt| receipt.number);
            pace.acknowledged(acknowledged - known);
            known = acknowledged;
        }
        Ok(())
    }

    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        let mut client = StreamServiceClient::new(self.shared[pace.load.publisher as usize % SHARED].clone());
        while let Some(number) = pace.next().await {
            let topic = &topics[(number + pace.load.publisher) as usize % topics.len()];
            client.publish(batch(topic, &pace, number)).await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()> {
        let channel = match reader.connection {
            Connection::Shared => self.shared[reader.index % SHARED].clone(),
            Connection::Own => channel(self.process.port).await?,
        };
        let start = Some(Start::Boundary(Boundary::Earliest.into()));
        let request = SubscribeRequest { topic: topic.into(), start, ..SubscribeRequest::default() };
        let mut messages = deliveries(channel, "/streamway.v1.StreamService/Subscribe", request).await?;
        reader.progress.subscribed();
        while let Some(message) = messages.message().await? {
            reader.progress.add(count(message, reader.decode)?);
        }
        Err("the subscription ended".into())
    }
}
