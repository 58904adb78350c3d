//! Publishing to one topic: records are gathered into batches, batches go out pipelined over one
//! Exchange, and what was not acknowledged when a connection broke goes out again, in order and
//! under the same `request_id`, so that nothing is lost or stored twice (P5).
//! Never: holds more than its bounds; who publishes faster than the server stores waits.

mod ack;
mod driver;
mod queue;

pub use ack::Acknowledgement;
pub(crate) use queue::Encoded;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::Code;

use super::connect::Client;
use super::error::Error;
use super::record::Record;
use super::retry::RetryPolicy;
use crate::record::{Receipt, RequestId, TopicName};
use queue::{Limits, Queue, Settled, Want};

/// One batch that became durable.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Its place in the sequence of this publisher's batches, from 0.
    pub batch: u64,
    /// How many records it holds.
    pub records: u32,
    /// Its receipt.
    pub receipt: Receipt,
}

/// Called for every batch that became durable, in order, from the publisher's task: be quick.
pub type OnStored = Arc<dyn Fn(&Stored) + Send + Sync>;

/// How to publish.
#[derive(Clone)]
pub struct PublisherOptions {
    /// Most records gathered into one batch; the server's limit is 1000 unless configured otherwise.
    pub records_per_batch: u32,
    /// Most bytes of records gathered into one batch; a larger record goes alone.
    pub bytes_per_batch: usize,
    /// Most batches not acknowledged yet; who publishes more waits.
    pub window: u32,
    /// Most bytes not acknowledged yet; who publishes more waits.
    pub bytes_max: usize,
    /// Whether batches carry a `request_id`. Without one a broken connection fails what was sent
    /// and not acknowledged, as it must not be sent twice.
    pub idempotent: bool,
    /// How patiently a broken connection is mended.
    pub retry: RetryPolicy,
    /// Told of every batch that became durable.
    pub on_stored: Option<OnStored>,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            records_per_batch: 1000,
            bytes_per_batch: 256 << 10,
            window: 4096,
            bytes_max: 32 << 20,
            idempotent: true,
            retry: RetryPolicy::default(),
            on_stored: None,
        }
    }
}

impl fmt::Debug for PublisherOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherOptions")
            .field("records_per_batch", &self.records_per_batch)
            .field("window", &self.window)
            .field("idempotent", &self.idempotent)
            .finish_non_exhaustive()
    }
}

