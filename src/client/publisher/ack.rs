//! The future of a receipt. It costs one allocation per batch, and only where the caller asked for a receipt.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::client::error::Error;
use crate::record::Receipt;

#[derive(Debug, Default)]
struct State {
    /// Outcomes of ranges of the records. There is one, unless the batch was split.
    outcomes: Vec<(Range<u64>, Result<Receipt, Error>)>,
    wakers: Vec<Waker>,
}

/// The outcomes of the records of a batch, shared by their futures.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<State>);

impl Slot {
    /// Sets the outcome of these records, of which the receipt names the first.
    pub(super) fn settle(&self, records: Range<u64>, outcome: Result<Receipt, Error>) {
        let wakers = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.outcomes.push((records, outcome));
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A future of the receipt, which resolves once the record is durable. `first` of the receipt is the record's own
/// offset. Dropping the future cancels nothing.
#[derive(Debug)]
#[must_use = "the record is only queued; the receipt confirms that it is durable"]
pub struct Acknowledgement {
    slot: Arc<Slot>,
    /// Index of the record in its batch.
    index: u64,
}

impl Acknowledgement {
    pub(super) const fn new(slot: Arc<Slot>, index: u64) -> Self {
        Self { slot, index }
    }
}

impl Future for Acknowledgement {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.outcomes.iter().find(|(records, _)| records.contains(&self.index)) {
            Some((records, Ok(receipt))) => {
                let first = receipt.first.plus(self.index - records.start);
                Poll::Ready(Ok(Receipt { first, ..*receipt }))
            }
            Some((_, Err(error))) => Poll::Ready(Err(error.clone())),
            None => {
                if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
