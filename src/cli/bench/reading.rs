//! The subscribers of a benchmark. Each reads the stamp of every record, and so finds those that are missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::run::{Latencies, Run};
use super::stamp::Stamp;
use crate::client::{Client, Delivery, Error, Start, Subscriber, SubscriberOptions};

/// Time that a subscriber waits for acknowledged records before they count as missing.
pub(super) const MISSING_AFTER: Duration = Duration::from_secs(30);

/// Number of acknowledged records of each publisher; none before the end.
pub(super) type Published = Option<Arc<[u64]>>;

/// The records of this run that one subscriber has received.
pub(super) struct Seen {
    run: Arc<Run>,
    /// The next sequence number of each publisher.
    next: Vec<u64>,
    missing: u64,
    repeated: u64,
}

impl Seen {
    pub(super) fn new(run: &Arc<Run>) -> Self {
        let next = vec![0; run.plan.publishers as usize];
        Self { run: Arc::clone(run), next, missing: 0, repeated: 0 }
    }

    /// Counts the records of a delivery, and calls `latency` with the latency of each.
    fn count(&mut self, delivery: &Delivery, mut latency: impl FnMut(u64)) -> Result<u64, Error> {
        let (now, mut count) = (self.run.now(), 0);
        let read = if self.run.plan.web.is_some() { Stamp::read_text } else { Stamp::read };
        for record in delivery.records() {
            if let Some(stamp) = read(record?.value)
                && self.note(stamp)
            {
                count += 1;
                latency(now.saturating_sub(stamp.due_nanos).max(1));
            }
        }
        Ok(count)
    }

    /// Notes one record. Returns false if it is of another run.
    pub(super) fn note(&mut self, stamp: Stamp) -> bool {
        let Some(next) = self.next.get_mut(stamp.publisher as usize) else { return false };
        if stamp.run != self.run.id {
            return false;
        }
        self.missing = self.missing.saturating_add(stamp.sequence.saturating_sub(*next));
        self.repeated += u64::from(stamp.sequence < *next);
        *next = (*next).max(stamp.sequence.saturating_add(1));
        true
    }

    pub(super) fn has_all(&self, published: &[u64]) -> bool {
        self.next.iter().zip(published).all(|(next, count)| next >= count)
    }

    /// Counts the records that were not received, and adds the result to the run.
    pub(super) fn close(mut self, published: &[u64]) {
        for (next, count) in self.next.iter().zip(published) {
            self.missing = self.missing.saturating_add(count.saturating_sub(*next));
        }
        self.run.missing.fetch_add(self.missing, Ordering::Relaxed);
        self.run.repeated.fetch_add(self.repeated, Ordering::Relaxed);
    }
}

/// Opens a subscription at the tail, and waits until it has caught up.
pub(super) async fn open(client: &Client, topic: &str) -> Result<Subscriber, Error> {
    let mut subscriber = client.subscribe(SubscriberOptions::new(topic, Start::Latest));
    subscriber.next().await.transpose()?;
    Ok(subscriber)
}

/// Follows the topic until everything acknowledged has been received.
pub(super) async fn follow(
    run: Arc<Run>,
    mut subscriber: Subscriber,
    mut published: watch::Receiver<Published>,
) -> Result<(), Error> {
    let (mut seen, mut latencies) = (Seen::new(&run), Latencies::local());
    let end = loop {
        let end = published.borrow_and_update().clone();
        if let Some(published) = end.as_ref().filter(|published| seen.has_all(published)) {
            break Arc::clone(published);
        }
        let delivery = tokio::select! {
            delivery = subscriber.next() => delivery,
            _ = published.changed(), if end.is_none() => continue,
            () = tokio::time::sleep(MISSING_AFTER), if end.is_some() => None,
        };
        let Some(delivery) = delivery else { break end.unwrap_or_default() };
        let measured = run.is_measured(run.now());
        let count = seen.count(&delivery?, |nanos| {
            if measured {
                latencies.saturating_record(nanos);
            }
        })?;
        run.delivered.add(count, measured);
    };
    run.delivering.add(&latencies);
    seen.close(&end);
    Ok(())
}