/// Longest wait for the server's last word on a call that has nothing pending.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes to one topic. Share it by reference or in an `Arc`; records of one task keep their order.
///
/// An error that repeating cannot mend ends the publisher: what was pending and whatever is
/// published later gets that error. Dropping it gives up what is not acknowledged; see [`Self::close`].
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(client: Client, topic: &str, options: PublisherOptions) -> Result<Self, Error> {
        let invalid = |message: &str| Error::local(Code::InvalidArgument, message);
        let topic = TopicName::parse(topic).map_err(invalid)?;
        if options.records_per_batch == 0 || options.window == 0 || options.bytes_max == 0 {
            return Err(invalid("records_per_batch, window and bytes_max must be at least 1"));
        }
        let mut prefix = [0_u8; 16];
        getrandom::fill(&mut prefix).map_err(|error| Error::local(Code::Internal, error.to_string()))?;
        let limits = Limits {
            records_per_batch: options.records_per_batch,
            bytes_per_batch: options.bytes_per_batch,
            batches_max: options.window as usize,
            bytes_max: options.bytes_max,
        };
        let shared = Arc::new(Shared {
            topic,
            id_prefix: format!("{:032x}", u128::from_be_bytes(prefix)),
            options,
            queue: Mutex::new(Queue::new(limits)),
            work: Notify::new(),
            moved: Notify::new(),
        });
        let task = tokio::spawn(driver::run(Arc::clone(&shared), client));
        Ok(Self { shared, task })
    }

    /// Takes a record, waiting for room, and returns the future of its receipt.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub async fn publish(&self, record: &Record) -> Result<Acknowledgement, Error> {
        let (slot, index) = self
            .shared
            .taking(|queue| queue.push(record, Want::Receipt).expect("a receipt was asked for"))
            .await?;
        Ok(Acknowledgement::new(slot, index))
    }

    /// Takes a record, waiting for room only. [`Self::flush`] says when it is durable.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub async fn publish_nowait(&self, record: &Record) -> Result<(), Error> {
        self.shared.taking(|queue| queue.push(record, Want::Nothing)).await.map(|_| ())
    }

    /// Takes records as one batch, stored whole or not at all; `request_id` is the caller's own
    /// idempotency key, which survives this process. A key that was stored with other records
    /// ends the publisher with `FailedPrecondition`.
    ///
    /// # Errors
    /// There is no record, the key breaks its rule, or the publisher has failed or was closed.
    pub async fn publish_batch(
        &self,
        records: &[Record],
        request_id: Option<&str>,
    ) -> Result<Acknowledgement, Error> {
        let invalid = |message: &str| Error::local(Code::InvalidArgument, message);
        if let Some(id) = request_id {
            RequestId::parse(id).map_err(invalid)?;
        }
        let count = u32::try_from(records.len()).map_err(|_| invalid("batch holds too many records"))?;
        if count == 0 {
            return Err(invalid("batch is empty"));
        }
        let mut encoded = BytesMut::with_capacity(records.iter().map(Record::field_len).sum());
        records.iter().for_each(|record| record.put_field(&mut encoded));
        let request_id = request_id.map(Box::from);
        let batch = Encoded { records: encoded.freeze(), count, request_id, traceparent: Box::default() };
        self.publish_encoded(batch).await
    }

    /// Takes one batch as a server gave it out, stored whole or not at all.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub(crate) async fn publish_encoded(&self, batch: Encoded) -> Result<Acknowledgement, Error> {
        let mut batch = Some(batch);
        let slot = self.shared.taking(|queue| queue.push_batch(batch.take().expect("taken once"))).await?;
        Ok(Acknowledgement::new(slot, 0))
    }

    /// Waits until everything taken so far is durable.
    ///
    /// # Errors
    /// The publisher failed: some of it may not be.
    pub async fn flush(&self) -> Result<(), Error> {
        let target = self.shared.lock().taken();
        self.shared
            .until(|queue| match &queue.ended {
                Some(error) => Poll::Ready(Err(error.clone())),
                None if queue.acknowledged() >= target => Poll::Ready(Ok(())),
                None => Poll::Pending,
            })
            .await
    }

    /// Flushes and ends the call in good order.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(mut self) -> Result<(), Error> {
        self.flush().await?;
        let sender = {
            let mut queue = self.shared.lock();
            queue.ended.get_or_insert_with(closed);
            queue.half_close = true;
            queue.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        self.shared.work.notify_one();
        // Everything is durable already: a server that does not end the call changes nothing.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut self.task).await;
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end(&closed());
    }
}

fn closed() -> Error {
    Error::local(Code::Cancelled, "the publisher was closed")
}

/// Who must hear that something was queued.
enum Wake {
    /// The transport, which waits for something to send.
    Sender(Waker),
    /// The driver, which holds no call open.
    Driver,
    /// The transport is busy, and asks again by itself.
    Nobody,
}

fn try_take<T>(queue: &mut Queue, take: &mut impl FnMut(&mut Queue) -> T) -> Poll<Result<(T, Wake), Error>> {
    if let Some(error) = &queue.ended {
        return Poll::Ready(Err(error.clone()));
    }
    if !queue.has_room() {
        return Poll::Pending;
    }
    let taken = take(queue);
    let wake = match queue.has_work() {
        false => Wake::Nobody,
        true => match queue.sender.take() {
            Some(sender) => Wake::Sender(sender),
            None if std::mem::take(&mut queue.idle) => Wake::Driver,
            None => Wake::Nobody,
        },
    };
    Poll::Ready(Ok((taken, wake)))
}

