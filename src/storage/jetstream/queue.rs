//! What waits to be appended to one topic, in order. Bounded by those who push: an append holds admission for its bytes
//! until it is answered.

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

    /// Whether an earlier batch of the same appender was refused, so that this append is too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.reply.is_refused()
    }

    /// Answers; where there is a failure, all later appends of the same appender fail too.
    pub fn answer(mut self, failure: Option<Error>) {
        self.appended.failure = failure;
        self.reply.send(self.appended);
    }
}

/// Takes the first append that waits, where it is one of these.
pub fn pop_if(appends: &mut VecDeque<Queued>, is: impl FnOnce(&Queued) -> bool) -> Option<Queued> {
    appends.front().is_some_and(is).then(|| appends.pop_front())?
}

/// What waits, and whether anybody looks after it.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order.
    pub appends: VecDeque<Queued>,
    /// How many came so far.
    count: u64,
    /// Whether the topic's follower runs: it stops only with nothing left here.
    pub followed: bool,
}

impl Queue {
    /// Puts an append at the end.
    pub fn push(&mut self, append: Append) {
        self.appends.push_back(Queued::new(self.count, append));
        self.count += 1;
    }
}
