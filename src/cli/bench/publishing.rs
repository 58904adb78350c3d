//! The publishers of a benchmark: without a limit, or at a rate that does not wait for the server. With a rate, latencies
//! count from the time when a batch was due, even if it was sent later (no coordinated omission).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use super::run::{Latencies, Run};
use super::stamp::Stamp;
use crate::client::{Client, Error, PublisherOptions, Record, Stored};

/// Largest number of batches that are due and not sent. Beyond it the pacer is late, but its batches still carry the time
/// when they were due.
const DUE_MAX: usize = 1 << 16;

/// The state of the batches of one publisher.
struct Outcome {
    /// Times when the unacknowledged batches were due, in the order sent.
    due: VecDeque<u64>,
    latencies: Histogram<u64>,
}

/// Publishes until the run is over, waits for every acknowledgement, and returns the number of acknowledged records.
pub(super) async fn publish(run: Arc<Run>, client: Client, publisher: u32) -> Result<u64, Error> {
    let outcome = Arc::new(Mutex::new(Outcome { due: VecDeque::new(), latencies: Latencies::local() }));
    let (run_of_callback, outcome_of_callback) = (Arc::clone(&run), Arc::clone(&outcome));
    let options = PublisherOptions {
        window: run.plan.window,
        bytes_max: usize::MAX,
        idempotent: run.plan.request_ids,
        on_stored: Some(Arc::new(move |stored| acknowledged(&run_of_callback, &outcome_of_callback, stored))),
        ..PublisherOptions::default()
    };
    let sending = client.publisher(&run.plan.topic, options)?;
    let mut clock = Clock::start(&run, publisher);
    let mut sequence = 0;
    while let Some(due_nanos) = clock.next().await {
        let records: Vec<Record> = (sequence..sequence + u64::from(run.plan.batch))
            .map(|sequence| Stamp { run: run.id, publisher, sequence, due_nanos })
            .map(|stamp| Record::new(stamp.record(run.plan.size)))
            .collect();
        outcome.lock().unwrap_or_else(PoisonError::into_inner).due.push_back(due_nanos);
        drop(sending.publish_batch(&records, None).await?);
        sequence += u64::from(run.plan.batch);
    }
    sending.close().await?;
    run.acknowledging.add(&outcome.lock().unwrap_or_else(PoisonError::into_inner).latencies);
    Ok(sequence)
}

fn acknowledged(run: &Run, outcome: &Mutex<Outcome>, stored: &Stored) {
    let now = run.now();
    let measured = run.is_measured(now);
    run.acknowledged.add(u64::from(stored.records), measured);
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let due = outcome.due.pop_front().unwrap_or(now);
    if measured {
        outcome.latencies.saturating_record(now.saturating_sub(due).max(1));
    }
}

/// The source of the times when batches are due.
pub(super) enum Clock {
    /// A batch is due at once, until the run is over.
    Free(Arc<Run>),
    /// A thread sends the times when batches are due.
    Paced(mpsc::Receiver<u64>),
}

impl Clock {
    pub(super) fn start(run: &Arc<Run>, publisher: u32) -> Self {
        let plan = &run.plan;
        if plan.rate == 0 {
            return Self::Free(Arc::clone(run));
        }
        let interval = 1e9 * f64::from(plan.publishers) * f64::from(plan.batch) / plan.rate as f64;
        // Publishers take turns.
        let first = run.now() as f64 + interval * f64::from(publisher) / f64::from(plan.publishers);
        let (sender, due) = mpsc::channel(DUE_MAX);
        let run = Arc::clone(run);
        // The sleep of a thread is accurate to some 50 us, the timer of the runtime to 1 ms.
        std::thread::spawn(move || {
            for batch in 0_u32.. {
                let due = (first + interval * f64::from(batch)) as u64;
                std::thread::sleep(run.at(due).saturating_duration_since(Instant::now()));
                if run.is_over() || sender.blocking_send(due).is_err() {
                    return;
                }
            }
        });
        Self::Paced(due)
    }

    pub(super) async fn next(&mut self) -> Option<u64> {
        match self {
            Self::Free(run) => (!run.is_over()).then(|| run.now()),
            Self::Paced(due) => due.recv().await,
        }
    }
}
