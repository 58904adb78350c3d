//! Tests of zero, the first and the largest value in each request to NATS: NATS's meaning of them, and the engine's.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;

use super::{config, created, open, put};
use crate::config::StorageConfig;
use crate::record::{Offset, UnixMicros};
use crate::storage::conformance::{batch, flatten, name, read_all};
use crate::storage::embedded::EmbeddedLog;
use crate::storage::jetstream::flight::{Outcome, send};
use crate::storage::jetstream::server::Nats;
use crate::storage::{Error, Hold, Log, Retention, Start, TopicLog};

/// Checks the answers of NATS on which the engine relies. A server with other answers needs another engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_takes_edge_values_as_the_engine_believes() {
    let nats = Nats::single("");
    let log = open(&config(&nats)).await;
    let topic = created(&*log, "t").await;
    let stream = log.nats.context.get_stream_no_info("streamway-t").await.unwrap();
    let subject = log.topics()[&name("t")].subject.clone();
    let expecting = async |last: &str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", last);
        send(&log.nats, &subject, async_nats::Request::new().headers(headers)).await
    };
    // An expected last sequence of 0 is a condition too.
    assert!(matches!(expecting("0").await, Outcome::Stored(1)));
    assert!(matches!(expecting("0").await, Outcome::Taken(1)));
    assert!(matches!(expecting("18446744073709551615").await, Outcome::Taken(1)));
    for n in 2..=6 {
        assert!(matches!(expecting(&(n - 1).to_string()).await, Outcome::Stored(sequence) if sequence == n));
    }
    let bounds = async || {
        let state = log.nats.info("streamway-t").await.unwrap().unwrap().state;
        (state.messages, state.first_sequence, state.last_sequence)
    };
    // Messages: there is none beyond the newest, and 0 is not a sequence.
    for (sequence, is_there) in [(1, true), (6, true), (7, false), (u64::MAX, false)] {
        let found = log.nats.message("streamway-t", sequence).await.unwrap();
        assert_eq!(found.is_some(), is_there, "message {sequence}");
    }
    assert!(log.nats.message("streamway-t", 0).await.is_err());
    // Consumers: they start at the first message or later. None is created beyond the next sequence, because versions
    // differ there.
    for (start, delivered) in [(1, 0), (6, 5), (7, 6)] {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: start };
        let consumer = log.nats.consumer("streamway-t", policy, false).await.unwrap();
        assert_eq!(consumer.cached_info().delivered.stream_sequence, delivered, "from {start}");
    }
    let none = DeliverPolicy::ByStartSequence { start_sequence: 0 };
    assert!(log.nats.consumer("streamway-t", none, false).await.is_err());
    // Purges: 0 and 1 would remove everything, so they are not sent.
    for sequence in [0, 1] {
        log.nats.purge("streamway-t", sequence).await.unwrap();
        assert_eq!(bounds().await, (6, 1, 6), "before {sequence}");
    }
    for (sequence, left) in [(2, (5, 2, 6)), (2, (5, 2, 6)), (6, (1, 6, 6)), (7, (0, 7, 6)), (7, (0, 7, 6))] {
        log.nats.purge("streamway-t", sequence).await.unwrap();
        assert_eq!(bounds().await, left, "before {sequence}");
    }
    assert!(matches!(expecting("6").await, Outcome::Stored(7)));
    stream.purge().sequence(1).await.unwrap();
    // To 2.10 it means everything and to 2.15 nothing, which is another reason not to send it.
    assert!(matches!(bounds().await, (0, 8, 7) | (1, 7, 7)), "NATS's own meaning of 1");
    drop(topic);
}

