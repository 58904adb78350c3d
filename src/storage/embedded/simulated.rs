//! An embedded log on a simulated disk, for tests of what is built on a log. If a test pauses tokio's clock,
//! [`block_on`] waits for the log's own threads without letting that clock advance.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use super::EmbeddedLog;
use super::disk::sim::SimDisk;
use super::queue::{Change, Op};
use crate::config::StorageConfig;
use crate::record::testing::batch_of;
use crate::record::{Offset, Receipt, TopicName};
use crate::storage::clock::Clock;
use crate::storage::{Error, Hold, Log, TopicLog};

/// A log with its disk and its clock, which a test controls.
pub(crate) struct SimulatedLog {
    log: Arc<EmbeddedLog>,
    disk: SimDisk,
    clock: Clock,
}

fn name(topic: &str) -> TopicName {
    TopicName::parse(topic).expect("a test names it well")
}

impl SimulatedLog {
    pub(crate) fn new() -> Self {
        let (disk, clock) = (SimDisk::default(), Clock::default());
        let config = StorageConfig { journal_bytes: 4 << 20, segment_bytes: 4 << 20, ..Default::default() };
        let (dir, topics_max) = (Path::new("/log"), 100_000);
        let log = EmbeddedLog::open_on(Arc::new(disk.clone()), clock.clone(), dir, &config, topics_max, None);
        Self { log: log.expect("an empty disk"), disk, clock }
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    /// Returns the topic with this name, which the test has created.
    pub(crate) fn topic(&self, topic: &str) -> Arc<dyn TopicLog> {
        self.log.known(&name(topic)).expect("the test created it")
    }

    pub(crate) fn tail(&self, topic: &str) -> u64 {
        self.topic(topic).tail().get()
    }

    /// Stores records of these values as one batch.
    pub(crate) fn put(&self, topic: &str, values: &[&str]) -> Receipt {
        let done = self.topic(topic).appender().append(vec![batch_of(values)], Hold::default());
        let done = block_on(done);
        assert_eq!(done.failure, None);
        self.finish_work();
        done.receipts[0]
    }

    /// Waits until the committer has finished all earlier operations: it wakes subscribers only after it has
    /// answered.
    pub(crate) fn finish_work(&self) {
        let refused = block_on(self.log.queue.change(Change::Delete(name("no-such-topic"), None)));
        assert_eq!(refused.err(), Some(Error::TopicNotFound));
    }

    /// Moves the records of a topic to segments, and evicts them from memory.
    pub(crate) fn flush(&self, topic: &str) {
        let topic = self.log.registry.get(&name(topic)).expect("the test created it");
        let tail = topic.state.tail();
        assert!(self.log.queue.push(Op::Rotate).is_ok(), "the log is open");
        wait_until(|| topic.segments.load().last().is_some_and(|last| last.end >= tail));
        topic.state.cache.evict(tail);
        assert_eq!(topic.state.read_cached(Offset::ZERO, 1).map(|chunk| chunk.next), None);
    }

    /// Advances the log's clocks.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// Makes syncs of the disk wait, so that nothing becomes durable, or lets them continue.
    pub(crate) fn hold_syncs(&self, held: bool) {
        self.disk.hold_syncs(held);
    }

    /// Returns the number of batches handed to the log so far.
    pub(crate) fn batches(&self) -> usize {
        self.log.queue.batches()
    }

    /// Returns the number of topics read to answer all lists so far.
    pub(crate) fn listed(&self) -> usize {
        self.log.registry.listed()
    }
}

impl Drop for SimulatedLog {
    fn drop(&mut self) {
        // The log's threads end only once they have synced.
        self.disk.hold_syncs(false);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread until a future is ready. If tokio's clock is paused, it does not advance meanwhile,
/// because it advances only while every task waits.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// Waits on this thread until `done` returns true, which another thread brings about.
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}
