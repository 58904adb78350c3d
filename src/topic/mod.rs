//! Topics as calls use them: publishing within a budget of bytes, and the subscription loop.

mod admission;
mod connection;
mod delivery;
mod error;
mod limit;
mod publisher;
mod restore;
mod send_budget;
mod shutdown;
mod start;
mod subscription;
#[cfg(test)]
mod tests;
mod timers;
mod topics;

pub use admission::{Admission, Permit};
pub use connection::Connection;
pub use delivery::{Delivery, Notice};
pub use error::{Error, ban_seconds};
pub use limit::ReadLimit;
pub use publisher::{Publisher, admit, publish};
pub use restore::store_restored;
pub use send_budget::{FRAME_MAX, Pieces, ReceiptBudget, Remainder, SendBudget, StoredRange, UnreadFrames};
pub use shutdown::{Cause, ShutdownSignal};
pub use start::{From, Missing, OutOfRange, Subscribe, resolve_from};
pub use subscription::Subscription;
pub use topics::{Obtained, Topics};