/// Reads of no bytes, and of more bytes than NATS can count, return records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_any_size_is_answered() {
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.storage.cache_bytes = 1;
    let log = open(&config).await;
    let topic = created(&*log, "t").await;
    for n in 0..20 {
        put(&*topic, n).await.unwrap();
    }
    for bytes in [0, 1, i64::MAX as usize, i64::MAX as usize + 1, usize::MAX] {
        let read = tokio::time::timeout(Duration::from_secs(10), topic.read(Offset::ZERO, bytes));
        assert!(read.await.expect("it is answered").unwrap().records > 0, "{bytes} bytes");
    }
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 20);
}

/// A size that NATS cannot reserve is refused for that reason, and nothing is created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_that_nats_cannot_reserve_is_refused() {
    let nats = Nats::single_with_store("64MB");
    let log = open(&config(&nats)).await;
    let of = |bytes| Retention { max_bytes: Some(bytes), ..Retention::default() };
    let topic = created(&*log, "t").await;
    put(&*topic, 1).await.unwrap();
    for bytes in [1 << 30, (1 << 60) - 1] {
        let made = log.create(name("u"), of(bytes)).await.err();
        assert!(matches!(&made, Some(Error::NoRoom { bytes: told, .. }) if *told == bytes), "{made:?}");
        let updated = log.update(&name("t"), of(bytes)).await.err();
        assert!(matches!(&updated, Some(Error::NoRoom { .. })), "{updated:?}");
        assert!(updated.unwrap().to_string().contains("max_file_store"));
    }
    // A size that no store can hold is no limit.
    log.update(&name("t"), of(1 << 60)).await.unwrap();
    log.create(name("u"), of(1 << 20)).await.unwrap();
    assert_eq!(read_all(&*topic, Offset::ZERO).await.unwrap().len(), 1);
}

/// Place in a topic, named by its records, because the engines number records differently.
#[derive(Clone, Copy, Debug)]
enum Place {
    Zero,
    Record(usize),
    /// Offset after that of a record. After the last one of a batch, it is the `next` of the receipt.
    After(usize),
    Tail,
    BeyondTail,
    Largest,
}

/// Number of records of each batch. Each batch is stored separately.
const BATCHES: [usize; 4] = [3, 1, 2, 3];
const RECORDS: usize = 9;

/// Engine with a topic that holds these records.
struct Side {
    log: Arc<dyn Log>,
    topic: Arc<dyn TopicLog>,
    offsets: Vec<Offset>,
    afters: Vec<Offset>,
}

impl Side {
    async fn new(log: Arc<dyn Log>) -> Self {
        let topic = created(&*log, "edges").await;
        let (mut offsets, mut afters, mut payloads) = (Vec::new(), Vec::new(), 0_u64..);
        for count in BATCHES {
            let of: Vec<_> = payloads.by_ref().take(count).collect();
            let done = topic.appender().append(vec![batch(&of, 0)], Hold::default()).await;
            let receipt = &done.receipts[0];
            offsets.extend((0..count as u64).map(|n| receipt.first.plus(n)));
            afters.extend((1..count as u64).map(|n| receipt.first.plus(n)).chain([receipt.next.offset]));
        }
        Self { log, topic, offsets, afters }
    }

    fn offset(&self, place: Place) -> Offset {
        match place {
            Place::Zero => Offset::ZERO,
            Place::Record(n) => self.offsets[n],
            Place::After(n) => self.afters[n],
            Place::Tail => self.topic.tail(),
            Place::BeyondTail => self.topic.tail().plus(1),
            Place::Largest => Offset::new(u64::MAX),
        }
    }

