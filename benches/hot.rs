//! The hot pieces by themselves: the walker, the codecs, blocks, and the log without a network.
//!
//! `cargo bench --bench hot`

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use streamway::config::StorageConfig;
use streamway::record::block::{self, Blocks, records_fields};
use streamway::record::{Batch, BatchLimits, Epoch, Offset, Position, Receipt, TopicName, UnixMicros};
use streamway::storage::embedded::EmbeddedLog;
use streamway::storage::{Hold, Log as _, Retention};
use streamway::wire::{
    ExchangeRequest, ExchangeResponse, NumberedReceipt, PublishRequest, SubscribeResponse, Wire as _,
};

fn records(count: usize) -> Bytes {
    let mut record = Vec::new();
    prost::encoding::bytes::encode(2, &vec![b'x'; 100], &mut record);
    records_fields(std::iter::repeat_n(record.as_slice(), count))
}

fn batch(count: usize) -> Batch {
    Batch::check(records(count), BatchLimits::default()).expect("within the limits")
}

fn codecs(c: &mut Criterion) {
    for count in [1, 100] {
        let mut group = c.benchmark_group(format!("{count} records of 100 bytes"));
        group.throughput(Throughput::Elements(count as u64));
        let bytes = records(count);
        group.bench_function("check a batch", |b| {
            b.iter(|| Batch::check(black_box(bytes.clone()), BatchLimits::default()));
        });
        let publish = PublishRequest { records: bytes, ..PublishRequest::default() };
        let mut message = BytesMut::new();
        ExchangeRequest::Publish { number: 1000, publish }.put(&mut message);
        let message = message.freeze();
        group.bench_function("parse a numbered publish", |b| {
            b.iter(|| ExchangeRequest::parse(black_box(message.clone())));
        });
        let (batch, mut out) = (batch(count), BytesMut::with_capacity(64 << 10));
        group.bench_function("encode a block", |b| {
            b.iter(|| {
                out.clear();
                block::encode(
                    Offset::new(123_456),
                    UnixMicros(1_700_000_000_000_000),
                    black_box(&batch),
                    &mut out,
                );
            });
        });
        let run = out.freeze();
        group.bench_function("walk a block", |b| {
            b.iter(|| Blocks::new(black_box(&run)).flatten().map(|block| block.count()).sum::<u64>());
        });
        group.finish();
    }
}

fn messages(c: &mut Criterion) {
    let next = Position { epoch: Epoch::new(7), offset: Offset::new(1_000_000) };
    let mut out = BytesMut::with_capacity(256 << 10);
    let mut run = BytesMut::new();
    for n in 0..400 {
        block::encode(Offset::new(n), UnixMicros(1_700_000_000_000_000), &batch(1), &mut run);
    }
    let delivery = SubscribeResponse {
        batches: vec![run.freeze()],
        ..SubscribeResponse::bare(next, next.offset, Default::default())
    };
    c.bench_function("encode a delivery of 400 batches", |b| {
        b.iter(|| {
            out.clear();
            black_box(&delivery).put(&mut out);
        });
    });
    let receipts =
        (0..1000).map(|number| NumberedReceipt { number, receipt: Receipt { next, ..Receipt::default() } });
    let receipts = ExchangeResponse { receipts: receipts.collect(), ..ExchangeResponse::default() };
    c.bench_function("encode 1000 receipts", |b| {
        b.iter(|| {
            out.clear();
            black_box(&receipts).put(&mut out);
        });
    });
}

fn log(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let log = EmbeddedLog::open(dir.path(), &StorageConfig::default(), 10).expect("a new log");
    let name = TopicName::parse("bench").expect("a name");
    let topic = runtime.block_on(log.create(name, Retention::default())).expect("a topic");
    let mut appender = topic.appender();
    let mut group = c.benchmark_group("log");
    for batches in [1_usize, 1000] {
        group.throughput(Throughput::Elements(batches as u64));
        let batches = vec![batch(1); batches];
        group.bench_function(format!("commit {} batches, synced", batches.len()), |b| {
            b.iter(|| runtime.block_on(appender.append(batches.clone(), Hold::default())));
        });
    }
    let from = Offset::new(topic.tail().get() - 400);
    group.throughput(Throughput::Elements(400));
    group.bench_function("read 400 batches from the tail cache", |b| {
        b.iter(|| topic.read_cached(black_box(from), 64 << 10));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = codecs, messages, log
}
criterion_main!(benches);
