//! Topics as calls use them: publishing with a budget of bytes, and the one subscription loop.
//! Never: knows gRPC, the messages of clients, or how an engine stores.

mod admission;
mod connection;
mod error;
mod limit;
mod publisher;
mod send_budget;
mod shutdown;
mod start;
mod subscription;
#[cfg(test)]
mod tests;
mod topics;

pub use admission::{Admission, Permit};
pub use connection::Connection;
pub use error::Error;
pub use limit::ReadLimit;
pub use publisher::{Publisher, publish};
pub use send_budget::{FRAME_MAX, Pieces, ReceiptBudget, Remainder, SendBudget, StoredRange, UnreadFrames};
pub use shutdown::{Cause, ShutdownSignal};
pub use start::{From, OutOfRange, Subscribe};
pub use subscription::{Delivery, Notice, Subscription};
pub use topics::Topics;
