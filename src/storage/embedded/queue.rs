//! What waits for the committer, in order. Bounded by those who push: an append holds admission
//! for its bytes until it is answered, a change is one at a time a call.
//! Never: decides anything.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use super::topic::Topic;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::append::{Append, Sink};
use crate::storage::{Appended, Error, Retention, Stored};
use crate::telemetry::METRICS;

/// One thing for the committer to do.
#[derive(Debug)]
pub enum Op {
    /// Store batches.
    Append(TopicAppend),
    /// Change the catalog.
    Change(Change, oneshot::Sender<Result<Arc<Topic>, Error>>),
    /// Begin a new journal and hand the old one to the checkpointer.
    Rotate,
}

/// An append to one topic.
#[derive(Debug)]
pub struct TopicAppend {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The batches, and who asks.
    pub append: Append,
}

/// A change of the catalog.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new topic.
    Create(TopicName, Retention),
    /// New settings.
    Update(TopicName, Retention),
    /// No such topic any more.
    Delete(TopicName, Option<Epoch>),
    /// A trim to this offset, at which a batch begins.
    Trim(Arc<Topic>, Offset),
}

#[derive(Debug, Default)]
struct State {
    ops: VecDeque<Op>,
    closed: bool,
    #[cfg(test)]
    batches: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

/// The committer's queue. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

/// What the committer found.
#[derive(Debug)]
pub enum Taken {
    /// Something to do.
    Ops(VecDeque<Op>),
    /// Nothing within the time.
    Quiet,
    /// Nothing, and there will be nothing more.
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while it is held")
    }

    /// Puts something at the end; gives it back where the queue is closed.
    pub fn push(&self, op: Op) -> Result<(), Op> {
        let mut state = self.lock();
        if state.closed {
            return Err(op);
        }
        #[cfg(test)]
        if let Op::Append(append) = &op {
            state.batches += append.append.batches.len();
        }
        state.ops.push_back(op);
        METRICS.storage.queue.add(1);
        let first = state.ops.len() == 1;
        drop(state);
        if first {
            // Not under the lock: who wakes would at once wait for it.
            self.0.ready.notify_one();
        }
        Ok(())
    }

    /// Asks for a change and waits until it is durable.
    ///
    /// # Errors
    /// The change's.
    pub async fn change(&self, change: Change) -> Result<Arc<Topic>, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Op::Change(change, reply)).map_err(|_| Error::Closing)?;
        // It may have been written already.
        answer.await.unwrap_or_else(|_| Err(ended(Stored::Unknown)))
    }

    /// Everything there is, waiting for something at most so long.
    #[must_use]
    pub fn take(&self, wait: Option<Duration>) -> Taken {
        let mut state = self.lock();
        while state.ops.is_empty() {
            if state.closed {
                return Taken::Closed;
            }
            state = match wait {
                None => self.0.ready.wait(state).expect("no panic while it is held"),
                Some(wait) => {
                    let (state, timeout) =
                        self.0.ready.wait_timeout(state, wait).expect("no panic while it is held");
                    if timeout.timed_out() && state.ops.is_empty() && !state.closed {
                        return Taken::Quiet;
                    }
                    state
                }
            };
        }
        METRICS.storage.queue.add(-(state.ops.len() as i64));
        Taken::Ops(std::mem::take(&mut state.ops))
    }

    /// Refuses what comes from now on, and what waits, of which nothing is stored.
    pub fn abandon(&self) {
        self.close();
        let ops = std::mem::take(&mut self.lock().ops);
        METRICS.storage.queue.add(-(ops.len() as i64));
        for op in ops {
            match op {
                Op::Append(TopicAppend { append, .. }) => {
                    append.reply.send(Appended::failed(ended(Stored::Nothing)));
                }
                Op::Change(_, reply) => drop(reply.send(Err(ended(Stored::Nothing)))),
                Op::Rotate => {}
            }
        }
    }

    /// Batches pushed so far.
    #[cfg(test)]
    pub fn batches(&self) -> usize {
        self.lock().batches
    }

    /// Refuses what comes from now on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.ready.notify_one();
    }
}

/// The queue as the appenders of one topic see it.
#[derive(Debug)]
pub struct TopicQueue {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The queue.
    pub queue: Queue,
}

impl Sink for TopicQueue {
    fn push(&self, append: Append) {
        let append = TopicAppend { topic: self.topic.clone(), append };
        if let Err(Op::Append(refused)) = self.queue.push(Op::Append(append)) {
            refused.append.reply.send(Appended::failed(Error::Closing));
        }
    }
}

fn ended(stored: Stored) -> Error {
    Error::Unavailable { reason: "the committer ended".to_owned(), stored }
}
