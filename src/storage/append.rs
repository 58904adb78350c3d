//! An append on its way to an engine, and the ordered appender that sends it there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::contract::{Appended, Appender, BoxFuture, Hold};
use super::error::{Error, Stored};
use crate::record::Batch;

/// Batches of one appender, in order.
#[derive(Debug)]
pub struct Append {
    /// The batches to store.
    pub batches: Vec<Batch>,
    /// Takes the outcome.
    pub reply: Reply,
}

/// Takes the outcome of an append. Dropping it unanswered says that the batches may be stored.
#[derive(Debug)]
pub struct Reply {
    /// Shared by all appends of one appender: whether a batch was refused.
    refused: Arc<AtomicBool>,
    answer: oneshot::Sender<Appended>,
    /// Dropped once the outcome is known.
    _hold: Hold,
}

impl Reply {
    /// Creates a reply of an appender that shares `refused`, and where its answer arrives. `hold` is dropped with the
    /// answer.
    #[must_use]
    pub fn new(refused: Arc<AtomicBool>, hold: Hold) -> (Self, oneshot::Receiver<Appended>) {
        let (answer, outcome) = oneshot::channel();
        (Self { refused, answer, _hold: hold }, outcome)
    }

    /// Whether an earlier batch of the same appender was refused, so that this append is too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Refuses all later appends of the same appender.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Answers. Where a batch was refused, all later appends of the same appender are.
    pub fn send(self, appended: Appended) {
        if appended.failure.is_some() {
            self.refuse();
        }
        // A caller that went away has no use for the answer.
        let _ = self.answer.send(appended);
    }
}

/// Where the appends to one topic go.
pub trait Sink: Send {
    /// Takes an append, behind those taken before, and has it answered.
    fn push(&self, append: Append);
}

/// An appender that sends batches to a sink in its order.
#[derive(Debug)]
pub struct OrderedAppender<S> {
    sink: S,
    refused: Arc<AtomicBool>,
}

impl<S: Sink> OrderedAppender<S> {
    /// Starts a sequence of appends.
    #[must_use]
    pub fn new(sink: S) -> Self {
        Self { sink, refused: Arc::default() }
    }
}

impl<S: Sink> Appender for OrderedAppender<S> {
    fn append(&mut self, batches: Vec<Batch>, hold: Hold) -> BoxFuture<'static, Appended> {
        let (reply, outcome) = Reply::new(self.refused.clone(), hold);
        self.sink.push(Append { batches, reply });
        Box::pin(async move {
            outcome.await.unwrap_or_else(|_| {
                let reason = "the engine ended before it answered".to_owned();
                Appended::failed(Error::Unavailable { reason, stored: Stored::Unknown })
            })
        })
    }
}
