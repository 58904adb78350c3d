//! Publishing to one topic. Records are gathered into batches, and batches are pipelined over one Exchange call. What
//! was not acknowledged when a connection broke is sent again, in order and with the same `request_id`, so that
//! nothing is lost or stored twice (P5).

mod ack;
mod driver;
mod handle;
mod options;
mod queue;
mod receipts;
mod requests;
mod shared;
mod split;

pub use ack::Acknowledgement;
pub use handle::Publisher;
pub use options::{OnStored, PublisherOptions, Stored};
pub(crate) use queue::Encoded;
