//! What waits to be appended to one topic, in order. Bounded by those who push: an append holds
//! admission for its bytes until it is answered.
//! Never: decides anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::topic::Topic;
use crate::record::Batch;
use crate::storage::{Appended, Appender, BoxFuture, Error, Hold, Stored};

/// Batches of one appender, in order.
#[derive(Debug)]
pub struct Append {
    /// Its number in the topic's queue.
    pub serial: u64,
    /// Set once a batch of the same appender was refused.
    pub refused: Arc<AtomicBool>,
    /// What is not settled yet.
    pub batches: VecDeque<Batch>,
    /// What is.
    pub appended: Appended,
    /// Who asks.
    pub reply: oneshot::Sender<Appended>,
    /// Held until the answer is known.
    pub _hold: Hold,
}

impl Append {
    /// Answers; where there is a failure, all later ones of the appender fail too.
    pub fn answer(mut self, failure: Option<Error>) {
        if failure.is_some() {
            self.refused.store(true, Ordering::Relaxed);
            self.appended.failure = failure;
        }
        // A caller that went away has no use for the answer.
        let _ = self.reply.send(self.appended);
    }
}

/// The first append that waits, where it is one of these.
pub fn pop_if(appends: &mut VecDeque<Append>, is: impl FnOnce(&Append) -> bool) -> Option<Append> {
    appends.front().is_some_and(is).then(|| appends.pop_front())?
}

/// What waits, and whether anybody looks after it.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order.
    pub appends: VecDeque<Append>,
    /// How many came so far.
    pub count: u64,
    /// Whether the topic's follower runs: it stops only with nothing left here.
    pub followed: bool,
}

/// The publishes of one call.
#[derive(Debug)]
pub struct OrderedAppender {
    topic: Arc<Topic>,
    refused: Arc<AtomicBool>,
}

impl OrderedAppender {
    /// Starts a sequence.
    #[must_use]
    pub fn new(topic: Arc<Topic>) -> Self {
        Self { topic, refused: Arc::default() }
    }
}

impl Appender for OrderedAppender {
    fn append(&mut self, batches: Vec<Batch>, hold: Hold) -> BoxFuture<'static, Appended> {
        let (reply, answer) = oneshot::channel();
        let append = Append {
            serial: 0,
            refused: self.refused.clone(),
            batches: batches.into(),
            appended: Appended::default(),
            reply,
            _hold: hold,
        };
        self.topic.push(append);
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let reason = "the topic's task ended".to_owned();
                let failure = Error::Unavailable { reason, stored: Stored::Unknown };
                Appended::failed(failure)
            })
        })
    }
}
