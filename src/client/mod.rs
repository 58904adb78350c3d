//! The client: publishers that batch and pipeline by themselves, subscribers that resume by
//! themselves, and administration of topics.
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
//! Never: knows the server's insides; it speaks `proto/`, through the unparsed messages of `wire`.

mod compression;
mod connect;
mod error;
mod interceptor;
mod printable;
mod publisher;
mod record;
mod retry;
mod subscriber;
mod tls;
mod token;
mod topics;

pub use compression::Compression;
pub(crate) use connect::names_no_port;
pub use connect::{Client, Options};
pub use error::{Error, Origin};
pub(crate) use printable::{is_obeyed, printable};
pub(crate) use publisher::Encoded;
pub use publisher::{Acknowledgement, OnStored, Publisher, PublisherOptions, Stored};
pub use record::{Headers, Record, RecordRef};
pub use retry::RetryPolicy;
pub use subscriber::{Delivery, Start, Subscriber, SubscriberOptions};
pub use tls::TlsOptions;
pub use token::Token;
pub use topics::Topics;
