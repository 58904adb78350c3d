//! When the next batch may be sent, and what became of it: the half of a workload that is the same
//! for every peer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

/// Bits of a record's number that count within one publisher; the publisher is above them.
const NUMBER_BITS: u32 = 40;
/// Records a subscriber may lag behind the publisher of a fan-out, so that a run stays bounded.
const LAG_MAX: u64 = 20_000;

/// Work of one publisher.
#[derive(Clone, Default)]
pub struct Load {
    /// Tells this publisher's records from the others'.
    pub publisher: u64,
    /// Batches in flight at most.
    pub window: usize,
    /// Records a batch.
    pub batch: u64,
    /// Bytes of a record's value, at least 8: its number stands in front.
    pub value_len: usize,
    pub until: Until,
    /// Batches a second, sent when they are due whatever the peer does (an open loop).
    pub rate: Option<f64>,
    /// Number of keys, which records have in turn; 0 for records without keys. For peers whose records have keys.
    pub keys: u64,
    /// Wait for these subscribers where they lag.
    pub followed_by: Vec<Arc<Progress>>,
}

#[derive(Clone, Copy)]
pub enum Until {
    Time(Duration),
    Batches(u64),
    /// The one of both that comes first.
    Either(Duration, u64),
}

impl Default for Until {
    fn default() -> Self {
        Self::Batches(0)
    }
}

/// Progress of one subscriber.
#[derive(Default)]
pub struct Progress {
    pub ready: AtomicU64,
    records: AtomicU64,
    sum: AtomicU64,
    /// When each record came, where that is asked.
    arrivals: Option<Mutex<Vec<Instant>>>,
}

impl Progress {
    /// Of a subscriber that notes when each record comes.
    pub fn timed() -> Self {
        Self { arrivals: Some(Mutex::default()), ..Self::default() }
    }

    pub fn arrivals(&self) -> Vec<Instant> {
        let noted = |arrivals: &Mutex<Vec<Instant>>| arrivals.lock().expect("no panic under it").clone();
        self.arrivals.as_ref().map(noted).unwrap_or_default()
    }

    pub fn add(&self, seen: Seen) {
        if let Some(arrivals) = &self.arrivals {
            let mut arrivals = arrivals.lock().expect("no panic under it");
            let noted = arrivals.len() + seen.records as usize;
            arrivals.resize(noted, Instant::now());
        }
        self.sum.fetch_add(seen.sum, Ordering::Relaxed);
        self.records.fetch_add(seen.records, Ordering::Release);
    }

    pub fn subscribed(&self) {
        self.ready.store(1, Ordering::Release);
    }

    pub fn seen(&self) -> Seen {
        let records = self.records.load(Ordering::Acquire);
        Seen { records, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// Records, and the sum of their numbers: what was acknowledged, or what was read.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Seen {
    pub records: u64,
    pub sum: u64,
}

impl Seen {
    pub fn value(&mut self, value: &[u8]) {
        let number = value.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        self.records += 1;
        self.sum = self.sum.wrapping_add(number);
    }

    pub fn and(self, other: Self) -> Self {
        Self { records: self.records + other.records, sum: self.sum.wrapping_add(other.sum) }
    }
}

/// A publisher's progress.
pub struct Pace {
    pub load: Load,
    permits: Semaphore,
    begin: Instant,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    latencies: Mutex<Latencies>,
}

struct Latencies {
    /// When each batch in flight was due, where there is a rate.
    due: VecDeque<Instant>,
    /// When the timer last woke: its own lateness is the client's, not the peer's.
    woke: Instant,
    micros: Histogram<u64>,
    /// When each batch was due, where there is a rate.
    all_due: Vec<Instant>,
}

impl Pace {
    pub fn new(load: Load) -> Arc<Self> {
        let micros = Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds");
        let begin = Instant::now();
        Arc::new(Self {
            permits: Semaphore::new(load.window),
            begin,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            latencies: Mutex::new(Latencies {
                due: VecDeque::new(),
                woke: begin,
                micros,
                all_due: Vec::new(),
            }),
            load,
        })
    }

    /// The next batch to send, once it may be; none when all was sent. Cancel-safe.
    pub async fn next(&self) -> Option<u64> {
        let number = self.sent.load(Ordering::Relaxed);
        let due = self.load.rate.map(|rate| self.begin + Duration::from_secs_f64(number as f64 / rate));
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            tokio::time::sleep_until(due.into()).await;
            self.latencies.lock().expect("no panic under it").woke = Instant::now();
        }
        while self.ahead() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Last, so that nothing is lost where the future is dropped while it waits.
        self.permits.acquire().await.ok()?.forget();
        let over = match self.load.until {
            Until::Time(time) => self.begin.elapsed() >= time,
            Until::Batches(batches) => number >= batches,
            Until::Either(time, batches) => number >= batches || self.begin.elapsed() >= time,
        };
        if over {
            return None;
        }
        if let Some(due) = due {
            let mut latencies = self.latencies.lock().expect("no panic under it");
            let woke = latencies.woke;
            latencies.due.push_back(due.max(woke));
            latencies.all_due.push(due.max(woke));
        }
        self.sent.store(number + 1, Ordering::Relaxed);
        Some(number)
    }

    fn ahead(&self) -> bool {
        let sent = self.sent.load(Ordering::Relaxed) * self.load.batch;
        self.load.followed_by.iter().any(|subscriber| sent > subscriber.seen().records + LAG_MAX)
    }

    /// Batches that were sent and are not acknowledged yet.
    pub fn in_flight(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) - self.acknowledged.load(Ordering::Relaxed)
    }

