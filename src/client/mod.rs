//! The client: publishers that batch and pipeline, subscribers that resume after a failure, consumers that share the
//! records of a topic, and administration of topics and groups.
//!
//! ```no_run
//! # async fn example() -> Result<(), streamway::client::Error> {
//! use streamway::client::{Client, Options, PublisherOptions, Record, SubscriberOptions};
//! let client = Client::new(Options::new("http://127.0.0.1:50051"))?;
//! let publisher = client.publisher("orders", PublisherOptions::default())?;
//! let receipt = publisher.publish(&Record::new("a record")).await?.await?;
//! let mut orders = client.subscribe(SubscriberOptions::from_earliest("orders"));
//! while let Some(delivery) = orders.next().await {
//!     for record in delivery?.records() {
//!         println!("{}", record?.offset);
//!     }
//! }
//! # Ok(()) }
//! ```

mod compression;
mod connector;
mod consumer;
mod damaged;
mod display;
mod error;
mod groups;
mod interceptor;
mod operator;
mod options;
mod printable;
mod publisher;
mod retry;
mod server;
mod status;
mod subscriber;
mod tls;
mod token;
mod topics;

pub use crate::record::{Headers, Record, RecordRef};
pub use compression::Compression;
use connector::Connector;
pub use consumer::{Consumer, ConsumerOptions, Handled, Received, Rejection, Summary};
pub use error::{Error, Origin};
pub use groups::Groups;
pub use operator::Operator;
pub use options::Options;
pub(crate) use printable::{is_control, printable};
pub(crate) use publisher::Encoded;
pub use publisher::{Acknowledgement, OnStored, Publisher, PublisherOptions, Stored};
pub use retry::RetryPolicy;
pub(crate) use server::{has_invalid_port, split_user};
pub use subscriber::{Delivery, Start, Subscriber, SubscriberOptions};
pub use tls::TlsOptions;
pub use token::Token;
pub use topics::Topics;

/// A client of one server, or of several that serve the same topics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Connector);

impl Client {
    /// A client of these servers. It reads the files named in the options, and connects when it is first used.
    ///
    /// # Errors
    /// No server is named, an address is not of the form `http://host:port`, a file cannot be used, or a token would
    /// be sent in plaintext.
    pub fn new(options: Options) -> Result<Self, Error> {
        Connector::new(options).map(Self)
    }

    /// A publisher to a topic.
    ///
    /// # Errors
    /// The name of the topic or an option is invalid.
    pub fn publisher(&self, topic: &str, options: PublisherOptions) -> Result<Publisher, Error> {
        Publisher::start(self.0.clone(), topic, options)
    }

    /// A subscription. It starts when it is first asked for a delivery.
    #[must_use]
    pub fn subscribe(&self, options: SubscriberOptions) -> Subscriber {
        Subscriber::new(self.0.clone(), options)
    }

    /// A member of a group, which handles the records that it is leased. See [`Consumer::run`].
    ///
    /// # Errors
    /// An option is invalid.
    pub fn consumer(&self, options: ConsumerOptions) -> Result<Consumer, Error> {
        Consumer::new(self.0.clone(), options)
    }

    /// Administration of groups.
    #[must_use]
    pub fn groups(&self) -> Groups {
        Groups::new(self.0.clone())
    }

    /// Administration of the clients of a server; of the first one, if there are several.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(self.0.clone())
    }

    /// Administration of topics.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::new(self.0.clone())
    }
}
