//! s2-lite on a local directory, with its own SDK: one append session per publisher.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use s2_sdk::append_session::{AppendSessionConfig, BatchSubmitTicket};
use s2_sdk::types::{
    AppendInput, AppendRecord, AppendRecordBatch, BasinName, CreateBasinInput, CreateStreamInput, ReadFrom,
    ReadInput, ReadSessionConfig, ReadStart, S2Config, S2Endpoints,
};
use s2_sdk::{S2, S2Basin, S2Stream};
use tokio::sync::mpsc;

use crate::outcome::Outcome;
use crate::pace::{Pace, Seen};
use crate::peer::{Peer, Process, Reader, SHARED};

const BASIN: &str = "benchmark";

pub struct S2Lite {
    process: Process,
    shared: Vec<S2Basin>,
}

impl S2Lite {
    pub async fn start(binary: &Path) -> Outcome<Self> {
        let command = |port: u16, dir: &Path| {
            let root = dir.join("root");
            std::fs::create_dir_all(&root)?;
            let mut command = Command::new(binary);
            command.args(["--port", &port.to_string(), "--no-dashboard", "--local-root"]).arg(root);
            command.env("RUST_LOG", "error");
            Ok(command)
        };
        let process = Process::start(command).await?;
        let client = client(process.port)?;
        client.create_basin(CreateBasinInput::new(basin()?)).await?;
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(self::client(process.port)?.basin(basin()?));
        }
        Ok(Self { process, shared })
    }

    fn stream(&self, index: usize, topic: &str) -> Outcome<S2Stream> {
        Ok(self.shared[index % SHARED].stream(topic.parse()?))
    }
}

fn basin() -> Outcome<BasinName> {
    Ok(BASIN.parse()?)
}

fn client(port: u16) -> Outcome<S2> {
    let endpoints = S2Endpoints::for_endpoint(&format!("http://127.0.0.1:{port}"))?;
    let config =
        S2Config::new("unused").with_endpoints(endpoints).with_request_timeout(Duration::from_secs(60));
    Ok(S2::new(config)?)
}

fn batch(pace: &Pace, number: u64) -> Outcome<AppendInput> {
    let mut records = Vec::new();
    for value in pace.values(number) {
        records.push(AppendRecord::new(value)?);
    }
    Ok(AppendInput::new(AppendRecordBatch::try_from_iter(records)?))
}

#[tonic::async_trait]
impl Peer for S2Lite {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn create(&self, topics: &[String]) -> Outcome<()> {
        let basin = &self.shared[0];
        for topic in topics {
            basin.create_stream(CreateStreamInput::new(topic.parse()?)).await?;
        }
        Ok(())
    }

    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()> {
        let stream = client(self.process.port)?.basin(basin()?).stream(topic.parse()?);
        let session = stream.append_session(AppendSessionConfig::new());
        let (sent, mut tickets) = mpsc::unbounded_channel::<BatchSubmitTicket>();
        let waiting = pace.clone();
        let acknowledging = tokio::spawn(async move {
            while let Some(ticket) = tickets.recv().await {
                ticket.await?;
                waiting.acknowledged(1);
            }
            Outcome::Ok(())
        });
        while let Some(number) = pace.next().await {
            // Sending fails only if the other half has failed, and its error says why.
            let _ = sent.send(session.submit(batch(&pace, number)?).await?);
        }
        drop(sent);
        acknowledging.await??;
        Ok(session.close().await?)
    }

    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        while let Some(number) = pace.next().await {
            let topic = &topics[(number + pace.load.publisher) as usize % topics.len()];
            let stream = self.stream(pace.load.publisher as usize, topic)?;
            stream.append(batch(&pace, number)?).await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()> {
        let stream = self.stream(reader.index, topic)?;
        let input = ReadInput::new().with_start(ReadStart::new().with_from(ReadFrom::SeqNum(0)));
        let mut batches = stream.read_session(input, ReadSessionConfig::default()).await?;
        reader.progress.subscribed();
        while let Some(batch) = batches.next().await {
            let mut seen = Seen::default();
            batch?.records.iter().for_each(|record| seen.value(&record.body));
            reader.progress.add(seen);
        }
        Err("the read session ended".into())
    }
}
