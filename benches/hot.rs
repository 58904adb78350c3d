//! Benchmarks of the hot pieces in isolation: the walker, the codecs, blocks, and the log without a network. Criterion
//! times them, and benches/instructions counts their instructions.
//!
//! `cargo bench --bench hot`; with `-- --test` each runs once, untimed

use std::hint::black_box;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use futures_util::{FutureExt as _, StreamExt as _};
use streamway::config::StorageConfig;
use streamway::record::block::{self, Blocks, records_fields};
use streamway::record::{Batch, BatchLimits, Epoch, Offset, Position, Receipt, TopicName, UnixMicros};
use streamway::service::incoming::Incoming;
use streamway::storage::embedded::EmbeddedLog;
use streamway::storage::{Hold, Log as _, Retention, TopicLog};
use streamway::wire::{
    ExchangeRequest, ExchangeResponse, NumberedReceipt, PublishRequest, SubscribeResponse, Wire as _,
};

/// Batches in one read of a live subscription, about 64 KiB.
const DELIVERY_BATCHES: usize = 400;
const DELIVERY_BYTES: usize = 64 << 10;
const TIME: UnixMicros = UnixMicros(1_700_000_000_000_000);

/// Warm-up runs before the counted ones, so that memory is allocated and first-time branches have been taken.
const WARM_UP: u64 = 20;
/// Function that is counted for a piece that runs only on the caller's thread.
const COUNTED: &str = "hot::counted";
/// Function that is counted for a commit: the committer's own work, from appends to answers. Counting the caller's thread
/// would include how the two threads happened to wait for each other.
const COMMITTED: &str = "streamway::storage::embedded::committer::Committer::append";

/// Number of batches with request ids in a commit, and of messages in a frame of HTTP/2.
const PIPELINED: usize = 64;

/// A measured piece: its name, its number of records, and a function that runs it once.
type Piece = (String, usize, Box<dyn FnMut()>);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--pieces"] => pieces().iter().for_each(|(name, ..)| println!("{}\t{name}", core(name))),
        ["--piece", name, runs] => run(name, runs.parse().expect("a number of runs")),
        _ => time(),
    }
}

/// Name in callgrind of the function whose instructions are counted.
fn core(name: &str) -> &'static str {
    if name.starts_with("commit ") { COMMITTED } else { COUNTED }
}

/// Runs one piece this many times, for a tool that counts instructions.
fn run(name: &str, runs: u64) {
    let mut pieces = pieces();
    let (_, _, piece) = pieces.iter_mut().find(|piece| piece.0 == name).expect("a piece of that name");
    (0..WARM_UP).for_each(|_| piece());
    counted(piece, runs);
}

/// Counting starts when this function is entered. It is a separate function so that the tool can find it by name.
#[inline(never)]
fn counted(piece: &mut dyn FnMut(), runs: u64) {
    (0..runs).for_each(|_| piece());
}

fn time() {
    let config = Criterion::default().measurement_time(Duration::from_secs(2));
    let mut criterion = config.warm_up_time(Duration::from_millis(500)).configure_from_args();
    for (name, records, mut piece) in pieces() {
        let mut group = criterion.benchmark_group("hot");
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(name, |bencher| bencher.iter(&mut piece));
        group.finish();
    }
    criterion.final_summary();
}

fn pieces() -> Vec<Piece> {
    let mut pieces = Vec::new();
    for count in [1, 100] {
        pieces.extend(codecs(count));
    }
    pieces.extend(messages());
    pieces.push(incoming());
    pieces.extend(log());
    pieces.push(numbered());
    pieces
}

fn piece(name: impl Into<String>, records: usize, run: impl FnMut() + 'static) -> Piece {
    (name.into(), records, Box::new(run))
}

fn records(count: usize) -> Bytes {
    let mut record = Vec::new();
    prost::encoding::bytes::encode(2, &vec![b'x'; 100], &mut record);
    records_fields(std::iter::repeat_n(record.as_slice(), count))
}

fn batch(count: usize) -> Batch {
    Batch::check(records(count), BatchLimits::default()).expect("within the limits")
}

fn codecs(count: usize) -> [Piece; 4] {
    let bytes = records(count);
    let publish = PublishRequest { records: bytes.clone(), ..PublishRequest::default() };
    let mut message = BytesMut::new();
    ExchangeRequest::Publish { number: 1000, publish }.put(&mut message);
    let message = message.freeze();
    let (batch, mut out) = (batch(count), BytesMut::with_capacity(64 << 10));
    let mut run = BytesMut::new();
    block::encode(Offset::new(123_456), TIME, &batch, &mut run);
    let run = run.freeze();
    [
        piece(format!("check a batch of {count}"), count, move || {
            let _ = black_box(Batch::check(black_box(bytes.clone()), BatchLimits::default()));
        }),
        piece(format!("parse a numbered publish of {count}"), count, move || {
            let _ = black_box(ExchangeRequest::parse(black_box(message.clone())));
        }),
        piece(format!("encode a block of {count}"), count, move || {
            out.clear();
            block::encode(Offset::new(123_456), TIME, black_box(&batch), &mut out);
        }),
        piece(format!("walk a block of {count}"), count, move || {
            black_box(Blocks::new(black_box(&run)).flatten().map(|block| block.count()).sum::<u64>());
        }),
    ]
}

