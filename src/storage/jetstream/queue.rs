//! The queue of appends to one topic, in order. Those who push bound it: an append holds admission for its bytes until it
//! is answered.

use std::collections::VecDeque;

use crate::record::Batch;
use crate::storage::append::{Append, Reply};
use crate::storage::{Appended, Error};

/// An append that waits, of which some batches may be settled.
#[derive(Debug)]
pub struct Queued {
    /// Its number in the topic's queue.
    pub serial: u64,
    /// Batches that are not settled yet.
    pub batches: VecDeque<Batch>,
    /// Outcome of those that are.
    pub appended: Appended,
    reply: Reply,
}

impl Queued {
    /// Queues an append under this number.
    #[must_use]
    pub fn new(serial: u64, append: Append) -> Self {
        Self { serial, batches: append.batches.into(), appended: Appended::default(), reply: append.reply }
    }

    /// Returns true if an earlier batch of the same appender was refused, so that this append is too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.reply.is_refused()
    }

    /// Answers. If there is a failure, all later appends of the same appender fail too.
    pub fn answer(mut self, failure: Option<Error>) {
        self.appended.failure = failure;
        self.reply.send(self.appended);
    }
}

/// Takes the first append that waits, if `is` holds for it.
pub fn pop_if(appends: &mut VecDeque<Queued>, is: impl FnOnce(&Queued) -> bool) -> Option<Queued> {
    appends.front().is_some_and(is).then(|| appends.pop_front())?
}

/// Appends that wait, and the state of the topic's follower.
#[derive(Debug, Default)]
pub struct Queue {
    /// Appends in order.
    pub appends: VecDeque<Queued>,
    /// Number of appends so far.
    count: u64,
    /// True while the topic's follower runs. It stops only when nothing is left here.
    pub followed: bool,
}

impl Queue {
    /// Puts an append at the end.
    pub fn push(&mut self, append: Append) {
        self.appends.push_back(Queued::new(self.count, append));
        self.count += 1;
    }
}
