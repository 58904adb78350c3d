//! The committer's queue of appends and changes, in order. Its callers bound it: an append holds admission
//! for its bytes until it is answered, and a call makes one change at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::topic::Topic;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::append::{Append, Sink};
use crate::storage::{Appended, Error, Lineage, Retention, Stored};
use crate::telemetry::METRICS;

/// One operation for the committer.
#[derive(Debug)]
pub enum Op {
    /// Store batches.
    Append(TopicAppend),
    /// Change the catalog.
    Change(Change, oneshot::Sender<Result<Arc<Topic>, Error>>),
    /// Start a new journal and hand the old one to the checkpointer.
    Rotate,
    /// List the request ids of the topic with this id that may be in no ids file yet, as ids sections.
    Ids(u64, oneshot::Sender<Vec<Bytes>>),
}

/// An append to one topic.
#[derive(Debug)]
pub struct TopicAppend {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The batches, and the reply for their outcome.
    pub append: Append,
}

/// A change of the catalog.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new topic.
    Create(TopicName, Retention),
    /// A topic of this lineage, whose first record will have this offset.
    Restore(TopicName, Offset, Lineage),
    /// New limits of a topic.
    Update(TopicName, Retention),
    /// Deletion of a topic; with an epoch, only of that incarnation.
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

/// The committer's queue. All clones share one queue.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

/// Result of waiting for operations.
#[derive(Debug)]
pub enum Taken {
    /// Operations to do.
    Ops(VecDeque<Op>),
    /// No operation came within the time.
    Quiet,
    /// The queue is closed and empty.
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while it is held")
    }

    /// Adds an operation at the end; returns it as the error if the queue is closed.
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
            // The lock is released first, because the committer takes it as soon as it wakes.
            self.0.ready.notify_one();
        }
        Ok(())
    }

    /// Asks for a change and waits until it is durable.
    ///
    /// # Errors
    /// Fails if the change is refused, or if the committer ended.
    pub async fn change(&self, change: Change) -> Result<Arc<Topic>, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Op::Change(change, reply)).map_err(|_| Error::Closing)?;
        // The change may have been written already.
        answer.await.unwrap_or_else(|_| Err(ended(Stored::Unknown)))
    }

    /// Returns the request ids of a topic that may be in no ids file yet, as ids sections.
    ///
    /// # Errors
    /// Fails if the committer ended.
    pub async fn ids(&self, topic: u64) -> Result<Vec<Bytes>, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Op::Ids(topic, reply)).map_err(|_| Error::Closing)?;
        answer.await.map_err(|_| ended(Stored::Nothing))
    }

    /// Takes all operations. If there are none, it waits for one: at most `wait`, or without limit if that is
    /// none.
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

    /// Closes the queue, and refuses the waiting operations, of which nothing is stored.
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
                Op::Rotate | Op::Ids(..) => {}
            }
        }
    }

    /// Returns the number of batches pushed so far.
    #[cfg(test)]
    pub fn batches(&self) -> usize {
        self.lock().batches
    }

    /// Closes the queue: operations that are pushed from now on are returned to the caller.
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
