//! Messages between the replicas of a fleet, for parts above the engine: over core NATS, on the engine's connection. A
//! message may be lost or late; those from one sender to one address stay in order.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use super::nats::unavailable;
use crate::storage::Error;

/// First token of every address. No subject of a topic begins with it, see [`super::names::subject`].
const PREFIX: &str = "streamway_replicas.";

/// Sender and receiver of messages. Clones share the connection.
#[derive(Clone, Debug)]
pub struct ReplicaBus(Client);

/// Receiver of the messages to one address, until it is dropped.
#[derive(Debug)]
pub struct Inbox(Subscriber);

/// A message that arrived.
#[derive(Debug)]
pub struct Arrived {
    /// Content of the message.
    pub message: Bytes,
    /// True if it is the report that a message to another address was not delivered, because nobody listens there.
    pub is_undelivered: bool,
    /// Address of the answer, if the sender waits for one.
    reply: Option<async_nats::Subject>,
}

impl ReplicaBus {
    pub(super) const fn new(client: Client) -> Self {
        Self(client)
    }

    /// Receives messages to an address, which must be one token of a subject. Messages sent after this returned arrive.
    ///
    /// # Errors
    /// There is no connection to NATS.
    pub async fn listen(&self, address: &str) -> Result<Inbox, Error> {
        let subscriber = self.0.subscribe(format!("{PREFIX}{address}")).await.map_err(unavailable)?;
        self.0.flush().await.map_err(unavailable)?;
        Ok(Inbox(subscriber))
    }

    /// Sends a message. `from` gets a report if nobody listens at the address.
    ///
    /// # Errors
    /// The client is closed, or the message is larger than NATS takes.
    pub async fn send(&self, address: &str, from: &str, message: Bytes) -> Result<(), Error> {
        let (to, from) = (format!("{PREFIX}{address}"), format!("{PREFIX}{from}"));
        self.0.publish_with_reply(to, from, message).await.map_err(unavailable)
    }

    /// Sends a message and waits for the answer. None if nobody listens at the address.
    ///
    /// # Errors
    /// There is no answer in time.
    pub async fn ask(
        &self,
        address: &str,
        message: Bytes,
        patience: Duration,
    ) -> Result<Option<Bytes>, Error> {
        let request = async_nats::Request::new().payload(message).timeout(Some(patience));
        match self.0.send_request(format!("{PREFIX}{address}"), request).await {
            Ok(answer) => Ok(Some(answer.payload)),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Answers a message whose sender waits.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn answer(&self, arrived: Arrived, message: Bytes) -> Result<(), Error> {
        let Some(reply) = arrived.reply else { return Ok(()) };
        self.0.publish(reply, message).await.map_err(unavailable)
    }
}

impl Inbox {
    /// Waits for the next message. None once the client is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arrived> {
        let message = self.0.next().await?;
        let is_undelivered = message.status == Some(StatusCode::NO_RESPONDERS);
        Some(Arrived { message: message.payload, is_undelivered, reply: message.reply })
    }
}