fn messages() -> [Piece; 2] {
    let next = Position { epoch: Epoch::new(7), offset: Offset::new(1_000_000) };
    let mut run = BytesMut::new();
    for n in 0..DELIVERY_BATCHES {
        block::encode(Offset::new(n as u64), TIME, &batch(1), &mut run);
    }
    let delivery = SubscribeResponse {
        batches: vec![run.freeze()],
        ..SubscribeResponse::bare(next, next.offset, Default::default())
    };
    let receipts =
        (0..1000).map(|number| NumberedReceipt { number, receipt: Receipt { next, ..Receipt::default() } });
    let receipts = ExchangeResponse { receipts: receipts.collect(), ..ExchangeResponse::default() };
    let (mut deliveries, mut answers) =
        (BytesMut::with_capacity(256 << 10), BytesMut::with_capacity(256 << 10));
    [
        piece(format!("encode a delivery of {DELIVERY_BATCHES}"), DELIVERY_BATCHES, move || {
            deliveries.clear();
            black_box(&delivery).put(&mut deliveries);
        }),
        piece("encode 1000 receipts", 1000, move || {
            answers.clear();
            black_box(&receipts).put(&mut answers);
        }),
    ]
}

/// A body of one frame.
struct Frame(Option<Bytes>);

impl http_body::Body for Frame {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

fn incoming() -> Piece {
    let mut frame = BytesMut::new();
    for number in 0..PIPELINED as u64 {
        let (records, request_id) = (records(1), format!("publisher-{number}").into());
        let publish = PublishRequest { records, request_id, ..PublishRequest::default() };
        let message = ExchangeRequest::Publish { number, publish };
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.wire_len()).expect("a short message"));
        message.put(&mut frame);
    }
    let frame = frame.freeze();
    piece(format!("take {PIPELINED} messages of a call apart"), PIPELINED, move || {
        let body = tonic::body::Body::new(Frame(Some(frame.clone())));
        let mut messages = Incoming::<ExchangeRequest>::new(body, None, 4 << 20);
        while let Some(message) = messages.next().now_or_never().expect("all of it is there") {
            let _ = black_box(message);
        }
    })
}

/// A commit of batches with request ids, where the window of request ids is full: one is forgotten for each.
fn numbered() -> Piece {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let config = StorageConfig { request_ids_max: 10 * PIPELINED, ..StorageConfig::default() };
    let log = EmbeddedLog::open(dir.path(), &config, 10).expect("a new log");
    let name = TopicName::parse("bench").expect("a name");
    let topic = runtime.block_on(log.create(name, Retention::default())).expect("a topic");
    let (mut appender, mut next) = (topic.appender(), 0_u64);
    let kept = (log, dir);
    piece(format!("commit {PIPELINED} batches with request ids, synced"), PIPELINED, move || {
        let _kept = &kept;
        let ids = next..next + PIPELINED as u64;
        next = ids.end;
        let batches =
            ids.map(|n| batch(1).with_request_id(&format!("publisher-{n:06}")).expect("a request id"));
        let batches = batches.collect();
        black_box(runtime.block_on(appender.append(batches, Hold::default())));
    })
}

fn log() -> Vec<Piece> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let log = EmbeddedLog::open(dir.path(), &StorageConfig::default(), 10).expect("a new log");
    let name = TopicName::parse("bench").expect("a name");
    let topic = runtime.block_on(log.create(name, Retention::default())).expect("a topic");
    let mut appender = topic.appender();
    runtime.block_on(appender.append(vec![batch(1); 2 * DELIVERY_BATCHES], Hold::default()));
    let kept = std::rc::Rc::new((runtime, log, dir));
    let mut pieces = Vec::new();
    for batches in [1_usize, 1000] {
        let (kept, mut appender, batches) = (kept.clone(), topic.appender(), vec![batch(1); batches]);
        pieces.push(piece(format!("commit {} batches, synced", batches.len()), batches.len(), move || {
            black_box(kept.0.block_on(appender.append(batches.clone(), Hold::default())));
        }));
    }
    let reading = (kept.clone(), topic.clone());
    pieces.push(piece(format!("read {DELIVERY_BATCHES} from the tail cache"), DELIVERY_BATCHES, move || {
        black_box(reading.1.read_cached(newest(&*reading.1), DELIVERY_BYTES));
    }));
    let mut out = BytesMut::with_capacity(256 << 10);
    pieces.push(piece(format!("fan {DELIVERY_BATCHES} out to 10"), 10 * DELIVERY_BATCHES, move || {
        let (_kept, from) = (&kept, newest(&*topic));
        for _ in 0..10 {
            let chunk = topic.read_cached(from, DELIVERY_BYTES).expect("it was just written");
            let next = Position { epoch: Epoch::new(7), offset: chunk.next };
            out.clear();
            SubscribeResponse {
                batches: chunk.runs,
                ..SubscribeResponse::bare(next, chunk.next, Default::default())
            }
            .put(&mut out);
        }
    }));
    pieces
}

/// Offset of a subscriber that lags by one delivery.
fn newest(topic: &dyn TopicLog) -> Offset {
    Offset::new(topic.tail().get() - DELIVERY_BATCHES as u64)
}