    /// Returns the index of the record at an offset, or of the next one after it.
    fn record(&self, found: Result<Offset, Error>) -> Result<usize, &'static str> {
        let of = |offset| self.offsets.partition_point(|at| *at < offset);
        found.map(of).map_err(|error| error.kind())
    }

    async fn start(&self, start: Start) -> Result<usize, &'static str> {
        self.record(self.topic.resolve(start).await)
    }

    async fn trim(&self, before: Place) -> Result<usize, &'static str> {
        let trimmed = self.log.trim(&name("edges"), None, self.offset(before)).await;
        if let Ok(earliest) = &trimmed {
            assert_eq!(*earliest, self.topic.earliest());
        }
        self.record(trimmed)
    }

    /// Returns the first record of a read.
    async fn read(&self, from: Place, bytes: usize) -> Result<Option<u64>, &'static str> {
        let read = self.topic.read(self.offset(from), bytes).await;
        read.map(|chunk| flatten(&chunk.runs).first().map(|(_, n)| *n)).map_err(|error| error.kind())
    }

    async fn publish(&self, expected: Place) -> Option<&'static str> {
        let batch = batch(&[99], 0).expecting(Some(self.offset(expected)));
        let done = self.topic.appender().append(vec![batch], Hold::default()).await;
        done.failure.map(|error| error.kind())
    }

    async fn everything(&self) -> Vec<u64> {
        let read = read_all(&*self.topic, self.topic.earliest()).await.unwrap();
        read.into_iter().map(|(_, payload)| payload).collect()
    }
}

/// Asserts that both engines give the same answer to one request, and returns it.
macro_rules! alike {
    ($sides:expr, $what:expr, $ask:ident($($arg:expr),*)) => {{
        let (one, other) = tokio::join!($sides[0].$ask($($arg),*), $sides[1].$ask($($arg),*));
        assert_eq!(one, other, "{} {:?}, embedded and JetStream", stringify!($ask), $what);
        one
    }};
}

/// Both engines answer trims, starts, reads and conditions at zero, the first, the last and the largest offset and one
/// more in the same way, whatever was trimmed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_answer_edge_values_alike() {
    let (nats, dir) = (Nats::single(""), tempfile::tempdir().unwrap());
    let embedded = EmbeddedLog::open(dir.path(), &StorageConfig::default(), 100).unwrap();
    let sides = [Side::new(embedded).await, Side::new(open(&config(&nats)).await).await];
    let mut places = vec![Place::Zero, Place::Tail];
    places.extend((0..RECORDS).flat_map(|n| [Place::Record(n), Place::After(n)]));
    let trims = [
        Place::Zero,
        Place::Record(0),
        Place::After(0),
        Place::Record(2),
        Place::BeyondTail,
        Place::Largest,
        Place::After(2),
        Place::Zero,
        Place::After(3),
        Place::Record(5),
        Place::Record(8),
        Place::Tail,
        Place::Zero,
    ];
    for before in trims {
        let _ = alike!(sides, before, trim(before));
        alike!(sides, before, everything());
        for place in &places {
            let at = sides.iter().map(|side| Start::At(side.offset(*place))).collect::<Vec<_>>();
            let (one, other) = (sides[0].start(at[0]).await, sides[1].start(at[1]).await);
            assert_eq!(one, other, "a start at {place:?} after a trim before {before:?}");
            for bytes in [0, 1, usize::MAX] {
                let _ = alike!(sides, (place, bytes, before), read(*place, bytes));
            }
        }
        let records = RECORDS as u64;
        let lasts = [0, 1, 2, records - 1, records, records + 1, u64::MAX].map(Start::Last);
        let times = [0, 1, u64::MAX - 1, u64::MAX].map(|time| Start::Time(UnixMicros(time)));
        for start in [Start::Earliest, Start::Latest].into_iter().chain(lasts).chain(times) {
            let _ = alike!(sides, (start, before), start(start));
        }
    }
    for expected in [Place::Zero, Place::Record(0), Place::Record(8), Place::BeyondTail, Place::Largest] {
        assert_eq!(alike!(sides, expected, publish(expected)), Some("expected_offset"));
    }
    assert_eq!(alike!(sides, "the tail", publish(Place::Tail)), None);
    // JetStream waits in case such a position appears.
    let beyond = [Place::BeyondTail, Place::Largest].map(async |place| {
        for side in &sides {
            assert_eq!(side.start(Start::At(side.offset(place))).await, Err("beyond_tail"), "{place:?}");
        }
    });
    futures_util::future::join_all(beyond).await;
}
