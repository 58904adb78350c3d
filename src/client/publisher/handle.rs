//! The publisher as the application uses it.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinHandle;
use tonic::Code;

use super::ack::Acknowledgement;
use super::driver;
use super::options::PublisherOptions;
use super::queue::{Encoded, Limits, Queue, Want};
use super::shared::Shared;
use crate::client::connector::Connector;
use crate::client::error::Error;
use crate::record::Record;
use crate::record::{RequestId, TopicName};

/// Time limit for the server to end a call on which nothing is pending.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest size of a batch that fits into a gRPC message of 4 MiB, the default limit of servers, with all that is around
/// it.
const MESSAGE_BYTES: usize = (4 << 20) - (64 << 10);

/// A publisher to one topic. Share it by reference or in an `Arc`; records of one task keep their order.
///
/// An error that is not retryable ends the publisher: pending batches and everything published later get that error.
/// Dropping the publisher abandons what is not acknowledged; see [`Self::close`].
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Publisher {
    pub(crate) fn start(connector: Connector, topic: &str, options: PublisherOptions) -> Result<Self, Error> {
        let invalid = |message: &str| Error::local(Code::InvalidArgument, message);
        let topic = TopicName::parse(topic).map_err(invalid)?;
        if options.records_per_batch == 0 || options.window == 0 || options.bytes_max == 0 {
            return Err(invalid("records_per_batch, window and bytes_max must be at least 1"));
        }
        let mut prefix = [0_u8; 16];
        getrandom::fill(&mut prefix).map_err(|error| Error::local(Code::Internal, error.to_string()))?;
        let limits = Limits {
            records_per_batch: options.records_per_batch,
            bytes_per_batch: options.bytes_per_batch.min(MESSAGE_BYTES),
            batches_max: options.window as usize,
            bytes_max: options.bytes_max,
        };
        let id_prefix = format!("{:032x}", u128::from_be_bytes(prefix));
        let shared = Arc::new(Shared::new(topic, id_prefix, options, Queue::new(limits)));
        let task = tokio::spawn(driver::run(Arc::clone(&shared), connector));
        Ok(Self { shared, task })
    }

    /// Queues a record, waiting for room, and returns a future of its receipt.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub async fn publish(&self, record: &Record) -> Result<Acknowledgement, Error> {
        let push = |queue: &mut Queue| queue.push(record, Want::Receipt).expect("a receipt was asked for");
        let (slot, index) = self.shared.push(push).await?;
        Ok(Acknowledgement::new(slot, index))
    }

    /// Queues a record, waiting for room. [`Self::flush`] waits until it is durable.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub async fn publish_nowait(&self, record: &Record) -> Result<(), Error> {
        self.shared.push(|queue| queue.push(record, Want::Nothing)).await.map(|_| ())
    }

    /// Queues records as one batch, which is stored whole or not at all. `request_id` is the caller's own idempotency
    /// key, which may be repeated by another process. A key that was used with other records ends the publisher with
    /// `FailedPrecondition`.
    ///
    /// # Errors
    /// There is no record, the key is invalid, or the publisher has failed or was closed.
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

    /// Queues one batch in the encoding in which a server delivered it. It is stored whole or not at all.
    ///
    /// # Errors
    /// The publisher has failed or was closed.
    pub(crate) async fn publish_encoded(&self, batch: Encoded) -> Result<Acknowledgement, Error> {
        let mut batch = Some(batch);
        let slot = self.shared.push(|queue| queue.push_batch(batch.take().expect("pushed once"))).await?;
        Ok(Acknowledgement::new(slot, 0))
    }

    /// Waits until everything queued so far is durable.
    ///
    /// # Errors
    /// The publisher failed: some of it may not be durable.
    pub async fn flush(&self) -> Result<(), Error> {
        let target = self.shared.lock().queued();
        self.shared
            .until(|queue| match &queue.ended {
                Some(error) => Poll::Ready(Err(error.clone())),
                None if queue.acknowledged() >= target => Poll::Ready(Ok(())),
                None => Poll::Pending,
            })
            .await
    }

    /// Flushes, and ends the call.
    ///
    /// # Errors
    /// The same as [`Self::flush`].
    pub async fn close(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.shared.update(|queue| {
            queue.ended.get_or_insert_with(closed);
            queue.half_close = true;
        });
        // Everything is durable already, so it does not matter if the server does not end the call.
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

#[cfg(test)]
mod tests {
    use crate::client::publisher::PublisherOptions;
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
        // A flush that begins after the failure fails too.
        assert_eq!(publisher.flush().await.unwrap_err().origin(), Origin::Connect);
        assert_eq!(publisher.publish_nowait(&Record::new("y")).await.unwrap_err().origin(), Origin::Connect);
        assert_eq!(publisher.close().await.unwrap_err().origin(), Origin::Connect);
    }

    #[tokio::test]
    async fn dropping_the_publisher_fails_pending_receipts() {
        let publisher = unreachable();
        let receipt = publisher.publish(&Record::new("x")).await.unwrap();
        drop(publisher);
        assert!(receipt.await.is_err());
    }
}
