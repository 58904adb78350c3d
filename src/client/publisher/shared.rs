//! The state that the publisher's handle and its task share, and how they wake each other.
//!
//! No wake-up is lost. At most one task waits for something to send: the request stream of the open call, or the driver
//! between calls. It stores its waker in the queue under the lock under which it found nothing to do, and
//! [`Shared::update`] looks for that waker under the same lock after every change. Any number of tasks wait for
//! progress: each creates its `Notified` before it checks its condition, and receives every notification from then on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use super::options::{PublisherOptions, Stored};
use super::queue::{Queue, Settled};
use super::split::TooLarge;
use crate::client::error::Error;
use crate::record::{Receipt, TopicName};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) topic: TopicName,
    pub(super) options: PublisherOptions,
    /// 128 random bits, so that the keys of this publisher are unique.
    id_prefix: String,
    queue: Mutex<Queue>,
    /// Notified when batches were acknowledged, and when the publisher ended.
    progress: Notify,
}

impl Shared {
    pub(super) fn new(topic: TopicName, id_prefix: String, options: PublisherOptions, queue: Queue) -> Self {
        Self { topic, options, id_prefix, queue: Mutex::new(queue), progress: Notify::new() }
    }

    /// Locks the queue to read it, or to take batches from it. Any other change needs [`Self::update`].
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and then wakes the task that waits for something to send if there is something.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let (value, waker) = {
            let mut queue = self.lock();
            let value = change(&mut queue);
            (value, queue.take_due_waker())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        value
    }

    /// Wakes the tasks that wait for progress.
    pub(super) fn notify_progress(&self) {
        self.progress.notify_waiters();
    }

    /// Checks a condition now, and again after every progress.
    pub(super) async fn until<T>(&self, mut check: impl FnMut(&mut Queue) -> Poll<T>) -> T {
        loop {
            let progress = self.progress.notified();
            if let Poll::Ready(value) = self.update(&mut check) {
                return value;
            }
            progress.await;
        }
    }

    /// Adds something to the queue as soon as there is room.
    pub(super) async fn push<T>(&self, mut push: impl FnMut(&mut Queue) -> T) -> Result<T, Error> {
        self.until(|queue| match &queue.ended {
            Some(error) => Poll::Ready(Err(error.clone())),
            None if queue.has_room() => Poll::Ready(Ok(push(queue))),
            None => Poll::Pending,
        })
        .await
    }

    /// Waits until a call is needed, with the waker of the driver; false where none ever will be.
    pub(super) async fn wait_for_work(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut queue = self.lock();
            if !queue.is_empty() {
                return Poll::Ready(true);
            }
            if queue.ended.is_some() {
                return Poll::Ready(false);
            }
            queue.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends the present call. Its request stream ends too, so that the server need not reset it.
    pub(super) fn end_call(&self) {
        let waker = self.lock().end_call();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the present call where the server refused a batch as too large, and splits what is pending to its limits.
    /// Returns false where that is not possible.
    pub(super) fn split(&self, error: &Error) -> bool {
        let done = TooLarge::of(error).is_some_and(|refused| self.lock().split(refused));
        if done {
            self.end_call();
        }
        done
    }

    /// Returns true if the publisher was closed and everything is acknowledged.
    pub(super) fn is_done(&self) -> bool {
        let queue = self.lock();
        queue.ended.is_some() && queue.is_empty()
    }

    /// The generated idempotency key of a batch; empty where keys are not used.
    pub(super) fn request_id(&self, batch: u64) -> Box<str> {
        if self.options.idempotent { format!("{}-{batch}", self.id_prefix).into() } else { Box::default() }
    }

    /// Reports a batch as durable.
    pub(super) fn settle(&self, batch: &Settled, receipt: Receipt) {
        if let Some((slot, records)) = &batch.slot {
            slot.settle(records.clone(), Ok(receipt));
        }
        if let Some(on_stored) = &self.options.on_stored {
            on_stored(&Stored { batch: batch.batch, records: batch.count, receipt });
        }
    }

    /// Ends the publisher with this error, which every pending receipt gets.
    pub(super) fn end(&self, error: &Error) {
        let slots = self.update(|queue| queue.end(error));
        slots.into_iter().for_each(|(slot, records)| slot.settle(records, Err(error.clone())));
        self.notify_progress();
    }
}

#[cfg(test)]
mod tests {
    use super::Shared;
    use crate::client::publisher::PublisherOptions;
    use crate::client::publisher::queue::{Limits, Queue, Want};
    use crate::client::{Error, Record};
    use crate::record::TopicName;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Poll, Wake, Waker};

    const LIMITS: Limits =
        Limits { records_per_batch: 3, bytes_per_batch: 100, batches_max: 8, bytes_max: 4000 };

    fn shared() -> Shared {
        let topic = TopicName::parse("orders").unwrap();
        Shared::new(topic, "prefix".to_owned(), PublisherOptions::default(), Queue::new(LIMITS))
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    proptest! {
        /// A task that waits for something to send and has not been woken has nothing to send.
        #[test]
        fn every_change_that_gives_the_sender_something_to_do_wakes_it(
            steps in proptest::collection::vec(0..7_u8, 1..100),
        ) {
            let (shared, woken) = (shared(), Arc::new(Count::default()));
            let waker = Waker::from(Arc::clone(&woken));
            let (mut waits_since, mut next_number) = (None, 1);
            let mut call = shared.lock().begin_call();
            for step in steps {
                match step {
                    0 => {
                        shared.update(|queue| {
                            if queue.has_room() {
                                queue.push(&Record::new("x"), Want::Nothing);
                            }
                        });
                    }
                    // As the request stream does: take everything, or wait.
                    1 | 2 => {
                        let mut queue = shared.lock();
                        while queue.take().is_some() {}
                        if !queue.half_close {
                            queue.sender = Some(waker.clone());
                            waits_since = Some(woken.0.load(Ordering::Relaxed));
                        }
                    }
                    3 => {
                        let settled = shared.update(|queue| queue.acknowledge(next_number));
                        next_number += u64::from(settled.is_some());
                    }
                    4 => shared.update(|queue| queue.half_close = true),
                    5 => {
                        shared.end_call();
                        call = shared.lock().begin_call();
                        next_number = 1;
                    }
                    _ => shared.end(&Error::transport("gone")),
                }
                let queue = shared.lock();
                if waits_since.is_some_and(|before| woken.0.load(Ordering::Relaxed) == before) {
                    prop_assert!(!queue.has_work() && !queue.half_close && queue.call == call);
                }
            }
        }
    }

    #[tokio::test]
    async fn progress_between_the_check_and_the_wait_is_noticed() {
        let shared = shared();
        let mut checks = 0;
        let wait = shared.until(|_| {
            checks += 1;
            match checks {
                1 => {
                    shared.notify_progress();
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        });
        wait.await;
        assert_eq!(checks, 2);
    }

    #[tokio::test]
    async fn a_publish_between_calls_wakes_the_driver() {
        let shared = shared();
        let mut work = Box::pin(shared.wait_for_work());
        assert!(futures_util::poll!(&mut work).is_pending());
        shared.push(|queue| queue.push(&Record::new("x"), Want::Nothing)).await.unwrap();
        assert!(work.await);
    }
}
