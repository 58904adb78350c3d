//! Redis Streams: redis-server with an append-only file, with handwritten pipelined XADD and XREAD, so that the client costs
//! little more than its socket.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::outcome::Outcome;
use crate::pace::{Pace, Seen};
use crate::peer::{Member, Order, Peer, Process, Reader};
use crate::redis_group;

/// Entries of one XREAD.
const READ_COUNT: &str = "1000";
/// Maximum bytes of one read from the socket.
const READ_BYTES: usize = 256 << 10;

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

pub fn command(parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn add(topic: &str, value: &[u8], out: &mut Vec<u8>) {
    command(&[b"XADD", topic.as_bytes(), b"*", b"v", value], out);
}

/// Reader of replies.
pub struct Replies {
    socket: OwnedReadHalf,
    bytes: BytesMut,
}

impl Replies {
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, bytes: BytesMut::with_capacity(READ_BYTES) }
    }

    async fn more(&mut self) -> Outcome<()> {
        self.bytes.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.bytes).await? {
            0 => Err("redis closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Returns the complete replies received so far, at least one.
    pub async fn take(&mut self, mut each: impl FnMut(&[&[u8]])) -> Outcome<u64> {
        loop {
            let (mut at, mut complete, mut replies) = (0, 0, 0);
            let mut leaves = Vec::new();
            while parse(&self.bytes, &mut at, &mut leaves)?.is_some() {
                each(&leaves);
                leaves.clear();
                replies += 1;
                complete = at;
            }
            drop(leaves);
            bytes::Buf::advance(&mut self.bytes, complete);
            if replies > 0 {
                return Ok(replies);
            }
            self.more().await?;
        }
    }
}

/// Parses one reply at `at` into its strings; `None` if it is incomplete.
fn parse<'a>(bytes: &'a [u8], at: &mut usize, leaves: &mut Vec<&'a [u8]>) -> Outcome<Option<()>> {
    let rest = &bytes[*at..];
    let Some(line_len) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = &rest[..line_len];
    *at += line_len + 2;
    let number = || std::str::from_utf8(&line[1..]).ok().and_then(|n| n.parse::<i64>().ok());
    match line.first() {
        Some(b'-') => return Err(String::from_utf8_lossy(line).into()),
        Some(b'$') => {
            let len = usize::try_from(number().ok_or("a reply without its length")?).unwrap_or(0);
            let Some(leaf) = bytes.get(*at..*at + len) else { return Ok(None) };
            if bytes.len() < *at + len + 2 {
                return Ok(None);
            }
            leaves.push(leaf);
            *at += len + 2;
        }
        Some(b'*') => {
            for _ in 0..number().ok_or("a reply without its length")? {
                if parse(bytes, at, leaves)?.is_none() {
                    return Ok(None);
                }
            }
        }
        _ => leaves.push(line),
    }
    Ok(Some(()))
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
