//! Queue of the appends to one topic, in order. The callers that push bound its size, because an append holds its share
//! of the publish budget until it is answered.

use std::collections::VecDeque;

use crate::record::Batch;
use crate::storage::append::{Append, Reply};
use crate::storage::{Appended, Error};

/// Waiting append. Some of its batches may be settled already.
#[derive(Debug)]
pub struct Queued {
    /// Serial number in the topic's queue.
    pub serial: u64,
    /// Batches that are not settled yet.
    pub batches: VecDeque<Batch>,
    /// Outcome of the settled batches.
    pub appended: Appended,
    reply: Reply,
}

impl Queued {
    /// Wraps an append with its serial number.
    #[must_use]
    pub fn new(serial: u64, append: Append) -> Self {
        Self { serial, batches: append.batches.into(), appended: Appended::default(), reply: append.reply }
    }

    /// Returns true if an earlier batch of the same appender was refused, because this append is then refused too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.reply.is_refused()
    }

    /// Answers the append. If there is a failure, all later appends of the same appender fail too.
    pub fn answer(mut self, failure: Option<Error>) {
        self.appended.failure = failure;
        self.reply.send(self.appended);
    }
}

/// Removes and returns the first waiting append if `is` holds for it.
pub fn pop_if(appends: &mut VecDeque<Queued>, is: impl FnOnce(&Queued) -> bool) -> Option<Queued> {
    appends.front().is_some_and(is).then(|| appends.pop_front())?
}

/// Waiting appends, and the state of the topic's follower.
#[derive(Debug, Default)]
pub struct Queue {
    /// Appends in order.
    pub appends: VecDeque<Queued>,
    /// Number of appends pushed so far.
    count: u64,
    /// True while the topic's follower runs. The follower stops only when the queue is empty.
    pub followed: bool,
}

impl Queue {
    /// Puts an append at the end.
    pub fn push(&mut self, append: Append) {
        self.appends.push_back(Queued::new(self.count, append));
        self.count += 1;
    }
}
