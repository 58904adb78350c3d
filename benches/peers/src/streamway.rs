//! Streamway: a release server process, by itself or as a replica of a fleet, and the client that tonic
//! generates from its protos.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::OnceCell;
use tonic::Code;
use tonic::transport::Channel;

use crate::cluster::{self, urls};
use crate::group_member;
use crate::grpc::{channel, count, deliveries};
use crate::outcome::Outcome;
use crate::pace::{Load, Pace, Until};
use crate::peer::{Connection, Member, Order, Peer, Process, Reader, SHARED};
use crate::proto::v1::group_service_client::GroupServiceClient;
use crate::proto::v1::stream_service_client::StreamServiceClient;
use crate::proto::v1::topic_service_client::TopicServiceClient;
use crate::proto::v1::{
    Boundary, CreateGroupRequest, CreateTopicRequest, DeliveryOrder, ExchangeRequest, Group, GroupSettings,
    NumberedPublish, Open, PublishRequest, Record, SubscribeRequest, Topic, exchange_request::Kind,
    subscribe_request::Start,
};

/// Time allowed for recovery.
const READY_MAX: Duration = Duration::from_secs(60);
/// Most records that a group leases or blocks: above those of any row.
const LOOKAHEAD_MAX: u64 = 3_000_000;

pub struct Streamway {
    process: Process,
    shared: Vec<Channel>,
    /// Another replica of a fleet, started when it is needed, so that it owns no group that was used before.
    other: OnceCell<Process>,
    /// The NATS cluster of a replica of a fleet; stopped after the replica.
    nats: Vec<Process>,
    binary: PathBuf,
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
        let mut server = Self::on(replica(binary, &nats).await?).await?;
        (server.nats, server.binary) = (nats, binary.into());
        Ok(server)
    }

    /// A channel of its own to another replica of the fleet.
    async fn other_channel(&self) -> Outcome<Channel> {
        let start = || async {
            let process = replica(&self.binary, &self.nats).await?;
            ready(&channel(process.port).await?).await?;
            Outcome::Ok(process)
        };
        channel(self.other.get_or_try_init(start).await?.port).await
    }

    pub async fn on(process: Process) -> Outcome<Self> {
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(channel(process.port).await?);
        }
        ready(&shared[0]).await?;
        Ok(Self { process, shared, other: OnceCell::new(), nats: Vec::new(), binary: PathBuf::new() })
    }

    pub fn kill(self) -> Outcome<tempfile::TempDir> {
        self.process.kill()
    }
}

/// The port answers before recovery is done: waits until a first publish is stored.
async fn ready(channel: &Channel) -> Outcome<()> {
    let begin = Instant::now();
    let load = Load { window: 1, batch: 1, value_len: 8, until: Until::Batches(1), ..Load::default() };
    loop {
        match one_by_one(channel, &["ready".to_owned()], Pace::new(load.clone())).await {
            Err(error) if begin.elapsed() > READY_MAX => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// Starts a replica on a cluster.
async fn replica(binary: &Path, nats: &[Process]) -> Outcome<Process> {
    let urls = urls(nats).join(",");
    let command = |port, dir: &Path| {
        let mut command = serve(binary)(port, dir)?;
        command.args(["--engine", "jetstream", "--nats-url", &urls]);
        Ok(command)
    };
    Process::start(command).await
}

async fn one_by_one(channel: &Channel, topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
    let mut client = StreamServiceClient::new(channel.clone());
    while let Some(number) = pace.next().await {
        let topic = &topics[(number + pace.load.publisher) as usize % topics.len()];
        client.publish(batch(topic, &pace, number)).await?;
        pace.acknowledged(1);
    }
    Ok(())
}

fn batch(topic: &str, pace: &Pace, number: u64) -> PublishRequest {
    let keyed = (number * pace.load.batch..).map(|number| pace.key(number));
    let records =
        keyed.zip(pace.values(number)).map(|(key, value)| Record { key, value, ..Record::default() });
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
        one_by_one(&self.shared[pace.load.publisher as usize % SHARED], topics, pace).await
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

    async fn create_group(&self, topic: &str, group: &str, order: Order) -> Outcome<()> {
        let new = Topic { name: topic.into(), ..Topic::default() };
        let created = TopicServiceClient::new(self.shared[0].clone())
            .create_topic(CreateTopicRequest { topic: Some(new) })
            .await;
        created.map(drop).or_else(|status| match status.code() {
            Code::AlreadyExists => Ok(()),
            _ => Err(status),
        })?;
        let order = match order {
            Order::None => DeliveryOrder::None,
            Order::Key => DeliveryOrder::Key,
        };
        let settings =
            GroupSettings { order: order.into(), lookahead_max: LOOKAHEAD_MAX, ..GroupSettings::default() };
        let group =
            Group { topic: topic.into(), name: group.into(), settings: Some(settings), ..Group::default() };
        let request = CreateGroupRequest { group: Some(group), start: None };
        GroupServiceClient::new(self.shared[0].clone()).create_group(request).await?;
        Ok(())
    }

    async fn prepare(&self, member: &Member) -> Outcome<()> {
        if member.is_remote {
            self.other_channel().await?;
        }
        Ok(())
    }

    async fn consume(&self, topic: &str, group: &str, member: Member) -> Outcome<()> {
        let channel = match member.connection {
            _ if member.is_remote => self.other_channel().await?,
            Connection::Shared => self.shared[member.index % SHARED].clone(),
            Connection::Own => channel(self.process.port).await?,
        };
        group_member::consume(channel, topic, group, member).await
    }
}
