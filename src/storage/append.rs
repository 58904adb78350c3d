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
    /// True once a batch was refused. All appends of one appender share it.
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

    /// Returns true if an earlier batch of the same appender was refused, so that this append is too.
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

/// Destination of the appends to one topic.
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

#[cfg(test)]
mod tests {
    use super::{Append, OrderedAppender, Sink};
    use crate::record::testing::batch_of;
    use crate::storage::{Appended, Appender, Error, Hold, Stored};
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    struct Taken(Mutex<Sender<Append>>);

    impl Sink for Taken {
        fn push(&self, append: Append) {
            self.0.lock().unwrap().send(append).unwrap();
        }
    }

    fn appender() -> (OrderedAppender<Taken>, Receiver<Append>) {
        let (sender, taken) = channel();
        (OrderedAppender::new(Taken(Mutex::new(sender))), taken)
    }

    #[tokio::test]
    async fn a_refusal_refuses_what_the_same_appender_was_handed_before_and_after() {
        let (mut appender, taken) = appender();
        let outcome = appender.append(vec![batch_of(&["a"])], Hold::default());
        drop(appender.append(vec![batch_of(&["b"])], Hold::default()));
        let (first, second) = (taken.recv().unwrap(), taken.recv().unwrap());
        assert!(!first.reply.is_refused() && !second.reply.is_refused());
        first.reply.send(Appended::failed(Error::DiskFull));
        assert_eq!(outcome.await.failure, Some(Error::DiskFull));
        assert!(second.reply.is_refused(), "it was on its way");
        drop(appender.append(vec![batch_of(&["c"])], Hold::default()));
        assert!(taken.recv().unwrap().reply.is_refused());
    }

    #[tokio::test]
    async fn an_append_that_nobody_answers_may_be_stored() {
        let (mut appender, taken) = appender();
        let outcome = appender.append(vec![batch_of(&["a"])], Hold::default());
        drop(taken.recv().unwrap());
        let failure = outcome.await.failure;
        assert!(matches!(failure, Some(Error::Unavailable { stored: Stored::Unknown, .. })), "{failure:?}");
    }
}
