//! Redis Streams: redis-server with an append-only file, with handwritten pipelined XADD and XREAD, so that the client costs
//! little more than its socket.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::outcome::Outcome;
use crate::pace::{Pace, Seen};
use crate::peer::{Member, Order, Peer, Process, Reader};
use crate::redis_group;
use crate::resp::{READ_BYTES, Replies, command};

/// Entries of one XREAD.
const READ_COUNT: &str = "1000";
pub struct Redis {
    process: Process,
}

impl Redis {
    pub async fn start(fsync: &'static str) -> Outcome<Self> {
        let command = |port: u16, dir: &Path| {
            let mut command = Command::new("redis-server");
            command.args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "yes",
            ]);
            command.args(["--appendfsync", fsync, "--dir"]).arg(dir);
            Ok(command)
        };
        Ok(Self { process: Process::start(command).await? })
    }

    async fn connect(&self) -> Outcome<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", self.process.port)).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

fn add(topic: &str, value: &[u8], out: &mut Vec<u8>) {
    command(&[b"XADD", topic.as_bytes(), b"*", b"v", value], out);
}

#[tonic::async_trait]
impl Peer for Redis {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn publish(&self, topic: &str, pace: Arc<Pace>) -> Outcome<()> {
        let (reading, mut writing) = self.connect().await?.into_split();
        let (sending, topic) = (pace.clone(), topic.to_owned());
        let sender = tokio::spawn(async move {
            let (mut out, mut batches) = (Vec::new(), 0_u64);
            loop {
                let next = match sending.next().now_or_never() {
                    Some(next) if out.len() < READ_BYTES => next,
                    ready => {
                        writing.write_all(&out).await?;
                        out.clear();
                        match ready {
                            Some(next) => next,
                            None => sending.next().await,
                        }
                    }
                };
                let Some(batch) = next else { break };
                for value in sending.values(batch) {
                    add(&topic, &value, &mut out);
                }
                batches += 1;
            }
            writing.write_all(&out).await?;
            Outcome::Ok((batches, writing))
        });
        let (mut replies, mut records, mut acknowledged) = (Replies::new(reading), 0, 0);
        let mut sender = Some(sender);
        let mut total = u64::MAX;
        let mut kept = None;
        while acknowledged < total {
            tokio::select! {
                taken = replies.take(|_| ()) => {
                    records += taken?;
                    let batches = records / pace.load.batch;
                    pace.acknowledged(batches - acknowledged);
                    acknowledged = batches;
                }
                sent = async { sender.as_mut().expect("checked below").await }, if sender.is_some() => {
                    let (batches, writing) = sent??;
                    total = batches;
                    kept = Some(writing);
                    sender = None;
                }
            }
        }
        drop(kept);
        Ok(())
    }

    async fn one_by_one(&self, topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        let (reading, mut writing) = self.connect().await?.into_split();
        let mut replies = Replies::new(reading);
        while let Some(number) = pace.next().await {
            let topic = &topics[(number + pace.load.publisher) as usize % topics.len()];
            let mut out = Vec::new();
            add(topic, &pace.value(number), &mut out);
            writing.write_all(&out).await?;
            replies.take(|_| ()).await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, topic: &str, reader: Reader) -> Outcome<()> {
        let (reading, mut writing) = self.connect().await?.into_split();
        let mut replies = Replies::new(reading);
        let mut last = b"0".to_vec();
        reader.progress.subscribed();
        loop {
            let mut out = Vec::new();
            let parts: [&[u8]; 8] = [
                b"XREAD",
                b"COUNT",
                READ_COUNT.as_bytes(),
                b"BLOCK",
                b"0",
                b"STREAMS",
                topic.as_bytes(),
                &last,
            ];
            command(&parts, &mut out);
            writing.write_all(&out).await?;
            let mut seen = Seen::default();
            replies
                .take(|leaves| {
                    // The key, then for each entry its id, the field's name and its value.
                    for entry in leaves[1..].chunks_exact(3) {
                        seen.value(entry[2]);
                        last = entry[0].to_vec();
                    }
                })
                .await?;
            reader.progress.add(seen);
        }
    }

    async fn create_group(&self, topic: &str, group: &str, _: Order) -> Outcome<()> {
        redis_group::create(self.connect().await?, topic, group).await
    }

    async fn consume(&self, topic: &str, group: &str, member: Member) -> Outcome<()> {
        redis_group::consume(self.connect().await?, topic, group, member).await
    }
}