    /// The oldest batches in flight are acknowledged.
    pub fn acknowledged(&self, batches: u64) {
        if self.load.rate.is_some() {
            let now = Instant::now();
            let latencies = &mut *self.latencies.lock().expect("no panic under it");
            for due in latencies.due.drain(..batches as usize) {
                latencies.micros.saturating_record(now.duration_since(due).as_micros().max(1) as u64);
            }
        }
        self.acknowledged.fetch_add(batches, Ordering::Relaxed);
        self.permits.add_permits(batches as usize);
    }

    /// The key of a record, by its number among those of its publisher. No other publisher uses it.
    pub fn key(&self, number: u64) -> Bytes {
        match self.load.keys {
            0 => Bytes::new(),
            keys => format!("{}-{}", self.load.publisher, number % keys).into(),
        }
    }

    /// The values of a batch's records.
    pub fn values(&self, batch: u64) -> impl Iterator<Item = Bytes> + use<'_> {
        let first = (self.load.publisher << NUMBER_BITS) + batch * self.load.batch;
        (first..first + self.load.batch).map(|number| {
            let mut value = vec![b'x'; self.load.value_len];
            value[..8].copy_from_slice(&number.to_le_bytes());
            value.into()
        })
    }

    /// The value of a batch that is one record.
    pub fn value(&self, batch: u64) -> Bytes {
        self.values(batch).next().unwrap_or_default()
    }

    /// Waits for the publisher and returns what was acknowledged. Fails if something sent was not acknowledged.
    pub fn outcome(&self) -> crate::outcome::Outcome<Seen> {
        let (sent, acknowledged) =
            (self.sent.load(Ordering::Relaxed), self.acknowledged.load(Ordering::Relaxed));
        if sent != acknowledged {
            return Err(format!("{acknowledged} of {sent} batches were acknowledged").into());
        }
        let records = acknowledged * self.load.batch;
        let first = self.load.publisher << NUMBER_BITS;
        let sum = (0..records).fold(0_u64, |sum, n| sum.wrapping_add(first + n));
        Ok(Seen { records, sum })
    }

    /// From when each record of a batch of one was due until it came, in microseconds.
    pub fn until(&self, arrivals: &[Instant]) -> Histogram<u64> {
        let latencies = self.latencies.lock().expect("no panic under it");
        let mut micros = latencies.micros.clone();
        micros.reset();
        for (due, came) in latencies.all_due.iter().zip(arrivals) {
            micros.saturating_record(came.saturating_duration_since(*due).as_micros().max(1) as u64);
        }
        micros
    }

    /// The latencies, in microseconds.
    pub fn micros(&self) -> Histogram<u64> {
        self.latencies.lock().expect("no panic under it").micros.clone()
    }
}