/// What the handle and the task share.
#[derive(Debug)]
struct Shared {
    topic: TopicName,
    /// 128 random bits: keys of this publisher are no other's.
    id_prefix: String,
    options: PublisherOptions,
    queue: Mutex<Queue>,
    /// Something was queued, or the publisher closed, while no call was open.
    work: Notify,
    /// Batches were acknowledged, or the publisher ended.
    moved: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request_id(&self, batch: u64) -> Box<str> {
        if self.options.idempotent { format!("{}-{batch}", self.id_prefix).into() } else { Box::default() }
    }

    /// Puts something into the queue as soon as there is room.
    async fn taking<T>(&self, mut take: impl FnMut(&mut Queue) -> T) -> Result<T, Error> {
        let now = try_take(&mut self.lock(), &mut take);
        let (taken, wake) = match now {
            Poll::Ready(taken) => taken?,
            Poll::Pending => self.until(|queue| try_take(queue, &mut take)).await?,
        };
        // The queue is free again by now, for whoever is woken.
        match wake {
            Wake::Sender(sender) => sender.wake(),
            Wake::Driver => self.work.notify_one(),
            Wake::Nobody => {}
        }
        Ok(taken)
    }

    /// Checks now, and again whenever batches were acknowledged.
    async fn until<T>(&self, mut check: impl FnMut(&mut Queue) -> Poll<T>) -> T {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut queue = self.lock();
                if let Poll::Ready(value) = check(&mut queue) {
                    return value;
                }
                queue.awaited = true;
            }
            moved.await;
        }
    }

    /// Resolves once a call is needed; false where none ever will be.
    async fn wait_for_work(&self) -> bool {
        loop {
            {
                let mut queue = self.lock();
                queue.idle = queue.is_empty();
                match (queue.idle, &queue.ended) {
                    (false, _) => return true,
                    (true, Some(_)) => return false,
                    (true, None) => {}
                }
            }
            self.work.notified().await;
        }
    }

    /// The present call is over: what it was to send ends too, so that its server has not to reset it.
    fn end_call(&self) {
        let sender = {
            let mut queue = self.lock();
            let sender = queue.sender.take();
            queue.end_call();
            sender
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    fn is_done(&self) -> bool {
        let queue = self.lock();
        queue.ended.is_some() && queue.is_empty()
    }

    fn settle(&self, batch: &Settled, receipt: Receipt) {
        if let Some(slot) = &batch.slot {
            slot.settle(Ok(receipt));
        }
        if let Some(on_stored) = &self.options.on_stored {
            on_stored(&Stored { batch: batch.batch, records: batch.count, receipt });
        }
    }

    /// Ends the publisher with this error: whoever waits is told.
    fn end(&self, error: &Error) {
        let (slots, sender) = {
            let mut queue = self.lock();
            (queue.end(error), queue.sender.take())
        };
        slots.iter().for_each(|slot| slot.settle(Err(error.clone())));
        if let Some(sender) = sender {
            sender.wake();
        }
        self.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::PublisherOptions;
    use crate::client::{Client, Options, Origin, Record, RetryPolicy};
    use std::time::Duration;

    /// A publisher to a port where nobody listens, which gives up at the first failure.
    fn unreachable() -> super::Publisher {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let retry = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
        let options = PublisherOptions { retry, ..PublisherOptions::default() };
        Client::new(Options::new(address)).unwrap().publisher("orders", options).unwrap()
    }

    #[tokio::test]
    async fn a_failure_reaches_the_receipt_and_every_later_call() {
        let publisher = unreachable();
        let receipt = publisher.publish(&Record::new("x")).await.unwrap();
        assert_eq!(receipt.await.unwrap_err().origin(), Origin::Connect);
        // What failed before the flush began is not durable either.
        assert_eq!(publisher.flush().await.unwrap_err().origin(), Origin::Connect);
        assert_eq!(publisher.publish_nowait(&Record::new("y")).await.unwrap_err().origin(), Origin::Connect);
        assert_eq!(publisher.close().await.unwrap_err().origin(), Origin::Connect);
    }

    #[tokio::test]
    async fn dropping_the_publisher_ends_what_waits_for_it() {
        let publisher = unreachable();
        let receipt = publisher.publish(&Record::new("x")).await.unwrap();
        drop(publisher);
        assert!(receipt.await.is_err());
    }
}
