//! Throughput of a whole server in a process of its own, over loopback, durable: pipelined publish,
//! fan-out, replay, idle subscriptions. Prints one line a workload; figures are of this machine.
//!
//! `cargo bench --bench throughput [-- WORKLOAD…]`

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use streamway::config::Config;
use streamway::proto::v1;
use streamway::record::block::{Blocks, records_fields};
use streamway::wire::stubs::v1::stream_service_client::StreamServiceClient;
use streamway::wire::{ExchangeRequest, PublishRequest, SubscribeResponse};
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};

type Client = StreamServiceClient<Channel>;
type Failure = Box<dyn std::error::Error>;

/// Bytes of one record's value.
const VALUE_LEN: usize = 100;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let workers = std::env::var("WORKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    if let Some(dir) = args.first().and_then(|arg| arg.strip_prefix("--serve=")) {
        return runtime.block_on(serve(dir.into()));
    }
    let wants = |name: &str| args.is_empty() || args.iter().any(|arg| name.starts_with(arg.as_str()));
    runtime.block_on(async {
        for window in [1000, 8000] {
            if wants("publish") {
                publish(window).await?;
            }
        }
        for batch in [1, 100] {
            if wants("fanout") {
                fanout(batch).await?;
            }
        }
        if wants("replay") {
            replay().await?;
        }
        if wants("idle") {
            idle().await?;
        }
        if wants("restart") {
            restart().await?;
        }
        Ok(())
    })
}

async fn serve(data_dir: PathBuf) -> Result<(), Failure> {
    let mut config = Config { data_dir, ..Config::default() };
    config.listen.set_port(0);
    config.admin_listen.set_port(0);
    let mut running = streamway::server::start(config).await?;
    running.ready().await?;
    println!("{}", running.grpc_addr().port());
    Ok(running.wait().await?)
}

struct Server {
    child: Child,
    port: u16,
    dir: Option<tempfile::TempDir>,
}

impl Server {
    fn start() -> Result<Self, Failure> {
        Self::start_in(tempfile::tempdir_in(".")?)
    }

