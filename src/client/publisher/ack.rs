//! The future of a receipt. It costs one allocation per batch, and only where the caller asked for a receipt.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::client::error::Error;
use crate::record::Receipt;

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<Receipt, Error>>,
    wakers: Vec<Waker>,
}

/// The outcome of a batch, shared by the futures of its records.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<State>);

impl Slot {
    pub(super) fn settle(&self, outcome: Result<Receipt, Error>) {
        let wakers = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.outcome = Some(outcome);
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
        match &state.outcome {
            Some(Ok(receipt)) => {
                Poll::Ready(Ok(Receipt { first: receipt.first.plus(self.index), ..*receipt }))
            }
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            None => {
                if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
