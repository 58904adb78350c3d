//! NATS JetStream: nats-server with one stream per topic, file storage, and the async-nats client.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::{Context, stream};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use crate::cluster::{self, urls};
use crate::nats_group;
use crate::outcome::Outcome;
use crate::pace::{Pace, Seen};
use crate::peer::{Connection, Member, Order, Peer, Process, Reader, SHARED};

/// Long, because a slow disk is to be measured and is not an error.
const ACK_WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Nats {
    /// A single server or a cluster.
    servers: Vec<Process>,
    shared: Vec<Context>,
}

impl Nats {
    /// `settings` are lines of the configuration's jetstream block.
    pub async fn start(binary: &Path, settings: &'static str) -> Outcome<Self> {
        let command = |port: u16, dir: &Path| {
            let store = dir.join("store");
            let config = format!(
                "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n max_file_store: 40GB\n {settings} }}\n"
            );
            std::fs::write(dir.join("nats.conf"), config)?;
            let mut command = Command::new(binary);
            command.arg("--config").arg(dir.join("nats.conf"));
            Ok(command)
        };
        Self::on(vec![Process::start(command).await?]).await
    }

    /// Three servers that sync every message, with three copies of each.
    pub async fn cluster(binary: &Path) -> Outcome<Self> {
        Self::on(cluster::start(binary).await?).await
    }

    async fn on(servers: Vec<Process>) -> Outcome<Self> {
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(connect(&servers).await?);
        }
        Ok(Self { servers, shared })
    }
}

async fn connect(servers: &[Process]) -> Outcome<Context> {
    let client = async_nats::connect(urls(servers)).await?;
    Ok(ContextBuilder::new()
        .timeout(ACK_WAIT_MAX)
        .ack_timeout(ACK_WAIT_MAX)
        .max_ack_inflight(100_000)
        .build(client))
}

#[tonic::async_trait]
impl Peer for Nats {
    fn process(&self) -> &Process {
        &self.servers[0]
    }

    async fn create(&self, topics: &[String]) -> Outcome<()> {
        for topic in topics {
            let config = stream::Config {
                name: topic.clone(),
                subjects: vec![topic.clone()],
                storage: stream::StorageType::File,
                num_replicas: self.servers.len(),
                ..stream::Config::default()
            };
            self.shared[0].create_stream(config).await?;
        }
        Ok(())
    }

    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()> {
        let context = connect(&self.servers).await?;
        let (sent, mut answers) = mpsc::unbounded_channel::<PublishAckFuture>();
        let waiting = pace.clone();
        let acknowledging = tokio::spawn(async move {
            let mut records = 0;
            while let Some(answer) = answers.recv().await {
                answer.await?;
                records += 1;
                if records % waiting.load.batch == 0 {
                    waiting.acknowledged(1);
                }
            }
            Outcome::Ok(())
        });
        while let Some(batch) = pace.next().await {
            for value in pace.values(batch) {
                // Sending fails only if the other half has failed, and its error says why.
                let _ = sent.send(context.publish(topic.to_owned(), value).await?);
            }
        }
        drop(sent);
        acknowledging.await?
    }

    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        let context = &self.shared[pace.load.publisher as usize % SHARED];
        while let Some(number) = pace.next().await {
            let topic = &topics[(number + pace.load.publisher) as usize % topics.len()];
            context.publish(topic.clone(), pace.value(number)).await?.await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()> {
        let context = match reader.connection {
            Connection::Shared => self.shared[reader.index % SHARED].clone(),
            Connection::Own => connect(&self.servers).await?,
        };
        let stream = context.get_stream(topic).await?;
        let mut messages = stream.create_consumer(OrderedConfig::default()).await?.messages().await?;
        reader.progress.subscribed();
        while let Some(message) = messages.next().await {
            let mut seen = Seen::default();
            seen.value(&message?.payload);
            reader.progress.add(seen);
        }
        Err("the consumer ended".into())
    }

    async fn create_group(&self, topic: &str, group: &str, _: Order) -> Outcome<()> {
        nats_group::create(&self.shared[0], topic, group).await
    }

    async fn consume(&self, topic: &str, group: &str, member: Member) -> Outcome<()> {
        let context = match member.connection {
            Connection::Shared => self.shared[member.index % SHARED].clone(),
            Connection::Own => connect(&self.servers).await?,
        };
        nats_group::consume(&context, topic, group, member).await
    }
}