    fn start_in(dir: tempfile::TempDir) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(format!("--serve={}", dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        Ok(Self { port: line.trim().parse()?, child, dir: Some(dir) })
    }

    async fn client(&self) -> Result<Client, Failure> {
        let channel = Endpoint::try_from(format!("http://127.0.0.1:{}", self.port))?
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .tcp_nodelay(true)
            .connect()
            .await?;
        Ok(Client::new(channel).max_decoding_message_size(16 << 20))
    }

    fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

impl Server {
    /// Kills the process; what it left stays.
    fn kill(mut self) -> Result<tempfile::TempDir, Failure> {
        self.child.kill()?;
        self.child.wait()?;
        self.dir.take().ok_or_else(|| "killed twice".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn records(count: usize) -> Bytes {
    let mut record = Vec::new();
    prost::encoding::bytes::encode(2, &vec![b'x'; VALUE_LEN], &mut record);
    records_fields(std::iter::repeat_n(record.as_slice(), count))
}

/// Publishes `total` batches through one Exchange, `window` in flight; answers the seconds it took.
async fn exchange(
    client: &mut Client,
    topic: &str,
    records: Bytes,
    window: usize,
    total: u64,
) -> Result<f64, Failure> {
    let permits = Arc::new(Semaphore::new(window));
    let open = v1::Open { topic: topic.into(), window: window as u32, ..Default::default() };
    let sending = permits.clone();
    let publishes = futures_util::stream::unfold(1_u64, move |number| {
        let (permits, records) = (sending.clone(), records.clone());
        async move {
            if number > total {
                return None;
            }
            permits.acquire().await.ok()?.forget();
            let publish = PublishRequest { records, ..PublishRequest::default() };
            Some((ExchangeRequest::Publish { number, publish }, number + 1))
        }
    });
    let requests = futures_util::stream::iter([ExchangeRequest::Open(open.into())]).chain(publishes);
    let begin = Instant::now();
    let mut answers = client.exchange(requests).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(answer) = answers.message().await? {
        acknowledged += answer.receipts.len() as u64;
        permits.add_permits(answer.receipts.len());
    }
    assert_eq!(acknowledged, total);
    Ok(begin.elapsed().as_secs_f64())
}

async fn publish(window: usize) -> Result<(), Failure> {
    const TOTAL: u64 = 1_000_000;
    let server = Server::start()?;
    let mut client = server.client().await?;
    exchange(&mut client, "bench", records(1), window, TOTAL / 10).await?;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let seconds = exchange(&mut client, "bench", records(1), window, TOTAL).await?;
        rates.push(TOTAL as f64 / seconds);
    }
    report(&format!("publish, 1 record each, {window} in flight"), &mut rates, "records/s");
    println!("{:>60} {:.0} MiB", "server memory then", server.rss_kib() as f64 / 1024.0);
    Ok(())
}

fn report(what: &str, rates: &mut [f64], unit: &str) {
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    println!(
        "{what:>60} {median:>12.0} {unit} (median of {}, {:.0} to {:.0})",
        rates.len(),
        rates[0],
        rates[rates.len() - 1]
    );
}

/// Records in a delivery, each looked at.
fn count(delivery: &SubscribeResponse) -> u64 {
    let blocks = delivery.batches.iter().flat_map(|run| Blocks::new(run));
    blocks.map(|block| block.map_or(0, |block| block.count())).sum()
}

async fn subscribe(
    client: &mut Client,
    boundary: v1::Boundary,
    max_records: u64,
) -> Result<tonic::Streaming<SubscribeResponse>, Failure> {
    let request = v1::SubscribeRequest {
        topic: "bench".into(),
        start: Some(v1::subscribe_request::Start::Boundary(boundary.into())),
        limit: Some(v1::ReadLimit { max_records, ..Default::default() }),
        ..Default::default()
    };
    Ok(client.subscribe(request).await?.into_inner())
}

async fn fanout(batch: usize) -> Result<(), Failure> {
    const SUBSCRIBERS: usize = 100;
    const CONNECTIONS: usize = 10;
    let total = if batch == 1 { 200_000 } else { 400_000 };
    let server = Server::start()?;
    let mut publisher = server.client().await?;
    exchange(&mut publisher, "bench", records(1), 1000, 1).await?;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let delivered = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = server.client().await?;
            for _ in 0..SUBSCRIBERS / CONNECTIONS {
                let mut deliveries = subscribe(&mut client, v1::Boundary::Latest, total).await?;
                let delivered = delivered.clone();
                tasks.push(tokio::spawn(async move {
                    while let Ok(Some(delivery)) = deliveries.message().await {
                        delivered.fetch_add(count(&delivery), Ordering::Relaxed);
                    }
                }));
            }
        }
        let begin = Instant::now();
        exchange(&mut publisher, "bench", records(batch), 2000, total / batch as u64).await?;
        for task in tasks {
            task.await?;
        }
        let delivered = delivered.load(Ordering::Relaxed);
        assert_eq!(delivered, total * SUBSCRIBERS as u64);
        rates.push(delivered as f64 / begin.elapsed().as_secs_f64());
    }
    report(&format!("fan-out to {SUBSCRIBERS}, batches of {batch}"), &mut rates, "deliveries/s");
    Ok(())
}

async fn replay() -> Result<(), Failure> {
    const TOTAL: u64 = 1_000_000;
    let server = Server::start()?;
    let mut client = server.client().await?;
    exchange(&mut client, "bench", records(100), 100, TOTAL / 100).await?;
    let mut rates = Vec::new();
    for _ in 0..5 {
        let mut deliveries = subscribe(&mut client, v1::Boundary::Earliest, TOTAL).await?;
        let (begin, mut seen) = (Instant::now(), 0);
        while let Some(delivery) = deliveries.message().await? {
            seen += count(&delivery);
        }
        assert_eq!(seen, TOTAL);
        rates.push(TOTAL as f64 / begin.elapsed().as_secs_f64());
    }
    report("replay of 1,000,000, stored in batches of 100", &mut rates, "records/s");
    Ok(())
}

async fn idle() -> Result<(), Failure> {
    const SUBSCRIPTIONS: u64 = 5_000;
    let server = Server::start()?;
    let mut client = server.client().await?;
    println!("{:>60} {:.1} MiB", "server at rest", server.rss_kib() as f64 / 1024.0);
    exchange(&mut client, "bench", records(1), 10, 10).await?;
    let before = server.rss_kib();
    let mut open = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        let mut deliveries = subscribe(&mut client, v1::Boundary::Latest, 0).await?;
        deliveries.message().await?;
        open.push(deliveries);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = (server.rss_kib() - before) * 1024 / SUBSCRIPTIONS;
    println!("{:>60} {bytes} bytes", "one idle subscription on a shared connection");
    Ok(())
}

/// Bulk publish of 2 GB, then kill -9, and the time from start to the first answer.
async fn restart() -> Result<(), Failure> {
    const BATCH: usize = 100;
    const TOTAL: u64 = 20_000;
    let server = Server::start()?;
    let mut client = server.client().await?;
    let mut record = Vec::new();
    prost::encoding::bytes::encode(2, &vec![b'x'; 1024], &mut record);
    let records = records_fields(std::iter::repeat_n(record.as_slice(), BATCH));
    let bytes = records.len() as f64 * TOTAL as f64;
    let seconds = exchange(&mut client, "bench", records, 64, TOTAL).await?;
    println!("{:>60} {:.0} MB/s", "bulk publish, 1 KiB x 100 a batch, 2 GB", bytes / seconds / 1e6);
    println!("{:>60} {:.0} MiB", "server memory then", server.rss_kib() as f64 / 1024.0);
    drop(client);
    let mut dir = server.kill()?;
    for _ in 0..3 {
        let begin = Instant::now();
        let server = Server::start_in(dir)?;
        let seconds = begin.elapsed().as_secs_f64();
        let mut client = server.client().await?;
        let mut deliveries = subscribe(&mut client, v1::Boundary::Earliest, BATCH as u64 * TOTAL).await?;
        let mut seen = 0;
        while let Some(delivery) = deliveries.message().await? {
            seen += count(&delivery);
        }
        assert_eq!(seen, BATCH as u64 * TOTAL);
        println!("{:>60} {seconds:.3} s", "start after kill -9 with 2 GB, until serving");
        dir = server.kill()?;
    }
    Ok(())
}