/// Reads the topic from its beginning to its tail repeatedly, until `stop` is set.
pub(super) async fn replay(run: Arc<Run>, client: Client, stop: Arc<AtomicBool>) -> Result<(), Error> {
    while !stop.load(Ordering::Relaxed) {
        let mut subscriber = client.subscribe(to_tail(&run.plan.topic, Start::Earliest));
        while let Some(delivery) = subscriber.next().await {
            let count = delivery?.records().count() as u64;
            run.delivered.add(count, run.is_measured(run.now()));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(())
}

/// Reads the topic from `start` to its tail, and counts the missing records of the run.
pub(super) async fn verify(
    run: &Arc<Run>,
    client: &Client,
    start: Start,
    published: &[u64],
) -> Result<(), Error> {
    let (mut seen, mut subscriber) = (Seen::new(run), client.subscribe(to_tail(&run.plan.topic, start)));
    while let Some(delivery) = subscriber.next().await {
        seen.count(&delivery?, |_| {})?;
    }
    seen.close(published);
    Ok(())
}

/// Reads the topic from `start` to its tail, where it has `published` records of the run, and counts the missing ones.
pub(super) async fn read_all(
    run: &Arc<Run>,
    client: &Client,
    start: Start,
    published: u64,
) -> Result<(), Error> {
    let (mut seen, mut subscriber) = (Seen::new(run), client.subscribe(to_tail(&run.plan.topic, start)));
    while let Some(delivery) = subscriber.next().await {
        run.delivered.add(seen.count(&delivery?, |_| {})?, true);
    }
    seen.close(&[published]);
    Ok(())
}

fn to_tail(topic: &str, start: Start) -> SubscriberOptions {
    let limit = crate::proto::v1::ReadLimit { stop_at_tail: true, ..Default::default() };
    SubscriberOptions { limit: Some(limit), ..SubscriberOptions::new(topic, start) }
}

#[cfg(test)]
mod tests {
    use super::Seen;
    use crate::cli::bench::run::{Plan, Run};
    use crate::cli::bench::stamp::Stamp;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    /// Numbers of missing and repeated records, of two publishers with these numbers of acknowledged records.
    fn verdict(came: &[(u32, u64)], published: &[u64]) -> (u64, u64) {
        let plan = Plan {
            topic: String::new(),
            size: 24,
            batch: 1,
            window: 1,
            publishers: 2,
            subscribers: 1,
            replayers: 0,
            connections: 1,
            rate: 0,
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
            request_ids: true,
            verify: true,
            web: None,
        };
        let run = Arc::new(Run::start(plan));
        let mut seen = Seen::new(&run);
        for (publisher, sequence) in came {
            let stamp = Stamp { run: run.id, publisher: *publisher, sequence: *sequence, due_nanos: 0 };
            assert!(seen.note(stamp));
        }
        let foreign = Stamp { run: run.id.wrapping_add(1), publisher: 0, sequence: 99, due_nanos: 0 };
        assert!(!seen.note(foreign));
        seen.close(published);
        (run.missing.load(Ordering::Relaxed), run.repeated.load(Ordering::Relaxed))
    }

    #[test]
    fn lost_and_repeated_records_are_counted() {
        assert_eq!(verdict(&[(0, 0), (1, 0), (0, 1)], &[2, 1]), (0, 0));
        assert_eq!(verdict(&[(0, 0), (0, 2), (1, 0)], &[3, 1]), (1, 0), "in the middle");
        assert_eq!(verdict(&[(0, 0), (1, 0)], &[3, 1]), (2, 0), "at the end");
        assert_eq!(verdict(&[(0, 0), (0, 0), (1, 0)], &[1, 1]), (0, 1));
        assert_eq!(verdict(&[(0, 0)], &[1, 4]), (4, 0), "a whole publisher");
    }
}
