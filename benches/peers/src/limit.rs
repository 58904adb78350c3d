//! The limit: a tonic server that stores nothing, and the disk alone, as an upper bound for a gRPC server on this machine.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::{channel, count, deliveries};
use crate::outcome::{Failure, Outcome};
use crate::pace::{Load, Pace, Until};
use crate::peer::{Connection, Decode, Peer, Process, Reader, SHARED};
use crate::proto::limit::Payload;
use crate::proto::limit::limit_client::LimitClient;
use crate::proto::limit::limit_server::{self, LimitServer};
use crate::proto::v1::{Position, Record, RecordBatch, SubscribeResponse};

/// Argument that makes this program run the server of the limit.
pub const SERVE: &str = "--serve-limit";
/// Bytes of one delivery, the size to which Streamway coalesces.
const DELIVERY_BYTES: usize = 32 << 10;
/// Number of samples of a single sync.
const SYNCS: usize = 500;

pub struct Limit {
    process: Process,
    shared: Vec<Channel>,
}

impl Limit {
    pub async fn start() -> Outcome<Self> {
        let command = |port: u16, _: &std::path::Path| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(SERVE).arg(port.to_string());
            Ok(command)
        };
        let process = Process::start(command).await?;
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(channel(process.port).await?);
        }
        Ok(Self { process, shared })
    }

    /// Measures the median microseconds of rewriting 4 KiB with a sync.
    pub fn sync_micros(&self) -> Outcome<f64> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::create(self.process.dir.path().join("sync"))?;
        let page = vec![b'x'; 4096];
        file.write_all_at(&vec![0; 4096 * SYNCS], 0)?;
        file.sync_all()?;
        let mut micros = Vec::new();
        for n in 0..SYNCS {
            let begin = Instant::now();
            file.write_all_at(&page, (n * page.len()) as u64)?;
            file.sync_data()?;
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        micros.sort_by(f64::total_cmp);
        Ok(micros[SYNCS / 2])
    }

    /// Writes the same bytes sequentially and syncs whenever the window is full.
    pub async fn disk(&self, pace: Arc<Pace>) -> Outcome<()> {
        let mut file = std::fs::File::create(self.process.dir.path().join("disk"))?;
        let chunk = vec![b'x'; pace.load.value_len * (pace.load.batch as usize) * pace.load.window];
        while pace.next().await.is_some() {
            for _ in 1..pace.load.window {
                if pace.next().await.is_none() {
                    break;
                }
            }
            file.write_all(&chunk)?;
            file.sync_data()?;
            let in_flight = pace.in_flight();
            pace.acknowledged(in_flight);
        }
        Ok(())
    }
}

/// One delivery as Streamway would send it.
fn delivery(records_a_batch: u64) -> Bytes {
    let load = Load {
        publisher: 0,
        window: 1,
        batch: records_a_batch,
        value_len: 100,
        until: Until::Batches(1),
        rate: None,
        keys: 0,
        followed_by: Vec::new(),
    };
    let pace = Pace::new(load);
    let next = Some(Position { epoch: "0123456789abcdef".into(), offset: 1 << 20 });
    let mut delivery = SubscribeResponse { next, tail: 1 << 20, ..SubscribeResponse::default() };
    let time = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 };
    while delivery.encoded_len() < DELIVERY_BYTES {
        let number = delivery.batches.len() as u64;
        let records = pace.values(number).map(|value| Record { value, ..Record::default() }).collect();
        let first_offset = (1 << 20) + number;
        delivery.batches.push(RecordBatch {
            first_offset,
            publish_time: Some(time),
            records,
            ..RecordBatch::default()
        });
    }
    delivery.encode_to_vec().into()
}

/// Encodes every record as a message of its own.
fn requests(pace: Arc<Pace>) -> impl Stream<Item = Payload> + Send + 'static {
    stream::unfold(pace, |pace| async {
        let number = pace.next().await?;
        Some((Payload { value: pace.value(number) }, pace))
    })
}

#[tonic::async_trait]
impl Peer for Limit {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn publish(&self, _topic: &str, pace: Arc<Pace>) -> Outcome<()> {
        if pace.load.batch > 1 {
            return self.disk(pace).await;
        }
        let mut client = LimitClient::new(channel(self.process.port).await?);
        let mut answers = client.echo_each(requests(pace.clone())).await?.into_inner();
        while answers.message().await?.is_some() {
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn one_by_one(&self, _topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        let mut client = LimitClient::new(self.shared[pace.load.publisher as usize % SHARED].clone());
        while let Some(number) = pace.next().await {
            client.echo(Payload { value: pace.value(number) }).await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, _topic: &str, reader: Reader) -> Outcome<()> {
        let channel = match reader.connection {
            Connection::Shared => self.shared[reader.index % SHARED].clone(),
            Connection::Own => channel(self.process.port).await?,
        };
        let stored = if reader.decode == Decode::Typed { 100 } else { 1 };
        let request = Payload { value: delivery(stored) };
        let mut messages = deliveries(channel, "/limit.Limit/Sink", request).await?;
        reader.progress.subscribed();
        while let Some(mut message) = messages.message().await? {
            // The field of the payload: a tag, a length of three bytes, then the delivery.
            let payload = <Payload as prost::Message>::decode(&mut message)?;
            reader.progress.add(count(payload.value, reader.decode)?);
        }
        Err("the sink ended".into())
    }
}

/// Runs the server of the limit until the process is killed.
pub async fn serve(port: u16) -> Result<(), Failure> {
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true)
        .add_service(LimitServer::new(Server));
    Ok(server.serve(([127, 0, 0, 1], port).into()).await?)
}

struct Server;

#[tonic::async_trait]
impl limit_server::Limit for Server {
    async fn echo(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type EchoEachStream = Streaming<Payload>;

    async fn echo_each(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::EchoEachStream>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type SinkStream = std::pin::Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn sink(&self, request: Request<Payload>) -> Result<Response<Self::SinkStream>, Status> {
        let payload = request.into_inner();
        Ok(Response::new(stream::repeat_with(move || Ok(payload.clone())).boxed()))
    }
}
